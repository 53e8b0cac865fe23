// Failed sign-ins, which replicas count together in Redis: the count is never too low, also when Redis fails.
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import type { Budget } from '../../src/auth/attempts.js';
import { SharedAttempts } from '../../src/auth/shared-attempts.js';
import { Counts } from '../../src/replicas/counts.js';
import { openSharedStore, type OpenedStore } from '../../src/replicas/shared-store.js';
import { parseRedisUrl } from '../../src/replicas/redis-settings.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { noRedis, redisNote, startRedis, type RedisServer } from '../support/redis.js';

const SOON = { timeout: 30_000, interval: 10 };
const FORGET = 3_600_000;
const FREE = 6;

interface Replica {
  readonly attempts: SharedAttempts;
  readonly counts: Counts;
  readonly store: OpenedStore;
  readonly proxy: Proxy;
}

describe.skipIf(noRedis !== undefined)(`failures to sign in${redisNote}`, () => {
  let server: RedisServer;
  let installation: string;
  beforeAll(async () => {
    server = await startRedis();
  });
  afterAll(() => server.close());
  beforeEach(() => {
    installation = randomUUID();
  });

  async function startReplica(at: RedisServer): Promise<Replica> {
    const proxy = await startProxy(at);
    const url = `redis://:${at.password}@${proxy.host}:${proxy.port}`;
    const settings = parseRedisUrl(url, { timeout: 250, production: true }, []);
    if (!settings) throw new Error(`${url} is not usable`);
    const store = openSharedStore(settings, { installation: async () => installation, onChange: () => undefined });
    const counts = new Counts();
    counts.share(store);
    onTestFinished(async () => {
      counts.close();
      await store.close();
      await proxy.close();
    });
    return { attempts: new SharedAttempts(FORGET, store, counts), counts, store, proxy };
  }
  async function startTwo(at = server): Promise<readonly [Replica, Replica]> {
    const one = await startReplica(at);
    // A replica that has not heard from Redis assumes two: only 1 shows that Redis has answered.
    await expect.poll(() => one.counts.replicas, SOON).toBe(1);
    const other = await startReplica(at);
    await expect.poll(() => at.command('ZCARD', `tenantry:${installation}:counts:replicas`), SOON).toBe(2);
    await expect.poll(() => [one, other].map(({ counts }) => counts.replicas), SOON).toEqual([2, 2]);
    return [one, other];
  }
  const account = (key = 'account'): readonly Budget[] => [{ on: 'account', key, free: FREE }];

  /** Returns how many attempts, one after the other, were let through; all of them fail. */
  async function fail({ attempts }: Replica, times: number, key?: string): Promise<number> {
    let through = 0;
    for (let turn = 0; turn < times; turn += 1) {
      const budgets = account(key);
      if (await attempts.take(budgets)) continue;
      through += 1;
      await attempts.failed(budgets);
    }
    return through;
  }
  /** Failures in Redis, as they count for the wait: a partly expired failure counts as a whole. */
  const known = async (key = 'account', at = server): Promise<number> =>
    Math.ceil(Number(await at.command('HGET', `tenantry:${installation}:attempts:${key}`, 'failures')));
  const usable = async (...replicas: readonly Replica[]): Promise<void> => {
    await expect.poll(() => replicas.every(({ store }) => store.available), SOON).toBe(true);
  };
  const away = async (...replicas: readonly Replica[]): Promise<void> => {
    await expect.poll(() => replicas.some(({ store }) => store.available), SOON).toBe(false);
  };

  it('are counted together on all replicas, in sequence and at once', async () => {
    const [one, other] = await startTwo();
    expect(await fail(one, 4)).toBe(4);
    expect(await fail(other, 4)).toBe(2);
    expect(await fail(one, 1)).toBe(0);
    const waits = await Promise.all(
      Array.from({ length: 40 }, (_, index) => (index % 2 === 0 ? one : other).attempts.take(account('at once'))),
    );
    expect(waits.filter((wait) => wait === undefined)).toHaveLength(FREE);
  });

  it('are forgotten on all replicas after a success, and an attempt that is given back does not count', async () => {
    const [one, other] = await startTwo();
    await fail(one, 5);
    await other.attempts.clear(account());
    expect(await fail(one, 8)).toBe(FREE);
    const address = account('address');
    await other.attempts.take(address);
    await other.attempts.giveBack(address);
    expect(await fail(one, 8, 'address')).toBe(FREE);
  });

  it('count on every replica although the answer of Redis was lost', async () => {
    const [one, other] = await startTwo();
    one.proxy.mode = 'swallow';
    expect(await fail(one, 1)).toBe(1);
    await away(one);
    expect(await known()).toBeGreaterThanOrEqual(1);
    one.proxy.cut();
    one.proxy.mode = 'pass';
    await usable(one);
    expect(await fail(other, 10)).toBeLessThanOrEqual(FREE - 1);
  });

  it('are added to Redis when it is back, if Redis never got them', async () => {
    const [one, other] = await startTwo();
    await fail(one, 1);
    one.proxy.mode = 'hang';
    expect(await fail(one, 2)).toBe(2);
    one.proxy.cut();
    one.proxy.mode = 'pass';
    await usable(one);
    await expect.poll(() => known(), SOON).toBeGreaterThanOrEqual(3);
    expect(await fail(other, 10)).toBeLessThanOrEqual(FREE - 3);
  });

  it.each([
    ['killed', async (own: RedisServer) => own.kill()],
    ['frozen', async (own: RedisServer) => own.freeze()],
    ['full', async (own: RedisServer) => own.command('CONFIG', 'SET', 'maxmemory', '1')],
  ])('are allowed up to each replica’s part of the free failures while Redis is %s', async (_, harm) => {
    const own = await startRedis();
    onTestFinished(() => own.close());
    const [one, other] = await startTwo(own);
    await harm(own);
    expect([await fail(one, 10), await fail(other, 10)]).toEqual([FREE / 2, FREE / 2]);
    expect(await fail(one, 10)).toBe(0);
  });

  it('are sent to Redis again after Redis lost them, so that every replica counts them', async () => {
    const own = await startRedis();
    onTestFinished(() => own.close());
    const [one, other] = await startTwo(own);
    expect(await fail(one, 10)).toBe(FREE);
    await own.kill();
    await away(one, other);
    await own.start();
    await usable(one, other);
    await expect.poll(() => known('account', own), SOON).toBeGreaterThanOrEqual(FREE);
    expect(await fail(other, 3)).toBeLessThanOrEqual(1);

    await own.command('FLUSHALL');
    await expect.poll(() => known('account', own), SOON).toBeGreaterThanOrEqual(FREE);
  });

  it('are corrected by the replicas after Redis starts from an older snapshot', async () => {
    const own = await startRedis({ settings: { dbfilename: 'dump.rdb' } });
    onTestFinished(() => own.close());
    const [one, other] = await startTwo(own);
    await fail(one, 2);
    await own.command('SAVE');
    expect(await fail(one, 10)).toBe(FREE - 2);
    for (const { proxy } of [one, other]) proxy.mode = 'refuse';
    await own.kill();
    await away(one, other);
    await own.start();
    expect(await known('account', own)).toBe(2);
    for (const { proxy } of [one, other]) proxy.mode = 'pass';
    await usable(one, other);
    await expect.poll(() => known('account', own), SOON).toBeGreaterThanOrEqual(FREE);
  });

  it('of a replica that was cut off from Redis are added to those of the others', async () => {
    const [one, cut] = await startTwo();
    cut.proxy.mode = 'refuse';
    await away(cut);
    expect(await fail(cut, 10)).toBe(FREE / 2);
    expect(await fail(one, 2)).toBe(2);
    cut.proxy.mode = 'pass';
    await usable(cut);
    await expect.poll(() => known(), SOON).toBeGreaterThanOrEqual(FREE / 2 + 2);
    expect(await fail(one, 10)).toBeLessThanOrEqual(1);
  });

  it('count on all replicas if they began while Redis was away', async () => {
    const own = await startRedis();
    onTestFinished(() => own.close());
    await own.kill();
    const one = await startReplica(own);
    expect(await fail(one, 10)).toBe(FREE / 2);
    await own.start();
    await usable(one);
    await expect.poll(() => known('account', own), SOON).toBe(FREE / 2);
    expect(await fail(await startReplica(own), 1)).toBe(1);
  });

  it('can be given back while Redis is away, if Redis did not count them', async () => {
    const [one] = await startTwo();
    one.proxy.mode = 'refuse';
    await away(one);
    for (let turn = 0; turn < 10; turn += 1) {
      const budgets = account();
      expect(await one.attempts.take(budgets)).toBeUndefined();
      await one.attempts.giveBack(budgets);
    }
    one.proxy.mode = 'pass';
    await usable(one);
    expect(await fail(one, 10)).toBe(FREE);
  });
});
