// Histories of reads and writes over several replicas that cache answers, while Redis fails in every way. Each answer is compared
// with what was acknowledged before its request was sent. The same seed makes the same choices; what the threads of the system do
// with them differs.
import { setTimeout as sleep } from 'node:timers/promises';
import { pick, seededRandom, type Random } from '../../bench/figures/random.js';
import type { CachingOptions } from '../../src/engine/caching.js';
import type { CacheStore } from '../../src/replicas/read-cache/cache-store.js';
import { SILENCE } from '../../src/replicas/feed.js';
import { HEARD_WITHIN } from '../../src/replicas/read-cache/fleet-store.js';
import { cacheEvents, type CacheStep } from '../../src/replicas/read-cache/cache-types.js';
import { cacheEventsOf, startCachedReplicas, type CachedReplica } from './cached-replicas.js';
import type { TestCluster } from './cluster.js';
import { startRedis, type RedisServer } from './redis.js';
import type { TestTenant } from './service.js';

/**
 * Parts of the protocol that can be left out, to see that a test notices:
 *
 * - `mark`: no mark before the transaction. Only unacknowledged writes need it, so histories do not notice
 * - `version`: a fill that does not compare the version
 * - `wait`: an acknowledgement that does not wait until every replica has heard
 * - `generation`: keys without the id of the fleet's row and without the tenant's generation
 * - `release`: no invalidation after the commit
 * - `identity`: a server is the same server after a restart
 */
export const omissions = ['mark', 'version', 'wait', 'generation', 'release', 'identity'] as const;
export type Omission = (typeof omissions)[number];

export interface HistoryOptions {
  readonly seed: number;
  /** ms. */
  readonly lasts: number;
  readonly replicas?: number;
  readonly omit?: Omission | undefined;
  /** Ends the history at the first broken promise. */
  readonly stopAtFirst?: boolean;
  readonly onFault?: (fault: string) => void;
}

export interface HistoryResult {
  readonly reads: number;
  /** Writes that were acknowledged, and others. */
  readonly writes: number;
  readonly unacknowledged: number;
  readonly hits: number;
  /** Every event of the caches, over all replicas. */
  readonly events: Readonly<Record<string, number>>;
  /** How often each fault was made. */
  readonly faults: Readonly<Record<string, number>>;
  /** Sentences about answers that were too old. */
  readonly broken: readonly string[];
}

interface Product {
  readonly tenant: number;
  readonly id: string;
  /** The newest value that was sent, and the newest that was acknowledged. One write at a time makes their order known. */
  sent: number;
  acknowledged: number;
  writing: boolean;
}

const TENANTS = 2;
const PRODUCTS = 3;

/** Clients that read and write in turn. */
const CLIENTS = 6;

/** The part of requests that write. */
const WRITES = 0.25;

/** The part of steps at which a replica pauses or ends. */
const PAUSES = 0.03;
const CRASHES = 0.01;

/** Longer than a change takes to be heard. */
const LONGEST_PAUSE = HEARD_WITHIN * 2;

/** @param cluster a server with prepared objects (tests/support/cluster.ts) */
export async function playHistory(cluster: TestCluster, options: HistoryOptions): Promise<HistoryResult> {
  const random = seededRandom(options.seed);
  const redis = await startRedis();
  const faults: Record<string, number> = {};
  let disturbed = false;
  const replicas = await startCachedReplicas(cluster, redis, options.replicas ?? 3, () =>
    caching(options.omit, (step) => (disturbed ? disturb(step, random, faults) : undefined)),
  );
  try {
    const [first] = replicas.all;
    if (!first) throw new Error('there is no replica');
    const tenants: TestTenant[] = [];
    const products: Product[] = [];
    for (let index = 0; index < TENANTS; index += 1) {
      const tenant = await first.service.createTenant(`history-${options.seed}-${index}`);
      tenants.push(tenant);
      for (let made = 0; made < PRODUCTS; made += 1) {
        const body = { name: `product ${made}`, price: '1.00', stockQuantity: 0 };
        const answer = await first.send<{ id: string }>('POST', '/products', { token: tenant.adminToken, body });
        if (answer.status !== 201) throw new Error(`POST /products answered ${answer.status}: ${answer.text}`);
        products.push({ tenant: index, id: answer.body.id, sent: 0, acknowledged: 0, writing: false });
      }
    }
    const tokenOf = (index: number): string => tenants[index]?.adminToken ?? '';
    const result = { reads: 0, writes: 0, unacknowledged: 0, broken: [] as string[] };
    const ends = performance.now() + options.lasts;
    const goesOn = (): boolean =>
      performance.now() < ends && !(options.stopAtFirst === true && result.broken.length > 0);

    async function write(replica: CachedReplica, product: Product): Promise<void> {
      if (product.writing) return;
      product.writing = true;
      const value = (product.sent += 1);
      const body = { stockQuantity: value };
      const { status } = await replica.send('PATCH', `/products/${product.id}`, {
        token: tokenOf(product.tenant),
        body,
      });
      if (status === 200) product.acknowledged = value;
      result[status === 200 ? 'writes' : 'unacknowledged'] += 1;
      product.writing = false;
    }

    function judge(how: string, replica: CachedReplica, product: Product, least: number, value: number): void {
      if (value >= least) return;
      result.broken.push(
        `seed ${options.seed}: replica ${replicas.all.indexOf(replica)} answered ${value} by ${how}; ${least} was acknowledged before (product ${products.indexOf(product)})`,
      );
    }

    async function readOne(replica: CachedReplica, product: Product): Promise<void> {
      const least = product.acknowledged;
      const headers: Record<string, string> = random() < 0.05 ? { 'cache-control': 'no-cache' } : {};
      const answer = await replica.send<{ stockQuantity: number }>('GET', `/products/${product.id}`, {
        token: tokenOf(product.tenant),
        headers,
      });
      if (answer.status !== 200) return;
      result.reads += 1;
      judge('id', replica, product, least, answer.body.stockQuantity);
    }

    async function readList(replica: CachedReplica, tenant: number): Promise<void> {
      const own = products.filter((product) => product.tenant === tenant);
      const least = own.map(({ acknowledged }) => acknowledged);
      const answer = await replica.send<{ data: { id: string; stockQuantity: number }[] }>(
        'GET',
        '/products?limit=10',
        {
          token: tokenOf(tenant),
        },
      );
      if (answer.status !== 200) return;
      result.reads += 1;
      for (const [index, product] of own.entries()) {
        const row = answer.body.data.find(({ id }) => id === product.id);
        judge('list', replica, product, least[index] ?? 0, row?.stockQuantity ?? -1);
      }
    }

    async function client(): Promise<void> {
      while (goesOn()) {
        const replica = pick(replicas.all, random);
        const product = pick(products, random);
        if (random() < WRITES) await write(replica, product);
        else if (random() < 0.3) await readList(replica, product.tenant);
        else await readOne(replica, product);
        // Writes of a burst alone would never let anything be cached.
        if (random() < 0.2) await sleep(random() * 60);
      }
    }

    async function disturber(): Promise<void> {
      // First, something is cached.
      await sleep(Math.min(3_000, options.lasts / 5));
      disturbed = true;
      while (goesOn()) {
        await makeFault(redis, replicas.all, random, (fault) => {
          faults[fault] = (faults[fault] ?? 0) + 1;
          options.onFault?.(fault);
        });
        // Long enough for the cache to come back.
        await sleep(1_000 + random() * 2_000);
      }
      disturbed = false;
    }

    async function raiser(): Promise<void> {
      while (goesOn()) {
        await pick(replicas.all, random)
          .service.app.engine.housekeeping.runNow('read cache')
          .catch(() => undefined);
        await sleep(300);
      }
    }

    await Promise.all([...Array.from({ length: CLIENTS }, client), disturber(), raiser()]);
    const events: Record<string, number> = {};
    for (const event of cacheEvents)
      for (const replica of replicas.all) events[event] = (events[event] ?? 0) + (await cacheEventsOf(replica, event));
    return { ...result, hits: events['hit'] ?? 0, events, faults };
  } finally {
    await redis.thaw();
    await replicas.close();
    await redis.close();
  }
}

/** A pause or an end of the replica between two steps. An end is an error: what follows does not happen. */
async function disturb(step: CacheStep, random: Random, faults: Record<string, number>): Promise<void> {
  const chance = random();
  if (chance < CRASHES) {
    faults[`end at ${step}`] = (faults[`end at ${step}`] ?? 0) + 1;
    throw new Error('the replica ends here');
  }
  if (chance < CRASHES + PAUSES) {
    faults[`pause at ${step}`] = (faults[`pause at ${step}`] ?? 0) + 1;
    await sleep(random() * LONGEST_PAUSE);
  }
}

async function makeFault(
  redis: RedisServer,
  replicas: readonly CachedReplica[],
  random: Random,
  note: (fault: string) => void,
): Promise<void> {
  const lasts = 100 + random() * 1_400;
  const chosen = pick(replicas, random);
  const { proxy } = chosen;
  const fault = pick(
    ['cut', 'hang', 'swallow', 'reset', 'freeze', 'empty', 'full', 'restart', 'snapshot', 'evict', 'late', 'late'],
    random,
  );
  note(fault);
  if (fault === 'cut' || fault === 'hang' || fault === 'swallow') {
    proxy.mode = fault === 'cut' ? 'refuse' : fault;
    await sleep(lasts);
    if (fault === 'swallow') proxy.cut();
    proxy.mode = 'pass';
  } else if (fault === 'late') {
    // One replica cannot invalidate, and another hears of nothing for almost as long as it may.
    const deaf = pick(
      replicas.filter((replica) => replica !== chosen),
      random,
    );
    deaf.registry.mode = 'hang';
    proxy.mode = 'refuse';
    await sleep(SILENCE - 50);
    deaf.registry.mode = 'pass';
    await sleep(lasts / 2);
    proxy.mode = 'pass';
  } else if (fault === 'reset') proxy.cut();
  else if (fault === 'freeze') {
    await redis.freeze();
    await sleep(lasts);
    await redis.thaw();
  } else if (fault === 'empty') await redis.command('FLUSHALL');
  else if (fault === 'full') {
    await redis.command('CONFIG', 'SET', 'maxmemory', 1);
    await sleep(lasts);
    await redis.command('CONFIG', 'SET', 'maxmemory', 0);
  } else if (fault === 'restart') {
    await redis.kill();
    await sleep(lasts / 2);
    await redis.start();
  } else if (fault === 'snapshot') {
    await redis.command('SAVE');
    await sleep(lasts);
    await redis.kill();
    await redis.start();
  } else {
    // As an eviction policy does: single keys disappear.
    const keys = (await redis.command('KEYS', '*cache:*')) as string[];
    for (const key of keys) if (random() < 0.5) await redis.command('DEL', key);
  }
}

function caching(omit: Omission | undefined, step: (step: CacheStep) => Promise<void> | undefined): CachingOptions {
  return {
    step,
    offFor: 300,
    proposeEvery: 500,
    ...(omit === 'wait' && { heardWithin: 0 }),
    ...(omit && omit !== 'wait' && { wrap: (store: CacheStore) => without(omit, store) }),
  };
}

/** What every server is called if a restart makes no difference. */
const SAME = 'redis:same';

/** A store without a step of the protocol. */
export function without(omit: Omission, store: CacheStore): CacheStore {
  const real = (identity: string): string => (identity === SAME ? (store.identity ?? '') : identity);
  const general = (entry: string): string =>
    entry.slice(entry.indexOf(':') + 1).replace(/^([^:]*:[^:]*):[^:]*:[^:]*/, '$1');
  return {
    get identity() {
      return omit === 'identity' ? store.identity && SAME : store.identity;
    },
    lookup: (identity, scope, entry) =>
      store.lookup(real(identity), scope, omit === 'generation' ? general(entry) : entry),
    begin: async (identity, scope) => store.begin(real(identity), scope),
    fill: async (identity, scope, version, entry, value, age) => {
      const now = omit === 'version' ? await store.begin(real(identity), scope) : version;
      return store.fill(
        real(identity),
        scope,
        now ?? version,
        omit === 'generation' ? general(entry) : entry,
        value,
        age,
      );
    },
    mark: async (identity, scopes, token) => {
      if (omit !== 'mark') await store.mark(real(identity), scopes, token);
    },
    release: async (identity, scopes, token, written) =>
      omit === 'release'
        ? false
        : store.release(real(identity), scopes, token, omit === 'generation' ? undefined : written),
    close: () => {
      store.close();
    },
  };
}
