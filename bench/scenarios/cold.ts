// A tenant's first request in a process, against a request of a tenant in use: the cost of a pool, a connection and all first
// look-ups.
import { Agent } from 'node:http';
import { pick, seededRandom } from '../figures/random.js';
import { median, medians, percentile } from '../figures/statistics.js';
import { cpuTime, treeCpuTime } from '../measuring/proc.js';
import { ask } from '../programs/ask.js';
import type { LoadRequest } from '../programs/messages.js';
import type { Fleet } from '../stage/fleet.js';
import type { Service } from '../stage/installation.js';
import { reads, readOf } from './trouble/neighbours.js';
import { eachRound, mediansOf, ratioWithRounds, type Scenario } from './scenario.js';

/** Fewer cold tenants than the connections that the service may have: a cold tenant must not wait for another's connection. */
const COLD = 80;
const WARM = 10;

const WARM_REQUESTS = 2_000;

interface Figures {
  /** Per request. Times in ms, CPU in µs. */
  readonly p50: number;
  readonly p95: number;
  readonly serverCpu: number;
  readonly postgresCpu: number;
}

interface ColdRound {
  readonly cold: Figures;
  readonly warm: Figures;
  /** Cold over warm. */
  readonly ratio: { readonly time: number; readonly serverCpu: number; readonly postgresCpu: number };
}

export const cold: Scenario<'cold'> = {
  name: 'cold',
  what: `the first GET /products/:id of ${COLD} tenants in a new process, against one of ${WARM} tenants in use`,
  rounds: 3,

  async run(bench) {
    const stage = await bench.stages.fleet();
    const tenants = await stage.tenants(WARM + COLD);
    const [warmTenants, coldTenants] = [tenants.slice(0, WARM), tenants.slice(WARM)];
    const rounds = await eachRound<ColdRound>(bench, this.name, (round, tell) => {
      tell('');
      const random = seededRandom(round);
      const first = coldTenants.map((tenant) => readOf(tenant, random));
      const usual = reads(WARM_REQUESTS, round, (choice) => pick(warmTenants, choice));
      // Each round has its own process: every tenant is cold again, and the rest of the process is warm.
      return stage.withService({}, async (service) => {
        await warmUp(service, usual, stage.flags.warmup);
        const warm = await askEach(stage, service, usual);
        return ratiosOf(await askEach(stage, service, first), warm);
      });
    });
    const middle: ColdRound = {
      cold: medians(rounds.map((round) => round.cold)),
      warm: medians(rounds.map(({ warm }) => warm)),
      ratio: medians(rounds.map(({ ratio }) => ratio)),
    };
    const { ratio } = middle;
    const cells = ({ p50, p95, serverCpu, postgresCpu }: Figures): string[] => [
      p50.toFixed(2),
      p95.toFixed(2),
      serverCpu.toFixed(0),
      postgresCpu.toFixed(0),
    ];
    const times = rounds.map((round) => round.ratio.time);
    return {
      name: this.name,
      what: this.what,
      rounds,
      median: middle,
      table: {
        caption: `${mediansOf(bench)}; ${COLD} first requests and ${WARM_REQUESTS} of tenants in use, one at a time`,
        headings: [
          'scenario',
          'the tenant is',
          'p50 ms',
          'p95 ms',
          'server µs',
          'postgres µs',
          'of warm: ms (rounds)',
          'of warm: server',
          'of warm: postgres',
        ],
        rows: [
          [
            'cold',
            'cold',
            ...cells(middle.cold),
            ratioWithRounds(ratio.time, times),
            ratio.serverCpu.toFixed(1),
            ratio.postgresCpu.toFixed(1),
          ],
          ['', 'warm', ...cells(middle.warm), '', '', ''],
        ],
      },
      warnings: [],
      failures: [],
    };
  },
};

function ratiosOf(coldFigures: Figures, warm: Figures): ColdRound {
  return {
    cold: coldFigures,
    warm,
    ratio: {
      time: coldFigures.p50 / warm.p50,
      serverCpu: coldFigures.serverCpu / warm.serverCpu,
      postgresCpu: coldFigures.postgresCpu / warm.postgresCpu,
    },
  };
}

/** Sends each request at least once, so that every tenant in use has its connection, and continues for `seconds`. */
async function warmUp(service: Service, requests: readonly LoadRequest[], seconds: number): Promise<void> {
  const until = performance.now() + seconds * 1_000;
  do await oneByOne(service, requests);
  while (performance.now() < until);
}

async function askEach({ cluster }: Fleet, service: Service, requests: readonly LoadRequest[]): Promise<Figures> {
  const look = (): { server: number; postgres: number } => ({
    server: cpuTime(service.pid),
    postgres: treeCpuTime(cluster.postmaster),
  });
  const before = look();
  const times = await oneByOne(service, requests);
  const after = look();
  return {
    p50: median(times),
    p95: percentile(times, 0.95),
    serverCpu: (after.server - before.server) / requests.length,
    postgresCpu: (after.postgres - before.postgres) / requests.length,
  };
}

/** Returns the duration of each request, in ms. @throws Error if one is not served */
async function oneByOne({ url }: Service, requests: readonly LoadRequest[]): Promise<number[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 });
  const target = new URL(url);
  const times: number[] = [];
  try {
    for (const request of requests) {
      const begunAt = performance.now();
      const { status } = await ask(agent, target, request);
      if (status !== 200) throw new Error(`${request.path} answers ${status}`);
      times.push(performance.now() - begunAt);
    }
    return times;
  } finally {
    agent.destroy();
  }
}
