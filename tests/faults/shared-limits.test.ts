// Two replicas on one registry and one Redis, each behind its own proxy to Redis: together they let through as much as one
// replica, and no limit is lifted while Redis is at fault.
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { setTimeout as sleep } from 'node:timers/promises';
import { ADMIN, createRegistry, startService, type TestService, type TestTenant } from '../support/app.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { noRedis, redisNote, startRedis, type RedisServer } from '../support/redis.js';

const SOON = { timeout: 30_000, interval: 20 };
const env = {
  RATE_LIMIT_MAX: '100',
  USER_RATE_LIMIT_MAX: '40',
  SIGN_IN_LIMIT: '20',
  SIGN_IN_FAILURES_ACCOUNT: '6',
  PASSWORD_BUDGET_ACCOUNT: '4',
  PASSWORD_BUDGET_TENANT: '100',
  // A replica that takes a late answer for an outage counts alone. Here that would be the machine's fault.
  REDIS_TIMEOUT_MS: '2000',
};
/** Excess over a limit, as docs/reference/limits.md states it for two replicas; without the refill. */
const boundOf = (limit: number): number => 2 * Math.max(1, Math.floor((limit * 0.05) / 2)) - 1;

describe.skipIf(noRedis !== undefined)(`two replicas${redisNote}`, () => {
  let redis: RedisServer;
  let proxies: readonly [Proxy, Proxy];
  let replicas: readonly [TestService, TestService];
  let tenant: TestTenant;
  let addresses = 0;
  beforeAll(async () => {
    redis = await startRedis();
    proxies = [await startProxy(redis), await startProxy(redis)];
    const registry = await createRegistry();
    const start = async ({ host, port }: Proxy, operator: boolean): Promise<TestService> =>
      startService({
        registry,
        operator,
        env: { ...env, REDIS_URL: `redis://:${redis.password}@${host}:${port}` },
      });
    replicas = [await start(proxies[0], true), await start(proxies[1], false)];
    tenant = await replicas[0].createTenant();
  });
  afterAll(async () => {
    for (const replica of replicas) await replica.close();
    for (const proxy of proxies) await proxy.close();
    await redis.close();
  });

  let ready = false;
  beforeEach(async () => {
    if (!ready) await together();
    ready = true;
  });

  /** Waits until both use Redis, know of each other, and have sent again what Redis had lost. */
  async function together(): Promise<void> {
    const both = (): boolean =>
      replicas.every(({ app }) => app.engine.sharedStore?.available === true && app.engine.counts.replicas === 2);
    await expect.poll(both, SOON).toBe(true);
    await sleep(1_800);
    await expect.poll(both, SOON).toBe(true);
  }
  /** An address without any counted request. */
  const newAddress = (): string => `10.1.${Math.floor((addresses += 1) / 250)}.${(addresses % 250) + 1}`;

  interface Request {
    readonly method?: 'GET' | 'POST';
    readonly url: string;
    readonly address?: string;
    readonly token?: string;
    readonly body?: object;
  }
  /** Sends to both in turns. Returns how many answers were not 429. Every 429 must have Retry-After, and no status may be 5xx. */
  async function through(
    times: number,
    request: () => Request,
    on: readonly TestService[] = replicas,
  ): Promise<number> {
    const answers = await Promise.all(
      Array.from({ length: times }, async (_, index) => {
        const { method = 'GET', url, address = newAddress(), token, body } = request();
        const { app } = on[index % on.length] ?? expect.unreachable();
        const headers = token === undefined ? {} : { authorization: `Bearer ${token}` };
        return app.inject({ method, url, remoteAddress: address, headers, ...(body && { payload: body }) });
      }),
    );
    for (const { statusCode, headers } of answers) {
      expect(statusCode).toBeLessThan(500);
      if (statusCode === 429) expect(Number(headers['retry-after'])).toBeGreaterThan(0);
    }
    return answers.filter(({ statusCode }) => statusCode !== 429).length;
  }
  /** Sends more than the limit until it is reached. Returns also how many may be let through in that time. */
  async function timed(
    limit: number,
    perMs: number,
    send: () => Promise<number>,
  ): Promise<[count: number, most: number]> {
    const began = performance.now();
    let count = await send();
    for (let round = 0; round < 5 && count < limit; round += 1) count += await send();
    count += await send();
    return [count, limit + boundOf(limit) + Math.ceil((performance.now() - began) * perMs)];
  }
  const MINUTE = 60_000;

  it('together admit as many requests of one address as one replica does, even to unknown routes', async () => {
    const address = newAddress();
    const urls = ['/products', '/nothing'];
    let turn = 0;
    const work = (): Promise<number> =>
      through(300, () => ({ url: urls[Math.floor((turn += 1) / 2) % 2] ?? '', address }));
    const [count, most] = await timed(100, 100 / MINUTE, work);
    expect(count).toBeGreaterThanOrEqual(100);
    expect(count).toBeLessThanOrEqual(most);
  });

  it('together admit as many requests of one user as one replica does, from any number of addresses', async () => {
    const { token } = await replicas[0].createUser(tenant, 'many@example.com');
    const [count, most] = await timed(40, 40 / MINUTE, () => through(120, () => ({ url: '/products', token })));
    expect(count).toBeGreaterThanOrEqual(40);
    expect(count).toBeLessThanOrEqual(most);
  });

  it('together admit as many requests a second of one tenant as one replica does', async () => {
    const limited = await replicas[0].createTenant();
    const body = { limits: { requestsPerSecond: 8 } };
    await replicas[0].send('PATCH', `/tenants/${limited.id}`, { token: replicas[0].operatorToken, body });
    const users = await Promise.all(['a', 'b'].map((name) => replicas[0].createUser(limited, `${name}@example.com`)));
    await sleep(1_200);
    let turn = 0;
    const token = (): string => users[Math.floor((turn += 1) / 2) % 2]?.token ?? '';
    const [count, most] = await timed(8, 8 / 1_000, () => through(60, () => ({ url: '/products', token: token() })));
    expect(count).toBeGreaterThanOrEqual(8);
    expect(count).toBeLessThanOrEqual(most);
  });

  it('together admit as many attempts to sign in from one address as one replica does', async () => {
    const address = newAddress();
    const request = (): Request => ({ method: 'POST', url: '/auth/login', address, body: {} });
    const [count, most] = await timed(20, 20 / MINUTE, () => through(60, request));
    expect(count).toBeGreaterThanOrEqual(20);
    expect(count).toBeLessThanOrEqual(most);
  });

  it('count the failures on one account together', async () => {
    const body = { tenant: tenant.slug, email: ADMIN.email, password: 'not-the-password' };
    const request = (): Request => ({ method: 'POST', url: '/auth/login', body });
    let count = 0;
    for (const replica of [...replicas, ...replicas, ...replicas, ...replicas, ...replicas])
      count += await through(1, request, [replica]);
    expect(count).toBe(6);
  });

  it('share one budget of password changes for an account', async () => {
    const { token, password } = await replicas[0].createUser(tenant, 'changes@example.com');
    const body = { currentPassword: password, newPassword: password };
    const request = (): Request => ({ method: 'POST', url: '/auth/password', token, body });
    const [count, most] = await timed(4, 4 / 30_000, () => through(16, request));
    expect(count).toBeGreaterThanOrEqual(4);
    expect(count).toBeLessThanOrEqual(most);
  });

  describe.each([
    ['killed', async () => redis.kill(), async () => redis.start(), 100],
    ['frozen', async () => redis.freeze(), async () => redis.thaw(), 100],
    [
      'full',
      async () => redis.command('CONFIG', 'SET', 'maxmemory', '1'),
      async () => redis.command('CONFIG', 'SET', 'maxmemory', '0'),
      100,
    ],
    ['emptied', async () => redis.command('FLUSHALL'), async () => undefined, 150],
    [
      'out of reach of one of them',
      async () => void (proxies[1].mode = 'refuse'),
      async () => void (proxies[1].mode = 'pass'),
      150,
    ],
  ])('while Redis is %s', (_, harm, heal, most) => {
    it('lift no limit, answer no request with 5xx, and share their limits again when Redis is back', async () => {
      await together();
      const address = newAddress();
      await harm();
      let healed = false;
      onTestFinished(async () => {
        if (!healed) await heal();
      });
      const request = (): Request => ({ url: '/products', address });
      const began = performance.now();
      const first = await through(300, request);
      expect(first).toBeGreaterThan(0);
      const more = await through(100, request);
      const grown = ((performance.now() - began) * 100) / MINUTE;
      expect(first + more).toBeLessThanOrEqual(most + boundOf(100) + Math.ceil(grown));
      // Other clients get their part.
      expect(await through(20, () => ({ url: '/products', address: '10.9.9.9' }))).toBe(20);
      await heal();
      healed = true;
      await together();
      const since = ((performance.now() - began) * 100) / MINUTE;
      expect(first + more + (await through(100, request))).toBeLessThanOrEqual(most + boundOf(100) + Math.ceil(since));
      await replicas[0].send('POST', '/auth/login', { body: {} });
    }, 120_000);
  });
});
