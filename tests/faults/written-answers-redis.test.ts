// Answers of writes that are stored as what a read of the row answers: they are just that, and never older than the newest
// acknowledged write, however many writes of one row are under way at the same time.
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, inject, it, onTestFinished } from 'vitest';
import { seededRandom } from '../../bench/figures/random.js';
import type { CacheStore } from '../../src/replicas/read-cache/cache-store.js';
import { createRedisCacheStore } from '../../src/replicas/read-cache/redis-cache-store.js';
import { parseRedisUrl } from '../../src/replicas/redis-settings.js';
import { openSharedStore } from '../../src/replicas/shared-store.js';
import { careless } from '../support/careless-store.js';
import { cacheEventsOf, startCachedReplicas, untilCached, type CachedReplica } from '../support/cached-replicas.js';
import { noRedis, redisNote, startRedis } from '../support/redis.js';
import type { Answer, TestTenant } from '../support/service.js';

const REPLICAS = 3;
const CLIENTS = 12;

/** Stored answers of writes, and hits: fewer would prove nothing. */
const LEAST = 20;

/** For so much longer (ms) a busy machine may play, until it has proved something. */
const MORE = 60_000;

interface Stock {
  readonly stockQuantity: number;
}

interface Played {
  /** Answers that were smaller than what had been added, and acknowledged, before their requests. */
  readonly old: string[];
  readonly written: number;
  readonly hits: number;
}

/**
 * Clients add to the stock of one product and read it. The stock only grows, so each answer can be judged, whichever of the writes
 * under way came first.
 *
 * @param lasts ms; an old answer ends it
 * @param proves 'nothing old': goes on until enough was stored and read; 'an old answer': until there is one
 */
async function play(
  seed: number,
  lasts: number,
  wrap: (store: CacheStore) => CacheStore,
  proves: 'nothing old' | 'an old answer',
): Promise<Played> {
  const random = seededRandom(seed);
  const redis = await startRedis();
  onTestFinished(() => redis.close());
  const step = async (): Promise<void> => {
    if (random() < 0.2) await sleep(random() * 15);
  };
  const replicas = await startCachedReplicas(inject('cluster'), redis, REPLICAS, () => ({ step, wrap, offFor: 300 }));
  onTestFinished(() => replicas.close());
  const [first] = replicas.all;
  if (!first) throw new Error('there is no replica');
  const anyReplica = (): CachedReplica => replicas.all[Math.floor(random() * REPLICAS)] ?? first;
  const { adminToken: token } = await first.service.createTenant();
  const body = { name: 'a product', price: '1.00', stockQuantity: 0 };
  const { id } = (await first.send<{ id: string }>('POST', '/products', { token, body })).body;
  const read = (replica: CachedReplica): Promise<Answer<Stock>> => replica.send('GET', `/products/${id}`, { token });
  for (const replica of replicas.all) await untilCached(replica, () => read(replica));
  let acknowledged = 0;
  const old: string[] = [];
  const ends = performance.now() + lasts;
  const sum = async (event: string): Promise<number> => {
    let all = 0;
    for (const replica of replicas.all) all += await cacheEventsOf(replica, event);
    return all;
  };
  let enough = false;
  const goesOn = (): boolean => old.length === 0 && performance.now() < (enough ? ends : ends + MORE);

  async function client(): Promise<void> {
    while (goesOn()) {
      const replica = anyReplica();
      if (random() < 0.3) {
        const { status } = await replica.send('POST', `/products/${id}/stock`, { token, body: { delta: 1 } });
        if (status === 200) acknowledged += 1;
        if (random() < 0.6) await sleep(random() * 60);
      } else {
        const least = acknowledged;
        const { status, body: answer } = await read(replica);
        if (status === 200 && answer.stockQuantity < least) old.push(`${answer.stockQuantity} after ${least}`);
      }
    }
  }

  /** Single keys disappear, as by an eviction policy. */
  async function evictor(): Promise<void> {
    while (goesOn()) {
      await sleep(random() * 300);
      enough ||= proves === 'nothing old' && Math.min(await sum('written'), await sum('hit')) > LEAST;
      for (const key of (await redis.command('KEYS', '*cache:*')) as string[])
        if (random() < 0.3) await redis.command('DEL', key);
    }
  }

  await Promise.all([...Array.from({ length: CLIENTS }, client), evictor()]);
  return { old, written: await sum('written'), hits: await sum('hit') };
}

describe.skipIf(noRedis !== undefined)(`answers of writes that are stored${redisNote}`, () => {
  it('are never older than the newest acknowledged write', async () => {
    const { old, written, hits } = await play(7, 8_000, (store) => store, 'nothing old');
    expect(old).toEqual([]);
    // Otherwise this proves nothing.
    expect(Math.min(written, hits)).toBeGreaterThan(LEAST);
  }, 120_000);

  it('would be, if the store did not compare who marked last', async () => {
    expect((await play(7, 8_000, careless, 'an old answer')).old).not.toEqual([]);
  }, 120_000);

  it('do not keep a full Redis from marking and releasing', async () => {
    const redis = await startRedis();
    onTestFinished(() => redis.close());
    const settings = parseRedisUrl(redis.url, { timeout: 500, production: false }, []);
    if (!settings) throw new Error('the URL is not usable');
    const opened = openSharedStore(settings, { installation: async () => 'one', onChange: () => undefined });
    onTestFinished(() => opened.close());
    const options = { database: settings.database, ttl: 60_000, bytes: 1e9, onError: () => undefined };
    const store = createRedisCacheStore(opened, options);
    onTestFinished(() => {
      store.close();
    });
    await expect.poll(() => store.identity, { timeout: 30_000, interval: 10 }).toBeDefined();
    const identity = store.identity ?? '';
    await redis.command('CONFIG', 'SET', 'maxmemory', '1');
    const scopes = ['products:1', 'products'];
    await store.mark(identity, scopes, 'token');
    expect(await store.lookup(identity, 'products:1', 'entry')).toEqual({ version: undefined, value: undefined });
    await store.release(identity, scopes, 'token', { entry: 'entry', value: 'two', age: 0 });
    expect([undefined, 'two']).toContain((await store.lookup(identity, 'products:1', 'entry')).value);
    expect(opened.available).toBe(true);
  });

  it('are what a read answers, of each route that declares it', async () => {
    const redis = await startRedis();
    onTestFinished(() => redis.close());
    const replicas = await startCachedReplicas(inject('cluster'), redis, 1);
    onTestFinished(() => replicas.close());
    const [replica] = replicas.all;
    if (!replica) throw new Error('there is no replica');
    const { service, send } = replica;
    const declared: string[] = [];
    const tenant: TestTenant = await service.createTenant();
    const token = tenant.adminToken;
    const body = { name: 'Grüße \u{1F600}', price: '1.00', stockQuantity: 5 };
    const { id } = (await send<{ id: string }>('POST', '/products', { token, body })).body;
    const get = (headers = {}): Promise<Answer<Stock>> => send('GET', `/products/${id}`, { token, headers });
    await untilCached(replica, get);
    const writes = [
      ['PATCH', `/products/${id}`, { description: 'größer' }],
      ['POST', `/products/${id}/stock`, { delta: -2 }],
    ] as const;
    for (const [method, url, change] of writes) {
      for (const key of [undefined, `key-of-${method}`]) {
        const headers = key === undefined ? {} : { 'idempotency-key': key };
        const before = await cacheEventsOf(replica, 'written');
        const hits = await cacheEventsOf(replica, 'hit');
        const answer = await send(method, url, { token, body: change, headers });
        expect(answer.status, answer.text).toBe(200);
        const stored = await get();
        const asked = await get({ 'cache-control': 'no-cache' });
        expect([stored.text, stored.headers.etag]).toEqual([asked.text, asked.headers.etag]);
        expect([stored.text, stored.headers.etag]).toEqual([answer.text, answer.headers.etag]);
        expect(stored.headers['cache-control']).toBe(asked.headers['cache-control']);
        expect(stored.headers['content-type']).toBe(asked.headers['content-type']);
        expect(await cacheEventsOf(replica, 'written')).toBe(before + 1);
        expect(await cacheEventsOf(replica, 'hit')).toBe(hits + 1);
        const unchanged = await get({ 'if-none-match': stored.headers.etag });
        expect([unchanged.status, unchanged.text]).toEqual([304, '']);
        if (key === undefined) continue;
        // The answer to a repeated request is an old one.
        await send('PATCH', `/products/${id}`, { token, body: { price: '7.00' } });
        const repeated = await send(method, url, { token, body: change, headers });
        expect(repeated.headers['idempotent-replayed']).toBe('true');
        expect((await get()).text).toBe((await get({ 'cache-control': 'no-cache' })).text);
      }
      declared.push(`${method} ${url.replace(id, ':id')}`);
    }
    expect(declared).toEqual(['PATCH /products/:id', 'POST /products/:id/stock']);
  });
});
