// A service that caches answers, alone on the stage of the fleet: where it caches, and when it has begun to.
import { setTimeout as sleep } from 'node:timers/promises';
import { cacheCounts } from '../measuring/cache-hits.js';
import { freePort } from '../measuring/program.js';
import type { LoadRequest } from '../programs/messages.js';
import type { Fleet } from './fleet.js';
import type { Service } from './installation.js';
import type { SeededTenant } from './seed.js';
import { startRedis } from './redis.js';

export type CachePlace = 'off' | 'memory' | 'redis';

export interface CachingService extends Service {
  readonly metricsPort: string;
}

/** Longest wait (ms) until a service answers from its cache. A killed service before it would delay this by five minutes. */
const DEADLINE = 30_000;

/**
 * Runs `work` with its own service, which answers from its cache when `work` begins.
 *
 * @param request one that is cached
 * @throws Error if it does not begin to cache
 */
export async function withCache<T>(
  stage: Fleet,
  place: CachePlace,
  request: LoadRequest,
  work: (service: CachingService) => Promise<T>,
): Promise<T> {
  const redis = place === 'redis' ? await startRedis(stage.cleanup) : undefined;
  const metricsPort = String(await freePort());
  const env = {
    METRICS_PORT: metricsPort,
    ...(place !== 'off' && { READ_CACHE: 'on' }),
    ...(redis && { REDIS_URL: redis.url }),
  };
  try {
    return await stage.withService(env, async (service) => {
      if (place !== 'off') await untilCached(service, metricsPort, request);
      return work({ ...service, metricsPort });
    });
  } finally {
    await redis?.stop();
  }
}

async function untilCached({ url }: Service, metricsPort: string, { path, headers }: LoadRequest): Promise<void> {
  const end = performance.now() + DEADLINE;
  while ((await cacheCounts(metricsPort)).hits === 0) {
    if (performance.now() > end) throw new Error('the service does not answer from its cache');
    await (await fetch(url + path, { headers })).arrayBuffer();
    await sleep(50);
  }
}

/** Tenants that are read at once: each needs a connection. */
const READ_AT_ONCE = 8;

/** Reads every product of every tenant once, and as every user: as a service that has run for a while. @throws Error */
export async function readAll({ url }: Service, tenants: readonly SeededTenant[]): Promise<void> {
  const waiting = [...tenants];
  const work = async (): Promise<void> => {
    for (let tenant = waiting.pop(); tenant; tenant = waiting.pop()) {
      const { users, productIds } = tenant;
      for (const [index, id] of productIds.entries()) {
        const token = users[index % users.length]?.token ?? '';
        const answer = await fetch(`${url}/products/${id}`, { headers: { authorization: `Bearer ${token}` } });
        await answer.arrayBuffer();
        if (!answer.ok) throw new Error(`the warm-up got status ${answer.status}`);
      }
    }
  };
  await Promise.all(Array.from({ length: READ_AT_ONCE }, work));
}
