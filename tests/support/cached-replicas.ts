// Replicas of one service that cache answers, each with its own way to Redis.
import type { CachingOptions } from '../../src/engine/caching.js';
import type { TestCluster } from './cluster.js';
import { startProxy, type Proxy } from './proxy.js';
import type { RedisServer } from './redis.js';
import { createRegistryIn, sender, startServiceIn, type Answer, type Send, type TestService } from './service.js';

export interface CachedReplica {
  readonly service: TestService;
  readonly send: Send;
  /** Its way to Redis. */
  readonly proxy: Proxy;
  /** Its way to the registry. */
  readonly registry: Proxy;
}

export interface CachedReplicas {
  readonly all: readonly CachedReplica[];
  /** The name of the registry's database. */
  readonly registry: string;
  close(): Promise<void>;
}

/** Starts them on a registry of their own. Close them. */
export async function startCachedReplicas(
  cluster: TestCluster,
  redis: RedisServer,
  count: number,
  caching: (index: number) => CachingOptions = () => ({}),
  env: Readonly<Record<string, string>> = {},
): Promise<CachedReplicas> {
  const registry = await createRegistryIn(cluster);
  const all: CachedReplica[] = [];
  for (let index = 0; index < count; index += 1) {
    const proxy = await startProxy(redis);
    const toRegistry = await startProxy(cluster.superuser);
    const { host, port } = toRegistry;
    const url = new URL(redis.url);
    url.port = String(proxy.port);
    const service = await startServiceIn(
      { ...cluster, superuser: { ...cluster.superuser, host, port } },
      {
        registry,
        operator: index === 0,
        env: { READ_CACHE: 'on', REDIS_URL: url.href, REDIS_TIMEOUT_MS: '250', ...env },
        overrides: { caching: caching(index) },
      },
    );
    all.push({ service, send: sender(service.app), proxy, registry: toRegistry });
  }
  return {
    all,
    registry,
    close: async () => {
      for (const { service } of all) await service.close();
      for (const { proxy, registry: way } of all) await Promise.all([proxy.close(), way.close()]);
    },
  };
}

/** How often a replica counted an event of the cache. */
export async function cacheEventsOf({ service }: Pick<CachedReplica, 'service'>, event: string): Promise<number> {
  const { values } = await service.app.engine.instruments.readCacheEvents.get();
  return values.find(({ labels }) => labels.event === event)?.value ?? 0;
}

/** Reads until the replica answers from the cache. @throws Error if that takes too long */
export async function untilCached(
  replica: Pick<CachedReplica, 'service'>,
  read: () => Promise<Answer<unknown>>,
  deadline = 20_000,
): Promise<void> {
  const end = performance.now() + deadline;
  for (;;) {
    const before = await cacheEventsOf(replica, 'hit');
    await read();
    if ((await cacheEventsOf(replica, 'hit')) > before) return;
    if (performance.now() > end) throw new Error('nothing was answered from the cache');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}
