// Cached answers over two replicas and a Redis that fails: each step of the protocol, alone. Where a step can be left out, a second
// test leaves it out and sees the old answer, so that the first one proves something.
import { sql } from 'kysely';
import { afterEach, beforeAll, afterAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import {
  raiseTenantCaches,
  readFleetStore,
  readTenantCache,
  wantTenantCache,
} from '../../db/registry/fleet/read-cache-rows.js';
import type { CachingOptions } from '../../src/engine/caching.js';
import type { CacheStep } from '../../src/replicas/read-cache/cache-types.js';
import { asSuperuser } from '../support/app.js';
import {
  cacheEventsOf,
  startCachedReplicas,
  untilCached,
  type CachedReplica,
  type CachedReplicas,
} from '../support/cached-replicas.js';
import { without, type Omission } from '../support/cache-histories.js';
import { noRedis, redisNote, startRedis, type RedisServer } from '../support/redis.js';
import { startServiceIn, type Answer, type TestTenant } from '../support/service.js';

const SOON = { timeout: 30_000, interval: 20 };

interface Product {
  readonly id: string;
  readonly stockQuantity: number;
}

interface World {
  readonly replicas: CachedReplicas;
  readonly one: CachedReplica;
  readonly two: CachedReplica;
  readonly tenant: TestTenant;
  /** Of the product. */
  readonly id: string;
  /** What is called at each step of a replica. Change it. */
  readonly steps: ((step: CacheStep) => Promise<void> | void)[];
  read(replica: CachedReplica, headers?: Record<string, string>): Promise<Answer<Product>>;
  write(replica: CachedReplica, stockQuantity: number, headers?: Record<string, string>): Promise<Answer<Product>>;
  /** Waits until a replica answers from the cache. */
  cached(replica: CachedReplica): Promise<void>;
}

describe.skipIf(noRedis !== undefined)(`cached answers${redisNote}`, () => {
  let redis: RedisServer;
  beforeAll(async () => {
    redis = await startRedis();
  });
  afterAll(() => redis.close());
  afterEach(() => redis.thaw());

  async function start(omit?: Omission, env: Readonly<Record<string, string>> = {}): Promise<World> {
    const steps: World['steps'] = [];
    const replicas = await startCachedReplicas(
      inject('cluster'),
      redis,
      2,
      (index): CachingOptions => ({
        step: (step) => steps[index]?.(step),
        offFor: 0,
        proposeEvery: 300,
        ...(omit === 'wait' && { heardWithin: 0 }),
        ...(omit && omit !== 'wait' && { wrap: (store) => without(omit, store) }),
      }),
      // This process runs both replicas and the proxies, beside other tests.
      { REDIS_TIMEOUT_MS: '1000', ...env },
    );
    onTestFinished(() => replicas.close());
    const [one, two] = replicas.all;
    if (!one || !two) throw new Error('there are not two replicas');
    const tenant = await one.service.createTenant();
    const token = tenant.adminToken;
    const body = { name: 'a product', price: '1.00', stockQuantity: 1 };
    const made = await one.send<Product>('POST', '/products', { token, body });
    expect(made.status).toBe(201);
    const { id } = made.body;
    const read: World['read'] = (replica, headers = {}) => replica.send('GET', `/products/${id}`, { token, headers });
    return {
      replicas,
      one,
      two,
      tenant,
      id,
      steps,
      read,
      write: (replica, stockQuantity, headers = {}) =>
        replica.send('PATCH', `/products/${id}`, { token, body: { stockQuantity }, headers }),
      cached: (replica) => untilCached(replica, () => read(replica)),
    };
  }
  const valueOf = async (answer: Promise<Answer<Product>>): Promise<number> => {
    const { status, body, text } = await answer;
    expect(status, text).toBe(200);
    return body.stockQuantity;
  };
  const inRegistry = <T>({ replicas }: World, work: (db: never) => Promise<T>): Promise<T> =>
    asSuperuser(replicas.registry, (db) => work(db as never));

  it('come from Redis on both replicas, and a write on one is the next answer on the other', async () => {
    const w = await start();
    await w.cached(w.one);
    await w.cached(w.two);
    expect((await w.write(w.one, 2)).status).toBe(200);
    expect(await valueOf(w.read(w.two))).toBe(2);
    expect(await valueOf(w.read(w.one))).toBe(2);
    const listed = (): Promise<Answer<{ data: Product[] }>> =>
      w.two.send('GET', '/products?limit=5', { token: w.tenant.adminToken });
    await untilCached(w.two, listed);
    expect((await w.write(w.one, 3)).status).toBe(200);
    expect((await listed()).body.data[0]?.stockQuantity).toBe(3);
  });

  it('have the ETag of the database, 304, and no body for HEAD', async () => {
    const w = await start();
    const fresh = await w.read(w.one, { 'cache-control': 'no-cache' });
    await w.cached(w.one);
    const stored = await w.read(w.one);
    const kept = ['etag', 'cache-control', 'content-type', 'content-length'] as const;
    for (const name of kept) expect(stored.headers[name], name).toBe(fresh.headers[name]);
    expect(stored.text).toBe(fresh.text);
    const before = await cacheEventsOf(w.one, 'hit');
    const same = await w.read(w.one, { 'if-none-match': String(stored.headers.etag) });
    expect([same.status, same.text]).toEqual([304, '']);
    const head = await w.one.service.app.inject({
      method: 'HEAD',
      url: `/products/${w.id}`,
      headers: { authorization: `Bearer ${w.tenant.adminToken}` },
    });
    expect([head.statusCode, head.payload]).toEqual([200, '']);
    expect(await cacheEventsOf(w.one, 'hit')).toBe(before + 2);
  });

  it('are passed over by Cache-Control: no-cache', async () => {
    const w = await start();
    await w.cached(w.one);
    const hits = await cacheEventsOf(w.one, 'hit');
    expect(await valueOf(w.read(w.one, { 'cache-control': 'no-cache' }))).toBe(1);
    expect(await cacheEventsOf(w.one, 'hit')).toBe(hits);
  });

  it('need the permission of each request', async () => {
    const w = await start();
    const user = await w.one.service.createUser(w.tenant, 'reader@example.com');
    const asUser = (): Promise<Answer> => w.two.send('GET', `/products/${w.id}`, { token: user.token });
    await untilCached(w.two, asUser);
    const { adminToken: token } = w.tenant;
    const role = await w.one.send('POST', '/roles', { token, body: { name: 'nothing', permissions: ['users:read'] } });
    expect(role.status, role.text).toBe(201);
    const changed = await w.one.send('PATCH', `/users/${user.id}`, { token, body: { roles: ['nothing'] } });
    expect(changed.status, changed.text).toBe(200);
    await expect.poll(async () => (await asUser()).status, { timeout: 1_500, interval: 20 }).toBe(403);
  });

  describe('after a write on a replica that cannot reach Redis', () => {
    /** The answer of the other replica right after the acknowledgement, while it hears of no change. */
    async function answerOfTheDeaf(w: World): Promise<number> {
      await w.cached(w.two);
      w.one.proxy.mode = 'refuse';
      await expect.poll(() => w.one.service.app.engine.sharedStore?.available, SOON).toBe(false);
      w.two.registry.mode = 'hang';
      expect((await w.write(w.one, 2)).status).toBe(200);
      const value = valueOf(w.read(w.two));
      // A replica that has long heard of nothing waits for the registry.
      setTimeout(() => (w.two.registry.mode = 'pass'), 100);
      return value;
    }

    it('are not older, on a replica that has not heard of it', async () => {
      expect(await answerOfTheDeaf(await start())).toBe(2);
    });

    it('would be older if the write were not acknowledged late', async () => {
      expect(await answerOfTheDeaf(await start('wait'))).toBe(1);
    });

    it('cost further writes no wait, and come back under other keys', async () => {
      expect(await answerAfterOff(await start())).toBe(7);
    });

    it('would come back with an old answer under the same keys', async () => {
      expect(await answerAfterOff(await start('generation'))).toBe(1);
    });

    async function answerAfterOff(w: World): Promise<number> {
      await w.cached(w.two);
      w.one.proxy.mode = 'refuse';
      await expect.poll(() => w.one.service.app.engine.sharedStore?.available, SOON).toBe(false);
      await w.write(w.one, 2);
      const waited = await cacheEventsOf(w.one, 'waited');
      for (let value = 3; value < 8; value += 1) expect((await w.write(w.one, value)).status).toBe(200);
      expect(await cacheEventsOf(w.one, 'waited')).toBe(waited);
      w.one.proxy.mode = 'pass';
      await expect.poll(() => w.one.service.app.engine.sharedStore?.available, SOON).toBe(true);
      await expect
        .poll(async () => {
          await w.two.service.app.engine.housekeeping.runNow('read cache');
          return inRegistry(w, (db) => readTenantCache(db, w.tenant.id));
        }, SOON)
        .toMatchObject({ state: 'on', generation: 1 });
      await w.cached(w.two);
      return valueOf(w.read(w.two));
    }
  });

  describe('that are filled late', () => {
    /** Of a list, which the answer of a write does not fill. */
    async function answerAfterLateFill(w: World): Promise<number> {
      const listed = async ({ send }: CachedReplica): Promise<number> => {
        const { body } = await send<{ data: Product[] }>('GET', '/products?limit=5', { token: w.tenant.adminToken });
        return body.data[0]?.stockQuantity ?? NaN;
      };
      await w.cached(w.two);
      // Something else than what is cached: the first answer after a write.
      await w.write(w.one, 2);
      let fill: () => void = () => undefined;
      const reached = new Promise<void>((arrived) => {
        w.steps[1] = (step) => {
          if (step !== 'fill') return;
          arrived();
          return new Promise<void>((resolve) => (fill = resolve));
        };
      });
      expect(await listed(w.two)).toBe(2);
      await reached;
      expect((await w.write(w.one, 3)).status).toBe(200);
      const ended = async (replica: CachedReplica): Promise<number> =>
        (await cacheEventsOf(replica, 'not-filled')) + (await cacheEventsOf(replica, 'filled'));
      const beforeNewest = await ended(w.one);
      // The scope has another version. The fill of this answer must have ended, or it would replace the late one.
      expect(await listed(w.one)).toBe(3);
      await expect.poll(() => ended(w.one), SOON).toBeGreaterThan(beforeNewest);
      w.steps.length = 0;
      const before = await ended(w.two);
      fill();
      await expect.poll(() => ended(w.two), SOON).toBeGreaterThan(before);
      return listed(w.two);
    }

    it('are never read', async () => {
      expect(await answerAfterLateFill(await start())).toBe(3);
    });

    it('would be read if the fill did not compare the version', async () => {
      expect(await answerAfterLateFill(await start('version'))).toBe(2);
    });
  });

  describe('in a Redis that starts again from an older snapshot', () => {
    async function answerAfterRestore(w: World): Promise<number> {
      await w.cached(w.one);
      await w.cached(w.two);
      await redis.command('SAVE');
      expect((await w.write(w.one, 2)).status).toBe(200);
      await redis.kill();
      await redis.start();
      const uses = (): boolean =>
        w.replicas.all.every(({ service }) => service.app.engine.sharedStore?.available === true);
      await expect.poll(uses, SOON).toBe(true);
      const values = [];
      const ends = performance.now() + 2_500;
      while (performance.now() < ends) values.push(await valueOf(w.read(w.two)));
      return Math.min(...values);
    }

    it('are not read', async () => {
      expect(await answerAfterRestore(await start())).toBe(2);
    });

    it('would be read if the server were the same one', async () => {
      expect(await answerAfterRestore(await start('identity'))).toBe(1);
    });
  });

  describe('after a replica that ended between the commit and the acknowledgement', () => {
    async function answerAfterEnd(w: World): Promise<number> {
      await w.cached(w.two);
      w.steps[0] = (step) => {
        if (step === 'committed') throw new Error('the replica ends here');
      };
      expect((await w.write(w.one, 2)).status).toBe(500);
      return valueOf(w.read(w.two));
    }

    it('are dirty, so that the database answers', async () => {
      const w = await start();
      expect(await answerAfterEnd(w)).toBe(2);
      expect(await cacheEventsOf(w.two, 'dirty')).toBeGreaterThan(0);
    });

    it('would be old without the mark', async () => {
      expect(await answerAfterEnd(await start('mark'))).toBe(1);
    });
  });

  it('are invalidated again by the repeated answer of a write whose acknowledgement was lost', async () => {
    const w = await start();
    await w.cached(w.two);
    const key = { 'idempotency-key': 'key-of-the-read-cache' };
    w.steps[0] = async (step) => {
      if (step !== 'committed') return;
      // The marks get lost as well.
      await redis.command('FLUSHALL');
      throw new Error('the replica ends here');
    };
    expect((await w.write(w.one, 2, key)).status).toBe(500);
    w.steps.length = 0;
    const before = await cacheEventsOf(w.one, 'waited');
    const repeated = await w.write(w.one, 2, key);
    expect([repeated.status, repeated.headers['idempotent-replayed']]).toEqual([200, 'true']);
    expect(await valueOf(w.read(w.two))).toBe(2);
    expect(await cacheEventsOf(w.one, 'waited')).toBe(before);
  });

  it('refuse a write that can reach neither Redis nor the registry, before anything is written', async () => {
    const w = await start();
    await w.cached(w.one);
    w.one.proxy.mode = 'refuse';
    await expect.poll(() => w.one.service.app.engine.sharedStore?.available, SOON).toBe(false);
    w.one.registry.mode = 'refuse';
    await expect.poll(() => w.one.service.app.engine.events.live, SOON).toBe(false);
    const refused = await w.write(w.one, 2);
    expect([refused.status, (refused.body as unknown as { code: string }).code]).toEqual([503, 'unavailable']);
    w.one.registry.mode = 'pass';
    expect(await valueOf(w.read(w.two, { 'cache-control': 'no-cache' }))).toBe(1);
  });

  it('do not stop writes while the registry is away', async () => {
    const w = await start();
    await w.cached(w.two);
    w.one.registry.mode = 'refuse';
    await expect.poll(() => w.one.service.app.engine.events.live, SOON).toBe(false);
    expect((await w.write(w.one, 2)).status).toBe(200);
    w.one.registry.mode = 'pass';
    expect(await valueOf(w.read(w.two))).toBe(2);
  });

  it('end when a replica takes no part: one with READ_CACHE=off, or of a former build', async () => {
    const w = await start();
    await w.cached(w.one);
    const cluster = inject('cluster');
    const off = await startServiceIn(cluster, { registry: w.replicas.registry, operator: false });
    onTestFinished(() => off.close());
    expect((await inRegistry(w, readFleetStore)).store).toBe('none');
    await off.send('PATCH', `/products/${w.id}`, { token: w.tenant.adminToken, body: { stockQuantity: 2 } });
    expect(await valueOf(w.read(w.one))).toBe(2);
    await off.close();
    await w.cached(w.one);
    await asSuperuser(
      w.replicas.registry,
      (db) =>
        sql`
        insert into replicas (id, version, node, host, started_at, seen_at, slots_used)
        values ('former', '1', '20', 'host', now(), now(), '{}')`.execute(db) as Promise<never>,
    );
    await expect.poll(async () => (await inRegistry(w, readFleetStore)).store, SOON).toBe('none');
  });

  it('of one tenant end when an operator says so', async () => {
    const w = await start();
    await w.cached(w.one);
    await inRegistry(w, (db) => wantTenantCache(db, w.tenant.id, false));
    await expect
      .poll(async () => {
        const before = await cacheEventsOf(w.one, 'hit');
        await w.read(w.one);
        return (await cacheEventsOf(w.one, 'hit')) - before;
      }, SOON)
      .toBe(0);
    expect(await inRegistry(w, (db) => raiseTenantCaches(db, 0, 10))).toEqual([]);
    await inRegistry(w, (db) => wantTenantCache(db, w.tenant.id, true));
    expect(await inRegistry(w, (db) => raiseTenantCaches(db, 0, 10))).toMatchObject([{ id: w.tenant.id }]);
  });
});
