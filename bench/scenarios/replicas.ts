// The cost of Redis for a read, up or down, and the gain from a second replica.
import { pick, seededRandom } from '../figures/random.js';
import { mediansOfSides } from '../figures/statistics.js';
import { measure, type Measurement } from '../measuring/measure.js';
import type { Service } from '../stage/installation.js';
import type { Pair } from '../stage/pair.js';
import { startRedis } from '../stage/redis.js';
import { eachRound, ratioWithRounds, timedMediansOf, wholeNumber, type Scenario } from './scenario.js';

/** Different requests that each connection repeats. */
const REQUESTS_PER_CONNECTION = 500;

const sides = ['alone', 'redis up', 'redis down', 'two replicas'] as const;
type Side = (typeof sides)[number];

interface Figures extends Pick<Measurement, 'requestsPerSecond' | 'p50' | 'p99' | 'serverCpu' | 'postgresCpu'> {
  /** Requests a second, relative to one process without Redis in the same round. */
  readonly ofAlone: number;
  /** CPU µs of one process without Redis over this process's, in the same round. */
  readonly cpuOfAlone: number;
}

type Round = Record<Side, Figures>;

export const replicas: Scenario<'replicas'> = {
  name: 'replicas',
  what: 'GET /products/:id with Redis up, down and unset, and with two replicas',
  rounds: 6,

  async run(bench) {
    const pair = await bench.stages.pair();
    const [up, down] = [await startRedis(pair.cleanup), await startRedis(pair.cleanup)];
    const withRedis = (url: string): Promise<Service> => pair.startAnother({ REDIS_URL: url });
    const served: Record<Side, readonly Service[]> = {
      alone: [await pair.startAnother({})],
      'redis up': [await withRedis(up.url)],
      'redis down': [await withRedis(down.url)],
      'two replicas': [await withRedis(up.url), await withRedis(up.url)],
    };
    await down.stop();
    const rounds = await eachRound<Round>(bench, this.name, async (round, tell) => {
      const measured: Partial<Record<Side, Measurement>> = {};
      // Each round begins with another side, so that a machine that slows down favours neither.
      for (const index of sides.keys()) {
        const side = sides[(index + round) % sides.length] ?? 'alone';
        tell(side);
        measured[side] = await measureTogether(pair, served[side], round);
      }
      const all = measured as Record<Side, Measurement>;
      return eachSide((side) => ({
        ...all[side],
        ofAlone: all[side].requestsPerSecond / all.alone.requestsPerSecond,
        cpuOfAlone: all.alone.serverCpu / all[side].serverCpu,
      }));
    });
    for (const service of sides.flatMap((side) => served[side])) await service.stop();
    await up.stop();
    const middle = mediansOfSides(sides, rounds);
    return {
      name: this.name,
      what: this.what,
      rounds,
      median: middle,
      table: {
        caption: `${timedMediansOf(bench)}; ${bench.flags.connections} connections; ${pair.tenants.length} tenants`,
        headings: [
          'scenario',
          'service',
          'req/s',
          'p50 ms',
          'p99 ms',
          'server µs',
          'postgres µs',
          'of alone: req/s (rounds)',
          'of alone: CPU (rounds)',
        ],
        rows: sides.map((side) => {
          const { requestsPerSecond, p50, p99, serverCpu, postgresCpu, ofAlone, cpuOfAlone } = middle[side];
          const perRound = (figure: 'ofAlone' | 'cpuOfAlone'): number[] => rounds.map((round) => round[side][figure]);
          return [
            side === 'alone' ? 'replicas' : '',
            side,
            wholeNumber(requestsPerSecond),
            p50.toFixed(2),
            p99.toFixed(2),
            serverCpu.toFixed(1),
            postgresCpu.toFixed(1),
            side === 'alone' ? '' : ratioWithRounds(ofAlone, perRound('ofAlone')),
            side === 'alone' ? '' : ratioWithRounds(cpuOfAlone, perRound('cpuOfAlone')),
          ];
        }),
      },
      warnings: [],
      failures: [],
    };
  },
};

/** Loads the processes at the same time, each with its share of the connections. */
async function measureTogether(pair: Pair, services: readonly Service[], round: number): Promise<Measurement> {
  const { warmup, seconds } = pair.flags;
  const connections = Math.ceil(pair.flags.connections / services.length);
  const each = await Promise.all(
    services.map(({ url, pid }, index) => {
      const random = seededRandom(round * services.length + index);
      const requests = Array.from({ length: connections * REQUESTS_PER_CONNECTION }, () => {
        const tenant = pick(pair.tenants, random);
        const headers = { authorization: `Bearer ${pick(tenant.users, random).token}` };
        return { method: 'GET' as const, path: `/products/${pick(tenant.productIds, random)}`, headers };
      });
      const job = { url, connections, warmup, seconds, requests };
      return measure({ name: 'load', job, server: pid }, pair.cluster.postmaster, pair.cleanup);
    }),
  );
  const [first] = each;
  if (!first) throw new Error('no service');
  const requestsPerSecond = sumOf(each, (one) => one.requestsPerSecond);
  const share = (one: Measurement): number => one.requestsPerSecond / requestsPerSecond;
  return {
    ...first,
    requestsPerSecond,
    p50: sumOf(each, (one) => one.p50 * share(one)),
    p99: Math.max(...each.map((one) => one.p99)),
    serverCpu: sumOf(each, (one) => one.serverCpu * share(one)),
    // Each process has counted all of PostgreSQL's time for its own requests.
    postgresCpu: first.postgresCpu * share(first),
  };
}

function eachSide<T>(of: (side: Side) => T): Record<Side, T> {
  return Object.fromEntries(sides.map((side) => [side, of(side)])) as Record<Side, T>;
}

function sumOf(each: readonly Measurement[], figure: (one: Measurement) => number): number {
  return each.reduce((sum, one) => sum + figure(one), 0);
}
