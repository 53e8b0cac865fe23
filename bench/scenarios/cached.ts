// Reads that are all answered from the cache, in the process and in Redis, against the floor, which asks the database.
import { pick, seededRandom } from '../figures/random.js';
import { mediansOfSides } from '../figures/statistics.js';
import { cacheCounts, hitRate } from '../measuring/cache-hits.js';
import { measure, type Measurement } from '../measuring/measure.js';
import type { LoadRequest } from '../programs/messages.js';
import { withCache } from '../stage/caching.js';
import type { Fleet } from '../stage/fleet.js';
import type { SeededTenant } from '../stage/seed.js';
import { headersOf, reads } from './trouble/neighbours.js';
import { eachRound, ratioWithRounds, timedMediansOf, wholeNumber, type Scenario } from './scenario.js';

const TENANTS = 4;

/** Different requests that each connection repeats. */
const REQUESTS_PER_CONNECTION = 100;

const places = ['memory', 'redis'] as const;
const acts = ['read', 'list'] as const;
type Place = (typeof places)[number];
type Act = (typeof acts)[number];
type Side = `${Act} ${Place}`;

interface Figures extends Pick<Measurement, 'requestsPerSecond' | 'p50' | 'p99' | 'serverCpu' | 'loadCpu'> {
  readonly hitRate: number;
  /** Requests a second, relative to the floor's in the same round. */
  readonly ofFloor: number;
}

type Round = Record<Side, Figures> & Record<`${Act} floor`, Measurement>;

export const cached: Scenario<'cached'> = {
  name: 'cached',
  what: 'GET /products/:id and GET /products?limit=20, all from the cache, against the floor without one',
  rounds: 3,

  async run(bench) {
    const stage = await bench.stages.fleet();
    const tenants = await stage.tenants(TENANTS);
    const load = (
      { url, pid }: { url: string; pid: number },
      requests: readonly LoadRequest[],
    ): Promise<Measurement> => {
      const { connections, warmup, seconds } = stage.flags;
      const job = { url, connections, warmup, seconds, requests };
      return measure({ name: 'load', job, server: pid }, stage.cluster.postmaster, stage.cleanup);
    };
    const rounds = await eachRound(bench, this.name, async (round, tell) => {
      const measured: Record<string, Measurement | Figures> = {};
      await stage.withFloor(tenants, stage.poolMax, async (floor) => {
        for (const act of acts) {
          tell(`${act}, floor`);
          measured[`${act} floor`] = await load(floor, requestsOf(act, stage, tenants, round));
        }
      });
      for (const place of places) {
        const [first] = requestsOf('read', stage, tenants, round);
        if (!first) throw new Error('there is no request');
        await withCache(stage, place, first, async (service) => {
          for (const act of acts) {
            tell(`${act}, ${place}`);
            const before = await cacheCounts(service.metricsPort);
            const figures = await load(service, requestsOf(act, stage, tenants, round));
            const floor = measured[`${act} floor`] ?? figures;
            measured[`${act} ${place}`] = {
              ...figures,
              hitRate: hitRate(before, await cacheCounts(service.metricsPort)),
              ofFloor: figures.requestsPerSecond / floor.requestsPerSecond,
            };
          }
        });
      }
      return measured as unknown as Round;
    });
    const sides = acts.flatMap((act) => places.map((place): Side => `${act} ${place}`));
    const middle = mediansOfSides<Side, Figures>(sides, rounds);
    return {
      name: this.name,
      what: this.what,
      rounds,
      median: middle,
      table: {
        caption: `${timedMediansOf(bench)}; ${bench.flags.connections} connections; ${TENANTS} tenants`,
        headings: [
          'scenario',
          'cached in',
          'req/s',
          'p50 ms',
          'p99 ms',
          'server µs',
          'load cores',
          'hit rate',
          'of floor: req/s (rounds)',
        ],
        rows: sides.map((side) => {
          const { requestsPerSecond, p50, p99, serverCpu, loadCpu, hitRate: rate, ofFloor } = middle[side];
          return [
            side === sides[0] ? 'cached' : '',
            side,
            wholeNumber(requestsPerSecond),
            p50.toFixed(2),
            p99.toFixed(2),
            serverCpu.toFixed(1),
            loadCpu.toFixed(2),
            rate.toFixed(4),
            ratioWithRounds(
              ofFloor,
              rounds.map((round) => round[side].ofFloor),
            ),
          ];
        }),
      },
      warnings: [],
      failures: [],
    };
  },
};

function requestsOf(act: Act, { flags }: Fleet, tenants: readonly SeededTenant[], round: number): LoadRequest[] {
  const count = flags.connections * REQUESTS_PER_CONNECTION;
  if (act === 'read') return reads(count, round, (random) => pick(tenants, random));
  const random = seededRandom(round);
  return Array.from({ length: count }, () => {
    const tenant = pick(tenants, random);
    return { method: 'GET', path: '/products?limit=20', headers: headersOf(tenant, random) };
  });
}
