// A Redis that is killed and starts again from an older snapshot (dump.rdb), while two replicas use it: no user is logged out, no
// revoked session comes back, no limit is lifted, and no request fails.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { ADMIN, createRegistry, startService, type TestService, type TestTenant } from '../support/app.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { noRedis, redisNote, startRedis, type RedisServer } from '../support/redis.js';

const SOON = { timeout: 30_000, interval: 20 };

/** "Within a second", plus a margin for the machine. */
const PROMISE = { timeout: 1_500, interval: 20 };

/** Requests a minute from one address. */
const LIMIT = 100;
/** Excess over the limit, as docs/reference/limits.md states it for two replicas. */
const EXCESS = 2 * Math.max(1, Math.floor((LIMIT * 0.05) / 2)) - 1;
/** The refill in a time (ms). */
const grownIn = (time: number): number => Math.ceil((time * LIMIT) / 60_000);

/** Failed sign-ins to one account without a wait. */
const FREE = 6;

describe.skipIf(noRedis !== undefined)(`a Redis that starts again from an older snapshot${redisNote}`, () => {
  let redis: RedisServer;
  let proxies: readonly [Proxy, Proxy];
  let registry: string;
  let replicas: readonly [TestService, TestService];
  let tenant: TestTenant;
  let addresses = 0;
  let users = 0;

  beforeAll(async () => {
    redis = await startRedis();
    proxies = [await startProxy(redis), await startProxy(redis)];
    registry = await createRegistry();
    replicas = [await start(proxies[0], true), await start(proxies[1], false)];
    tenant = await replicas[0].createTenant();
  });
  afterAll(async () => {
    for (const replica of replicas) await replica.close();
    for (const proxy of proxies) await proxy.close();
    await redis.close();
  });

  const start = ({ host, port }: Proxy, operator: boolean): Promise<TestService> =>
    startService({
      registry,
      operator,
      env: {
        REDIS_URL: `redis://:${redis.password}@${host}:${port}`,
        RATE_LIMIT_MAX: String(LIMIT),
        USER_RATE_LIMIT_MAX: '1000000',
        // This process runs both replicas and the proxies: many requests at once would themselves make Redis late.
        REDIS_TIMEOUT_MS: '2000',
        SIGN_IN_FAILURES_ACCOUNT: String(FREE),
      },
    });
  const available = (): boolean[] => replicas.map(({ app }) => app.engine.sharedStore?.available === true);

  /** Waits until both use Redis, know of each other, and have sent again what Redis had lost. */
  async function together(): Promise<void> {
    const well = (): boolean =>
      replicas.every(
        ({ app }) =>
          app.engine.sharedStore?.available === true && app.engine.events.live && app.engine.counts.replicas === 2,
      );
    await expect.poll(well, SOON).toBe(true);
    await sleep(1_800);
    await expect.poll(well, SOON).toBe(true);
  }

  /** Kills Redis and starts it from its last SAVE. `restored` runs before a replica can reach it. */
  async function goBack(restored: () => Promise<void>): Promise<void> {
    await redis.kill();
    await expect.poll(available, SOON).toEqual([false, false]);
    for (const proxy of proxies) proxy.mode = 'refuse';
    await redis.start();
    await restored();
    for (const proxy of proxies) proxy.mode = 'pass';
  }

  const newAddress = (): string => `10.1.${Math.floor((addresses += 1) / 250)}.${(addresses % 250) + 1}`;
  const statusOf = async (
    { app }: TestService,
    url: string,
    { token, address = newAddress(), body }: { token?: string; address?: string; body?: object },
  ): Promise<number> => {
    const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
    const method = body ? 'POST' : 'GET';
    return (await app.inject({ method, url, remoteAddress: address, headers, ...(body && { payload: body }) }))
      .statusCode;
  };
  const me = (replica: TestService, token: string): Promise<number> => statusOf(replica, '/auth/me', { token });
  const both = (token: string): Promise<number[]> => Promise.all(replicas.map((replica) => me(replica, token)));
  const newUser = (): Promise<{ token: string }> => replicas[0].createUser(tenant, `user-${(users += 1)}@example.com`);

  /** Sends requests with the token to both replicas until it is stopped; then every answer must have been `status`. */
  function expectAlways(status: number, token: string): () => Promise<void> {
    const others: number[] = [];
    let count = 0;
    let over = false;
    const asking = replicas.map(async (replica) => {
      for (; !over; count += 1) {
        const answer = await me(replica, token);
        if (answer !== status) others.push(answer);
        await sleep(5);
      }
    });
    const stop = async (): Promise<void> => {
      over = true;
      await Promise.all(asking);
    };
    onTestFinished(stop);
    return async () => {
      await stop();
      expect(others).toEqual([]);
      expect(count).toBeGreaterThan(20);
    };
  }

  it('has all failed sign-ins again that the replicas counted', async () => {
    await together();
    const body = { tenant: tenant.slug, email: ADMIN.email, password: 'not-the-password' };
    /** Returns how many attempts, on the replicas in turns, reached the check of the password. */
    async function fail(times: number): Promise<number> {
      let through = 0;
      for (let turn = 0; turn < times; turn += 1) {
        const replica = replicas[turn % 2] ?? expect.unreachable();
        const status = await statusOf(replica, '/auth/login', { body });
        expect([401, 429]).toContain(status);
        if (status === 401) through += 1;
      }
      return through;
    }
    /**
     * The account's failures, as they count for the wait; no budget exceeds the account. A partly expired failure counts as a
     * whole.
     */
    async function known(): Promise<number> {
      const keys = (await redis.command('KEYS', 'tenantry:*:attempts:*')) as string[];
      const counts = await Promise.all(keys.map((key) => redis.command('HGET', key, 'failures')));
      return Math.max(...counts.map((count) => Math.ceil(Number(count))));
    }
    expect(await fail(2)).toBe(2);
    await redis.command('SAVE');
    expect(await fail(FREE - 2)).toBe(FREE - 2);
    expect(await known()).toBe(FREE);
    const check = expectAlways(200, tenant.adminToken);
    await goBack(async () => {
      // Each replica has its part of the free failures: there are twice as many failures.
      expect(await fail(4)).toBe(0);
      expect(await known()).toBe(2);
    });
    await expect.poll(available, SOON).toEqual([true, true]);
    // The wait after the last failure may be over; the wait after the next is 2 s.
    expect(await fail(8)).toBeLessThanOrEqual(1);
    await expect.poll(known, SOON).toBeGreaterThanOrEqual(FREE);
    await check();
  });

  it('lifts no limit that was used up after the snapshot', async () => {
    await together();
    const [usedOnBoth, usedOnOne] = [newAddress(), newAddress()];
    /** Returns how many requests from the address were let through, on the replicas in turns. */
    async function through(times: number, address: string, on: readonly TestService[] = replicas): Promise<number> {
      const answers = await Promise.all(
        Array.from({ length: times }, (_, turn) =>
          statusOf(on[turn % on.length] ?? expect.unreachable(), '/nothing', { address }),
        ),
      );
      for (const status of answers) expect([401, 404, 429]).toContain(status);
      return answers.filter((status) => status !== 429).length;
    }
    const left = async (address: string): Promise<number> => {
      const [key = ''] = (await redis.command('KEYS', `tenantry:*:counts:address:${address}`)) as string[];
      return Number(await redis.command('HGET', key, 'left'));
    };
    const began = performance.now();
    let count = await through(20, usedOnBoth);
    let onOne = await through(20, usedOnOne, [replicas[0]]);
    for (const address of [usedOnBoth, usedOnOne])
      await expect.poll(() => left(address), SOON).toBeLessThan(LIMIT - 15);
    await redis.command('SAVE');
    for (let round = 0; round < 20 && count < LIMIT; round += 1) count += await through(60, usedOnBoth);
    for (let round = 0; round < 20 && onOne < LIMIT; round += 1) onOne += await through(60, usedOnOne, [replicas[0]]);
    expect(count).toBeGreaterThanOrEqual(LIMIT);
    expect(onOne).toBeGreaterThanOrEqual(LIMIT);
    for (const address of [usedOnBoth, usedOnOne]) await expect.poll(() => left(address), SOON).toBeLessThan(10);

    const check = expectAlways(200, tenant.adminToken);
    await goBack(async () => {
      for (const address of [usedOnBoth, usedOnOne]) expect(await left(address)).toBeGreaterThan(LIMIT / 2);
      count += await through(40, usedOnBoth);
    });
    const wait = { over: false };
    const settled = together().finally(() => (wait.over = true));
    while (!wait.over) {
      count += await through(40, usedOnBoth);
      onOne += await through(40, usedOnOne);
      await sleep(50);
    }
    await settled;
    count += await through(200, usedOnBoth);
    onOne += await through(200, usedOnOne);
    const grown = grownIn(performance.now() - began);
    expect(count).toBeLessThanOrEqual(LIMIT + EXCESS + grown);
    // The other replica did not know of these: until it is notified, it has its part.
    expect(onOne).toBeLessThanOrEqual(LIMIT * 1.5 + EXCESS + grown);
    await check();
  });

  it('logs out no user, and revives no revoked session on any replica, not even on a replica that starts then', async () => {
    await together();
    const [home, far] = replicas;
    const [kept, revoked, unknown] = [await newUser(), await newUser(), await newUser()];
    const stored = async (): Promise<string[]> =>
      (await redis.command('KEYS', `tenantry:*:session:${tenant.id}:*`)) as string[];
    const before = new Set(await stored());
    const added = async (): Promise<string[]> => (await stored()).filter((key) => !before.has(key));
    expect(await both(kept.token)).toEqual([200, 200]);
    expect(await both(revoked.token)).toEqual([200, 200]);
    // The second replica does not look this session up before the snapshot is back.
    expect(await me(home, unknown.token)).toBe(200);
    await expect.poll(added, SOON).toHaveLength(3);
    const keys = await added();
    await redis.command('SAVE');

    const fresh = await newUser();
    for (const { token } of [revoked, unknown])
      expect(await statusOf(home, '/auth/logout', { token, body: {} })).toBe(204);
    await expect.poll(() => both(revoked.token), PROMISE).toEqual([401, 401]);
    const always = [
      expectAlways(200, kept.token),
      expectAlways(200, fresh.token),
      expectAlways(200, tenant.adminToken),
      expectAlways(401, revoked.token),
    ];
    await goBack(async () => {
      expect(await stored()).toEqual(expect.arrayContaining(keys));
    });
    await expect.poll(available, SOON).toEqual([true, true]);
    expect(await me(far, unknown.token)).toBe(401);
    expect(await both(unknown.token)).toEqual([401, 401]);
    // The other replicas count this one for another 15 s: no test about limits may follow.
    const late = await start(proxies[1], false);
    onTestFinished(() => late.close());
    await expect.poll(() => late.app.engine.events.live && late.app.engine.sharedStore?.available, SOON).toBe(true);
    expect(await me(late, revoked.token)).toBe(401);
    expect(await me(late, unknown.token)).toBe(401);
    expect(await me(late, kept.token)).toBe(200);
    expect(await me(late, fresh.token)).toBe(200);
    for (const check of always) await check();
  });
});
