// Two replicas as separate processes on one Redis, each behind its own proxy. They count together and know of each other's
// logouts: while Redis is well, when one replica is cut from it, and when it is back without its data.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { ADMIN, createRegistry, OPERATOR, urlOf } from '../support/app.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { noRedis, redisNote, startRedis, type RedisServer } from '../support/redis.js';
import { build, makeDataDir, startProcess, type ServiceProcess } from '../support/service-process.js';

const SOON = { timeout: 30_000, interval: 50 };

/** "Within a second", plus a margin for the machine. */
const PROMISE = { timeout: 1_500, interval: 20 };

/** Requests at a time. Many more would make Redis late, because this process also runs the proxies. */
const CLIENTS = 12;

/** Requests a minute from one address. */
const LIMIT = 100;
/** Excess over the limit, as docs/reference/limits.md states it for two replicas. */
const EXCESS = 2 * Math.max(1, Math.floor((LIMIT * 0.05) / 2)) - 1;
const grownSince = (time: number): number => Math.ceil(((performance.now() - time) * LIMIT) / 60_000);

describe.skipIf(noRedis !== undefined)(`two processes on one Redis${redisNote}`, () => {
  let redis: RedisServer;
  let proxies: readonly [Proxy, Proxy];
  let replicas: readonly [ServiceProcess, ServiceProcess];
  let operatorToken: string;
  let addresses = 0;
  const cleanup: (() => Promise<unknown>)[] = [];

  beforeAll(async () => {
    await build();
    const data = await makeDataDir();
    cleanup.push(() => data.remove());
    redis = await startRedis();
    cleanup.push(() => redis.close());
    proxies = [await startProxy(redis), await startProxy(redis)];
    cleanup.push(...proxies.map((proxy) => () => proxy.close()));
    const { superuser, registryOwner, provisioner } = inject('cluster');
    const env = {
      DATABASE_URL: urlOf({ ...superuser, ...registryOwner, database: await createRegistry() }),
      TENANT_DATABASE_URL: urlOf(provisioner),
      DATA_DIR: data.dir,
      OPERATOR_EMAIL: OPERATOR.email,
      OPERATOR_PASSWORD: OPERATOR.password,
      TRUST_PROXY: '127.0.0.1',
      RATE_LIMIT_MAX: String(LIMIT),
      USER_RATE_LIMIT_MAX: '1000000',
      STANDBY_DATABASES: '0',
      REDIS_TIMEOUT_MS: '2000',
    };
    const start = async ({ host, port }: Proxy): Promise<ServiceProcess> => {
      const replica = await startProcess({ ...env, REDIS_URL: `redis://:${redis.password}@${host}:${port}` });
      cleanup.push(() => {
        replica.signal('SIGTERM');
        return replica.exited;
      });
      return replica;
    };
    // One after the other: the first makes the secrets that both use.
    replicas = [await start(proxies[0]), await start(proxies[1])];
    const [first] = replicas;
    operatorToken = (await call(first, '/auth/operator/login', { body: OPERATOR })).body.accessToken ?? '';
    const tenant = { name: 'Shared', slug: 'shared', admin: ADMIN };
    expect((await call(first, '/tenants', { body: tenant, token: operatorToken })).status).toBe(201);
  }, 120_000);
  // Also after a failed start.
  afterAll(async () => {
    for (const close of cleanup.reverse()) await close();
  });

  const newAddress = (): string => `10.1.${Math.floor((addresses += 1) / 250)}.${(addresses % 250) + 1}`;

  /** Sends a request from a new address, or from the given one. No answer may be 5xx. */
  async function call(
    { url }: ServiceProcess,
    route: string,
    { token, address = newAddress(), body }: { token?: string; address?: string; body?: object } = {},
  ): Promise<{ status: number; body: Body }> {
    const answer = await fetch(`${url}${route}`, {
      method: body ? 'POST' : 'GET',
      headers: {
        'x-forwarded-for': address,
        ...(body && { 'content-type': 'application/json' }),
        ...(token !== undefined && { authorization: `Bearer ${token}` }),
      },
      ...(body && { body: JSON.stringify(body) }),
    });
    const text = await answer.text();
    expect(answer.status, text).toBeLessThan(500);
    return { status: answer.status, body: text === '' ? {} : (JSON.parse(text) as Body) };
  }

  const redisOf = async (replica: ServiceProcess): Promise<Redis> =>
    (await call(replica, '/pools?limit=1', { token: operatorToken })).body.redis ?? expect.unreachable();
  const available = (): Promise<boolean[]> =>
    Promise.all(replicas.map(async (replica) => (await redisOf(replica)).available));

  /** Waits until both use Redis, know of each other, and have sent again what Redis had lost. */
  async function together(): Promise<void> {
    const long = async (): Promise<boolean> => {
      const states = await Promise.all(replicas.map(redisOf));
      return states.every((state) => state.available && state.since > 1_800);
    };
    await expect.poll(long, SOON).toBe(true);
    const [key = ''] = (await redis.command('KEYS', 'tenantry:*:counts:replicas')) as string[];
    expect(await redis.command('ZCARD', key)).toBe(2);
  }

  /** Returns how many requests from an address were let through, on the replicas in turns. */
  async function through(times: number, address: string, on: readonly ServiceProcess[] = replicas): Promise<number> {
    let count = 0;
    let turn = 0;
    const clients = Array.from({ length: CLIENTS }, async () => {
      while (turn < times) {
        const replica = on[turn++ % on.length] ?? expect.unreachable();
        if ((await call(replica, '/nothing', { address })).status !== 429) count += 1;
      }
    });
    await Promise.all(clients);
    return count;
  }
  /** Sends until the limit is reached, and some more. */
  async function flood(address: string, limit: number, on?: readonly ServiceProcess[]): Promise<number> {
    let count = 0;
    for (let round = 0; round < 5 && count < limit; round += 1) count += await through(150, address, on);
    return count + (await through(100, address, on));
  }

  async function signIn(replica: ServiceProcess): Promise<string> {
    const { email, password } = ADMIN;
    const { status, body } = await call(replica, '/auth/login', { body: { tenant: 'shared', email, password } });
    expect(status).toBe(200);
    return body.accessToken ?? '';
  }
  const both = (token: string): Promise<number[]> =>
    Promise.all(replicas.map(async (replica) => (await call(replica, '/auth/me', { token })).status));
  /** Ends a session that both replicas know on the first. Both must refuse it within a second. */
  async function endOn(first: ServiceProcess): Promise<string> {
    const token = await signIn(first);
    expect(await both(token)).toEqual([200, 200]);
    expect((await call(first, '/auth/logout', { token, body: {} })).status).toBe(204);
    await expect.poll(() => both(token), PROMISE).toEqual([401, 401]);
    return token;
  }

  it('together admit the limit of requests from one address, and the documented excess at most', async () => {
    await together();
    const began = performance.now();
    const count = await flood(newAddress(), LIMIT);
    expect(count).toBeGreaterThanOrEqual(LIMIT);
    expect(count).toBeLessThanOrEqual(LIMIT + EXCESS + grownSince(began));
  });

  it('both refuse a session that was ended on either of them', async () => {
    for (const replica of replicas) await endOn(replica);
  });

  it('continue when one is cut off from Redis: this replica with its part, the other as before', async () => {
    await together();
    const [untouched, cut] = replicas;
    const began = performance.now();
    proxies[1].mode = 'hang';
    onTestFinished(() => {
      proxies[1].mode = 'pass';
    });
    await expect.poll(available, SOON).toEqual([true, false]);

    const alone = await flood(newAddress(), LIMIT / 2, [cut]);
    expect(alone).toBeGreaterThanOrEqual(LIMIT / 2);
    expect(alone).toBeLessThanOrEqual(LIMIT / 2 + grownSince(began));
    const whole = await flood(newAddress(), LIMIT, [untouched]);
    expect(whole).toBeGreaterThanOrEqual(LIMIT);
    expect(whole).toBeLessThanOrEqual(LIMIT + EXCESS + grownSince(began));
    // Each replica knows of sessions that begin and end on the other.
    for (const replica of replicas) await endOn(replica);
    const { available: still, since } = await redisOf(untouched);
    expect(still).toBe(true);
    expect(since).toBeGreaterThanOrEqual(performance.now() - began);

    proxies[1].mode = 'pass';
    await expect.poll(available, SOON).toEqual([true, true]);
  });

  it('lift no limit and revive no session when Redis was killed and is back empty', async () => {
    await together();
    const [first, second] = replicas;
    const [used, ended, kept] = [newAddress(), await endOn(first), await signIn(first)];
    const began = performance.now();
    let count = await flood(used, LIMIT);
    expect(count).toBeGreaterThanOrEqual(LIMIT);
    // The last counts are exchanged within 100 ms.
    await sleep(200);

    await redis.kill();
    await expect.poll(available, SOON).toEqual([false, false]);
    const asked = async (): Promise<void> => {
      count += await through(40, used);
      expect(await both(kept)).toEqual([200, 200]);
      expect(await both(ended)).toEqual([401, 401]);
    };
    await asked();
    await redis.start();
    const wait = { over: false };
    const settled = together().finally(() => (wait.over = true));
    while (!wait.over) await asked();
    await settled;
    count += await through(100, used);
    expect(count).toBeLessThanOrEqual(LIMIT + EXCESS + grownSince(began));

    const again = performance.now();
    const fresh = await flood(newAddress(), LIMIT);
    expect(fresh).toBeGreaterThanOrEqual(LIMIT);
    expect(fresh).toBeLessThanOrEqual(LIMIT + EXCESS + grownSince(again));
    await endOn(second);
    expect(await both(ended)).toEqual([401, 401]);
  });
});

interface Redis {
  readonly available: boolean;
  readonly since: number;
}

/** The checked parts of the answers. */
interface Body {
  readonly accessToken?: string;
  readonly redis?: Redis;
}
