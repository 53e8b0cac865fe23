// Many tenants with few connections, read and written: what the cache changes.
import type { Random } from '../figures/random.js';
import { pick, seededRandom } from '../figures/random.js';
import { mediansOfSides } from '../figures/statistics.js';
import { zipf } from '../figures/zipf.js';
import { cacheCounts, hitRate } from '../measuring/cache-hits.js';
import { watchConnections } from '../measuring/connections.js';
import { measure } from '../measuring/measure.js';
import type { LoadRequest } from '../programs/messages.js';
import { readAll, withCache, type CachePlace, type CachingService } from '../stage/caching.js';
import { BUDGET, MOST_TENANTS, type Fleet } from '../stage/fleet.js';
import type { SeededTenant } from '../stage/seed.js';
import { headersOf, readOf } from './trouble/neighbours.js';
import { eachRound, ratioWithRounds, timedMediansOf, wholeNumber, type Scenario } from './scenario.js';

/** Different requests that each connection repeats. */
const REQUESTS_PER_CONNECTION = 500;

const places = ['off', 'memory', 'redis'] as const satisfies readonly CachePlace[];

/** Reads for each write. */
const mixes = [9, 99] as const;

type Place = (typeof places)[number];
type Side = `${(typeof mixes)[number]}:1 ${Place}`;

interface Figures {
  readonly requestsPerSecond: number;
  readonly p50: number;
  readonly p99: number;
  /** CPU µs a request. */
  readonly serverCpu: number;
  readonly postgresCpu: number;
  readonly openedPerSecond: number;
  /** Of the reads. */
  readonly hitRate: number;
  /** Requests a second, relative to those without the cache in the same round. */
  readonly ofOff: number;
}

export const cachedFleet: Scenario<'cached-fleet'> = {
  name: 'cached-fleet',
  what: `reads and writes of products over ${MOST_TENANTS} tenants (Zipf s=1.0) with ${BUDGET} connections, with and without the cache`,
  rounds: 3,

  async run(bench) {
    const stage = await bench.stages.fleet();
    const tenants = await stage.tenants(MOST_TENANTS);
    const rounds = await eachRound(bench, this.name, async (round, tell) => {
      const measured: Partial<Record<Side, Figures>> = {};
      for (const place of places) {
        const first = requestsOf(stage, tenants, round, Infinity)[0];
        if (!first) throw new Error('there is no request');
        await withCache(stage, place, first, async (service) => {
          tell(`every product once, ${place}`);
          await readAll(service, tenants);
          for (const mix of mixes) {
            tell(`${mix}:1, ${place}`);
            const figures = await measureOne(stage, service, requestsOf(stage, tenants, round, mix));
            const off = measured[`${mix}:1 off`] ?? figures;
            measured[`${mix}:1 ${place}`] = {
              ...figures,
              ofOff: figures.requestsPerSecond / off.requestsPerSecond,
            };
          }
        });
      }
      return measured as Record<Side, Figures>;
    });
    const sides = mixes.flatMap((mix) => places.map((place): Side => `${mix}:1 ${place}`));
    const middle = mediansOfSides<Side, Figures>(sides, rounds);
    return {
      name: this.name,
      what: this.what,
      rounds,
      median: middle,
      table: {
        caption: `${timedMediansOf(bench)}, after every product was read once; ${bench.flags.connections} connections; ${BUDGET} database connections over all tenants`,
        headings: [
          'scenario',
          'reads:writes, cached in',
          'req/s',
          'p50 ms',
          'p99 ms',
          'server µs',
          'postgres µs',
          'opened/s',
          'hit rate',
          'of off: req/s (rounds)',
        ],
        rows: sides.map((side) => {
          const { requestsPerSecond, p50, p99, serverCpu, postgresCpu, openedPerSecond, ...rest } = middle[side];
          const isOff = side.endsWith(' off');
          return [
            side === sides[0] ? 'cached-fleet' : '',
            side,
            wholeNumber(requestsPerSecond),
            p50.toFixed(2),
            p99.toFixed(2),
            serverCpu.toFixed(1),
            postgresCpu.toFixed(1),
            openedPerSecond.toFixed(1),
            isOff ? '' : rest.hitRate.toFixed(4),
            isOff
              ? ''
              : ratioWithRounds(
                  rest.ofOff,
                  rounds.map((round) => round[side].ofOff),
                ),
          ];
        }),
      },
      warnings: [],
      failures: [],
    };
  },
};

async function measureOne(
  { flags, cluster, cleanup }: Fleet,
  { url, pid, metricsPort }: CachingService,
  requests: readonly LoadRequest[],
): Promise<Omit<Figures, 'ofOff'>> {
  const { connections, warmup, seconds } = flags;
  const job = { url, connections, warmup, seconds, requests };
  const before = await cacheCounts(metricsPort);
  const { result, counts } = await watchConnections(cluster, (edges) =>
    measure({ name: 'load', job, server: pid }, cluster.postmaster, cleanup, edges),
  );
  const { requestsPerSecond, p50, p99, serverCpu, postgresCpu } = result;
  return {
    requestsPerSecond,
    p50,
    p99,
    serverCpu,
    postgresCpu,
    openedPerSecond: counts.opened / seconds,
    hitRate: hitRate(before, await cacheCounts(metricsPort)),
  };
}

/** @param mix reads for each write */
function requestsOf({ flags }: Fleet, tenants: readonly SeededTenant[], round: number, mix: number): LoadRequest[] {
  const random = seededRandom(round);
  const draw = zipf(tenants.length, 1);
  return Array.from({ length: flags.connections * REQUESTS_PER_CONNECTION }, () => {
    const tenant = tenants[draw(random)];
    if (!tenant) throw new RangeError('there is no such tenant');
    return random() < 1 / (mix + 1) ? writeOf(tenant, random) : readOf(tenant, random);
  });
}

function writeOf(tenant: SeededTenant, random: Random): LoadRequest {
  return {
    method: 'POST',
    path: `/products/${pick(tenant.productIds, random)}/stock`,
    headers: { ...headersOf(tenant, random), 'content-type': 'application/json' },
    body: JSON.stringify({ delta: 1 }),
  };
}
