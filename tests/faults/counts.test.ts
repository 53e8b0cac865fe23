// Limits that replicas share through Redis: how much several replicas let through together. Redis is killed, frozen, emptied,
// full, restored, slow, or out of reach of one replica.
import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from 'vitest';
import { Counts, type Limiter } from '../../src/replicas/counts.js';
import { openSharedStore, type OpenedStore } from '../../src/replicas/shared-store.js';
import { parseRedisUrl } from '../../src/replicas/redis-settings.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { noRedis, redisNote, startRedis, type RedisServer } from '../support/redis.js';

const SOON = { timeout: 30_000, interval: 10 };
/** So long that nothing refills while a test runs. */
const NEVER = 3_600_000_000;
/** After this time (ms) replicas have sent Redis the counts that it lost. */
const MENDED = 1_800;
/** After this time (ms) every replica has exchanged with Redis again. */
const HEARD = 300;
/** The deadline of a command (ms). */
const TIMEOUT = 250;

interface Replica {
  readonly counts: Counts;
  readonly limiter: Limiter;
  readonly store: OpenedStore;
  readonly proxy: Proxy;
}

/** As the docs state it. */
const boundOf = (size: number, replicas: number): number =>
  replicas * Math.max(1, Math.floor((size * 0.05) / replicas)) - 1;

describe.skipIf(noRedis !== undefined)(`shared counts${redisNote}`, () => {
  let server: RedisServer;
  let installation: string;
  beforeAll(async () => {
    server = await startRedis();
  });
  afterAll(() => server.close());
  beforeEach(() => {
    installation = randomUUID();
  });

  async function startReplica(at: RedisServer, refill: number): Promise<Replica> {
    const proxy = await startProxy(at);
    const url = `redis://:${at.password}@${proxy.host}:${proxy.port}`;
    const settings = parseRedisUrl(url, { timeout: TIMEOUT, production: true }, []);
    if (!settings) throw new Error(`${url} is not usable`);
    const store = openSharedStore(settings, { installation: async () => installation, onChange: () => undefined });
    const counts = new Counts();
    const limiter = counts.limiter('test', refill);
    counts.share(store);
    onTestFinished(async () => {
      counts.close();
      await store.close();
      await proxy.close();
    });
    return { counts, limiter, store, proxy };
  }

  /** Starts replicas that know of each other. */
  async function startReplicas(count: number, at = server, refill = NEVER): Promise<readonly Replica[]> {
    const replicas = await Promise.all(Array.from({ length: count }, () => startReplica(at, refill)));
    const key = `tenantry:${installation}:counts:replicas`;
    await expect.poll(() => at.command('ZCARD', key), SOON).toBe(count);
    // 2 is also what a replica assumes that has heard nothing. After the next exchanges it has heard of all.
    await sleep(HEARD);
    await expect.poll(() => replicas.map(({ counts }) => counts.replicas), SOON).toEqual(replicas.map(() => count));
    return replicas;
  }

  /** Returns how many of the simultaneous attempts were let through. */
  async function hammer({ limiter }: Replica, size: number, attempts: number, key = 'k'): Promise<number> {
    const waits = await Promise.all(Array.from({ length: attempts }, async () => limiter.take(key, size)));
    return waits.filter((wait) => wait === 0).length;
  }
  async function hammerAll(
    replicas: readonly Replica[],
    size: number,
    attempts: number,
    key?: string,
  ): Promise<number> {
    const taken = await Promise.all(replicas.map((replica) => hammer(replica, size, attempts, key)));
    return taken.reduce((one, other) => one + other, 0);
  }
  const usable = async (...replicas: readonly Replica[]): Promise<void> => {
    await expect.poll(() => replicas.every(({ store }) => store.available), SOON).toBe(true);
  };
  const away = async (...replicas: readonly Replica[]): Promise<void> => {
    await expect.poll(() => replicas.some(({ store }) => store.available), SOON).toBe(false);
  };

  it.each([
    [1, 100],
    [2, 1],
    [2, 10],
    [2, 1_000],
    [3, 7],
    [5, 200],
    [8, 3],
  ])(
    'of %d replicas under simultaneous requests let through the limit of %d and at most the documented excess',
    async (count, size) => {
      const replicas = await startReplicas(count);
      let taken = 0;
      // If more come at once than Redis can answer in time, some are refused before the limit is reached.
      for (let round = 0; round < 20 && taken < size; round += 1) taken += await hammerAll(replicas, size, size * 2);
      taken += await hammerAll(replicas, size, size * 2);
      expect(taken).toBeGreaterThanOrEqual(size);
      expect(taken).toBeLessThanOrEqual(size + boundOf(size, count));
    },
  );

  it.each([0, 15])(
    'exceed a limit by the documented excess at most: on random replicas, with pauses, %d ms away from Redis',
    async (delay) => {
      const replicas = await startReplicas(3);
      for (const { proxy } of replicas) proxy.delay = delay;
      const sizes = [2, 9, 60, 400];
      const taken = await Promise.all(
        sizes.map(async (size) => {
          const bursts: Promise<number>[] = [];
          for (let sent = 0; sent < size * 3;) {
            const burst = 1 + Math.floor(Math.random() * size * 0.3);
            sent += burst;
            const replica = replicas[Math.floor(Math.random() * replicas.length)] ?? expect.unreachable();
            bursts.push(hammer(replica, size, burst, `key ${size}`));
            if (Math.random() < 0.5) await sleep(Math.random() * 40);
          }
          return (await Promise.all(bursts)).reduce((one, other) => one + other, 0);
        }),
      );
      for (const [index, size] of sizes.entries())
        expect([size, (taken[index] ?? 0) <= size + boundOf(size, 3)]).toEqual([size, true]);
    },
  );

  it('refill with time as one bucket does, whichever replica takes', async () => {
    const replicas = await startReplicas(2, server, 2_000);
    const began = performance.now();
    let taken = 0;
    while (performance.now() - began < 2_000) {
      taken += await hammerAll(replicas, 100, 5);
      await sleep(5);
    }
    const passed = performance.now() - began;
    expect(taken).toBeGreaterThan(100 + ((passed - 500) * 100) / 2_000 / 2);
    expect(taken).toBeLessThanOrEqual(100 + ((passed + TIMEOUT) * 100) / 2_000 + boundOf(100, 2));
  });

  it('take from all of several limits or from none', async () => {
    const [one, other] = await startReplicas(2);
    if (!one || !other) expect.unreachable();
    const takeBoth = (replica: Replica): number | Promise<number> =>
      replica.counts.takeAll([
        [replica.limiter, 'narrow', 1],
        [replica.limiter, 'wide', 3],
      ]);
    expect(await takeBoth(one)).toBe(0);
    await expect.poll(() => other.limiter.take('narrow', 1), SOON).toBeGreaterThan(0);
    for (let turn = 0; turn < 10; turn += 1) expect(await takeBoth(other)).toBeGreaterThan(0);
    expect(await one.limiter.take('wide', 3)).toBe(0);
    expect(await one.limiter.take('wide', 3)).toBe(0);
    expect(await one.limiter.take('wide', 3)).toBeGreaterThan(0);
  });

  it('make no call to Redis during a request while the limit is far away', async () => {
    const [one] = await startReplicas(2);
    if (!one) expect.unreachable();
    for (let turn = 0; turn < 10; turn += 1) expect(one.limiter.take('k', 1_000)).toBe(0);
  });

  it('go on with each replica’s part while Redis is frozen: a request waits for one deadline at most, and no count is lost', async () => {
    const own = await startRedis();
    onTestFinished(() => own.close());
    const replicas = await startReplicas(2, own);
    expect(await hammerAll(replicas.slice(0, 1), 100, 40)).toBe(40);
    await own.freeze();
    onTestFinished(() => own.thaw());
    const began = performance.now();
    const taken = await hammerAll(replicas, 100, 200);
    const waited = performance.now() - began;
    // The first replica has 10 left of its part. The other has its whole part, and what it did not know of.
    expect(taken).toBeGreaterThan(0);
    expect(taken).toBeLessThanOrEqual(60 + boundOf(100, 2));
    expect(await hammerAll(replicas, 100, 200)).toBe(0);
    // One deadline, and a margin for a busy machine; one deadline for each chunk would be 40.
    expect(waited).toBeLessThan(10 * TIMEOUT);
    await own.thaw();
    await usable(...replicas);
    await sleep(MENDED);
    expect(await hammerAll(replicas, 100, 200)).toBeLessThanOrEqual(100 - 40 - taken + boundOf(100, 2));
  });

  it('lift no limit while Redis is killed, and are complete again when Redis is back', async () => {
    const own = await startRedis();
    onTestFinished(() => own.close());
    const replicas = await startReplicas(2, own);
    expect(await hammerAll(replicas, 100, 25)).toBe(50);
    await sleep(300);
    await own.kill();
    await away(...replicas);
    const without = await hammerAll(replicas, 100, 200);
    expect(without).toBeGreaterThan(0);
    expect(without).toBeLessThanOrEqual(50);
    expect(await hammerAll(replicas, 1_000, 2_000, 'another')).toBe(1_000);
    await own.start();
    await usable(...replicas);
    await sleep(MENDED);
    expect(await hammerAll(replicas, 100, 200)).toBeLessThanOrEqual(boundOf(100, 2) + 50 - without);
    expect(await hammerAll(replicas, 1_000, 2_000, 'another')).toBeLessThanOrEqual(boundOf(1_000, 2));
  });

  it('are sent again after Redis was emptied, even for keys that are not in use', async () => {
    const [one, other] = await startReplicas(2);
    if (!one || !other) expect.unreachable();
    expect(await hammer(one, 100, 120)).toBeLessThanOrEqual(100);
    await server.command('FLUSHALL');
    // The other replica does not know the key: only the first replica can send it.
    await sleep(MENDED);
    expect(await hammer(other, 100, 200)).toBeLessThanOrEqual(boundOf(100, 2));
  });

  it('let through one replica’s part more at most when Redis is emptied during a flood', async () => {
    const [one, other] = await startReplicas(2);
    if (!one || !other) expect.unreachable();
    const first = await hammer(one, 100, 120);
    await server.command('FLUSHALL');
    let second = 0;
    for (let turn = 0; turn < 20; turn += 1) {
      second += await hammer(other, 100, 20);
      await sleep(50);
    }
    expect(first + second).toBeLessThanOrEqual(150 + boundOf(100, 2));
  });

  it('are up to date again after Redis was restored from an older snapshot', async () => {
    const own = await startRedis({ settings: { dbfilename: 'dump.rdb' } });
    onTestFinished(() => own.close());
    const [one, other] = await startReplicas(2, own);
    if (!one || !other) expect.unreachable();
    expect(await hammer(one, 100, 10)).toBe(10);
    await expect.poll(() => own.command('KEYS', '*counts:test:k'), SOON).toHaveLength(1);
    await own.command('SAVE');
    expect(await hammer(one, 100, 200)).toBeGreaterThanOrEqual(90);
    await sleep(300);
    await own.kill();
    await away(one, other);
    await own.start();
    expect(await own.command('KEYS', '*counts:test:k')).toHaveLength(1);
    await usable(one, other);
    await sleep(MENDED);
    expect(await hammer(other, 100, 200)).toBeLessThanOrEqual(boundOf(100, 2));
  });

  it('treat a full Redis as away, and go on with each replica’s part', async () => {
    const replicas = await startReplicas(2);
    await server.command('CONFIG', 'SET', 'maxmemory', '1');
    onTestFinished(async () => {
      await server.command('CONFIG', 'SET', 'maxmemory', '0');
    });
    const most = 100 + boundOf(100, 2);
    let taken = 0;
    // Until none is left: a busy machine also refuses requests that have waited too long for an exchange.
    for (let more = 1; more > 0 && taken <= most; taken += more) more = await hammerAll(replicas, 100, 200);
    expect(taken).toBeGreaterThan(0);
    expect(taken).toBeLessThanOrEqual(most);
    expect(await hammerAll(replicas, 100, 200)).toBe(0);
  });

  it('give a replica that is cut off from Redis its part, and forget nothing that any replica took', async () => {
    const [one, cut] = await startReplicas(2);
    if (!one || !cut) expect.unreachable();
    cut.proxy.mode = 'refuse';
    await away(cut);
    const apart = await hammer(cut, 100, 200);
    expect(apart).toBe(50);
    expect(await hammer(one, 100, 200)).toBe(100);
    cut.proxy.mode = 'pass';
    await usable(cut);
    await sleep(MENDED);
    // 50 too many: they are missing from the refill.
    expect(await hammerAll([one, cut], 100, 100)).toBe(0);
  });

  it('count once what was sent twice because an answer was lost', async () => {
    const [one, other] = await startReplicas(2);
    if (!one || !other) expect.unreachable();
    one.proxy.mode = 'swallow';
    expect(await hammer(one, 100, 2)).toBe(2);
    await away(one);
    one.proxy.cut();
    one.proxy.mode = 'pass';
    await usable(one);
    await sleep(MENDED);
    const taken = await hammer(other, 100, 200);
    expect(taken).toBeGreaterThanOrEqual(98);
    expect(taken).toBeLessThanOrEqual(98 + boundOf(100, 2));
  });

  it('wait for a slow Redis until the deadline only, and go on with each replica’s part', async () => {
    const replicas = await startReplicas(2);
    for (const { proxy } of replicas) proxy.delay = 2 * TIMEOUT;
    const began = performance.now();
    const taken = await hammerAll(replicas, 10, 50);
    expect(performance.now() - began).toBeLessThan(10 * TIMEOUT);
    expect(taken).toBeGreaterThan(0);
    expect(taken).toBeLessThanOrEqual(10 + boundOf(10, 2));
  });

  it('assume two replicas if Redis has been away since the start', async () => {
    const replica = await (async () => {
      const own = await startRedis();
      await own.kill();
      onTestFinished(() => own.close());
      return startReplica(own, NEVER);
    })();
    expect(await hammer(replica, 100, 200)).toBe(50);
  });
});
