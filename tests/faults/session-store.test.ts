// Two replicas share sessions through Redis, while Redis is at fault: no user is logged out, no revoked session comes back, and no
// request fails. Each replica reaches Redis through its own proxy.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest';
import { createRegistry, startServiceIn, type TestService, type TestTenant } from '../support/app.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { noRedis, redisNote, startRedis, type RedisServer } from '../support/redis.js';
import { startStatementProxy, type StatementProxy, type Verdict } from '../support/statement-proxy.js';

const SOON = { timeout: 30_000, interval: 10 };

/** "Within a second", plus a margin for the machine. */
const PROMISE = { timeout: 1_500, interval: 20 };

describe.skipIf(noRedis !== undefined)(`sessions in Redis${redisNote}`, () => {
  let redis: RedisServer;
  /** To Redis: of the first replica, and of the second. */
  let proxies: [Proxy, Proxy];
  let postgres: StatementProxy;
  let registry: string;
  let home: TestService;
  /** Reaches its databases through the statement proxy. */
  let far: TestService;
  let tenant: TestTenant;
  let users = 0;
  /** The second replica's queries for sessions. */
  let lookUps: string[];

  beforeAll(async () => {
    const cluster = inject('cluster');
    redis = await startRedis();
    proxies = [await startProxy(redis), await startProxy(redis)];
    postgres = await startStatementProxy(cluster.superuser);
    registry = await createRegistry();
    const env = ({ host, port }: Proxy): Record<string, string> => ({
      REDIS_URL: `redis://:${redis.password}@${host}:${port}`,
    });
    const behind = <At>(at: At): At => ({ ...at, host: postgres.host, port: postgres.port });
    const provisioner = behind(cluster.provisioner);
    home = await startServiceIn({ ...cluster, provisioner }, { registry, env: env(proxies[0]) });
    far = await startServiceIn(
      { ...cluster, provisioner, superuser: behind(cluster.superuser) },
      { registry, env: env(proxies[1]), operator: false },
    );
    tenant = await home.createTenant();
  });
  afterAll(async () => {
    postgres.onStatement = (): Verdict => 'pass';
    await Promise.all([home.close(), far.close()]);
    await Promise.all([...proxies, postgres, redis].map((opened) => opened.close()));
  });
  beforeEach(async () => {
    lookUps = [];
    postgres.onStatement = ({ sql: text, application }): Verdict => {
      // The first replica's connections to a tenant have another application name.
      if (text.includes('from "sessions"') && !application.includes(home.app.engine.replicaId))
        lookUps.push(application);
      return 'pass';
    };
    await healthy();
  });
  afterEach(async () => {
    postgres.onStatement = (): Verdict => 'pass';
    for (const proxy of proxies) {
      proxy.mode = 'pass';
      proxy.delay = 0;
    }
    await redis.thaw();
  });

  async function healthy(): Promise<void> {
    const well = (): boolean =>
      [home, far].every(({ app }) => app.engine.events.live && app.engine.sharedStore?.available === true);
    await expect.poll(well, SOON).toBe(true);
  }
  const me = async ({ send }: TestService, token: string): Promise<number> =>
    (await send('GET', '/auth/me', { token })).status;
  const both = (token: string): Promise<number[]> => Promise.all([home, far].map((service) => me(service, token)));
  const newUser = (): Promise<{ token: string }> => home.createUser(tenant, `user-${(users += 1)}@example.com`);
  const logOut = async (token: string): Promise<void> => {
    expect((await home.send('POST', '/auth/logout', { token })).status).toBe(204);
  };
  /** Keys of the stored sessions of the tenant's users. */
  const stored = async (): Promise<string[]> =>
    (await redis.command('KEYS', `tenantry:*:session:${tenant.id}:*`)) as string[];

  /**
   * Makes a session that the first replica has looked up and stored.
   *
   * @returns its token, its key, and the stored entry
   */
  async function storedSession(): Promise<{ token: string; key: string; entry: string }> {
    const { token } = await newUser();
    const before = new Set(await stored());
    expect(await me(home, token)).toBe(200);
    const added = async (): Promise<string[]> => (await stored()).filter((key) => !before.has(key));
    await expect.poll(async () => (await added()).length, SOON).toBe(1);
    const [key = ''] = await added();
    return { token, key, entry: (await redis.command('GET', key)) as string };
  }

  it('are known to a cold replica without a query to the tenant’s database', async () => {
    const { token, key } = await storedSession();
    lookUps = [];
    expect(await me(far, token)).toBe(200);
    expect(lookUps).toEqual([]);
    const kept = Number(await redis.command('PTTL', key));
    expect(kept).toBeGreaterThan(0);
    expect(kept).toBeLessThanOrEqual(30_000);
  });

  it.each<[string, (entry: Record<string, unknown>) => Record<string, unknown> | string]>([
    ['was read more than 30 s ago', (entry) => ({ ...entry, at: Number(entry['at']) - 30_001 })],
    ['is from a time to come', (entry) => ({ ...entry, at: Number(entry['at']) + 60_000 })],
    ['is of another server’s clock', (entry) => ({ ...entry, source: 'another' })],
    ['has run out', (entry) => ({ ...entry, remaining: 1 })],
    ['is of another form', (entry) => ({ ...entry, version: 2 })],
    ['is not whole', (entry) => ({ ...entry, accountId: undefined })],
    ['is no JSON', () => '{"version":1'],
  ])('are looked up in the database if the entry %s', async (_, change) => {
    const { token, key, entry } = await storedSession();
    const changed = change(JSON.parse(entry) as Record<string, unknown>);
    await redis.command('SET', key, typeof changed === 'string' ? changed : JSON.stringify(changed));
    lookUps = [];
    expect(await me(far, token)).toBe(200);
    expect(lookUps.length).toBeGreaterThan(0);
  });

  it('are looked up in the database if the replica may have missed a change since they were stored', async () => {
    const { token } = await storedSession();
    await far.app.engine.events.publish({ kind: 'any' });
    // The replica receives its own row through the feed.
    await sleep(300);
    lookUps = [];
    expect(await me(far, token)).toBe(200);
    expect(lookUps.length).toBeGreaterThan(0);
  });

  it('that were revoked do not come back from an older snapshot of Redis', async () => {
    const { token, key, entry } = await storedSession();
    expect(await me(far, token)).toBe(200);
    await logOut(token);
    await expect.poll(() => both(token), PROMISE).toEqual([401, 401]);
    await redis.command('SET', key, entry);
    expect(await both(token)).toEqual([401, 401]);
  });

  it('that were revoked do not come back on a replica that never knew them, nor by a delayed write', async () => {
    const { token } = await newUser();
    const before = new Set(await stored());
    proxies[0].delay = 150;
    expect(await me(home, token)).toBe(200);
    await logOut(token);
    proxies[0].delay = 0;
    await expect.poll(async () => (await stored()).some((key) => !before.has(key)), SOON).toBe(true);
    await sleep(100);
    expect(await both(token)).toEqual([401, 401]);
  });

  it('do not come back after the whole tenant was signed out', async () => {
    const { token, key, entry } = await storedSession();
    expect(await me(far, token)).toBe(200);
    const { operatorToken } = home;
    expect((await home.send('POST', `/tenants/${tenant.id}/sign-out`, { token: operatorToken })).status).toBe(204);
    await redis.command('SET', key, entry);
    await expect.poll(() => both(token), PROMISE).toEqual([401, 401]);
    // For the tests that follow.
    tenant = await home.createTenant();
  });

  it('that were revoked do not come back on a replica that receives no changes from the registry', async () => {
    const { token, key, entry } = await storedSession();
    const count = postgres.onStatement;
    let deaf = true;
    postgres.onStatement = async (statement): Promise<Verdict> => {
      while (deaf && statement.application === 'tenantry events') await sleep(20);
      return count(statement);
    };
    await expect.poll(() => far.app.engine.events.live, SOON).toBe(false);
    await logOut(token);
    await redis.command('SET', key, entry);
    await expect.poll(() => both(token), PROMISE).toEqual([401, 401]);
    deaf = false;
    await healthy();
    await redis.command('SET', key, entry);
    expect(await both(token)).toEqual([401, 401]);
  });

  it.each<[string, () => unknown, () => unknown]>([
    ['killed', () => redis.kill(), () => redis.start()],
    ['frozen', () => redis.freeze(), () => redis.thaw()],
    ['emptied', () => redis.command('FLUSHALL'), () => undefined],
    [
      'full',
      () => redis.command('CONFIG', 'SET', 'maxmemory', '1'),
      () => redis.command('CONFIG', 'SET', 'maxmemory', '0'),
    ],
    ['cut from one replica only', () => (proxies[1].mode = 'refuse'), () => (proxies[1].mode = 'pass')],
    ['cut from the other replica only', () => (proxies[0].mode = 'hang'), () => (proxies[0].mode = 'pass')],
  ])('live and end as they do without Redis while it is %s', async (_, fault, repair) => {
    const known = await storedSession();
    const leaving = await storedSession();
    expect(await both(leaving.token)).toEqual([200, 200]);
    await fault();
    const fresh = await newUser();
    for (let turn = 0; turn < 5; turn += 1)
      for (const token of [known.token, fresh.token, leaving.token, tenant.adminToken])
        expect(await both(token)).toEqual([200, 200]);
    await logOut(leaving.token);
    await expect.poll(() => both(leaving.token), PROMISE).toEqual([401, 401]);
    await repair();
    await healthy();
    expect(await both(leaving.token)).toEqual([401, 401]);
    expect(await both(fresh.token)).toEqual([200, 200]);
    // A snapshot from before the fault.
    await redis.command('SET', leaving.key, leaving.entry);
    expect(await both(leaving.token)).toEqual([401, 401]);
  });
});
