// Many tenants on one server with a budget of connections: the loss against a single tenant, and whether the budget holds.
import { pick, type Random } from '../figures/random.js';
import { medians } from '../figures/statistics.js';
import { zipf } from '../figures/zipf.js';
import { watchConnections } from '../measuring/connections.js';
import { measure } from '../measuring/measure.js';
import type { LoadRequest } from '../programs/messages.js';
import { BUDGET, MOST_TENANTS, type Fleet } from '../stage/fleet.js';
import type { Service } from '../stage/installation.js';
import type { SeededTenant } from '../stage/seed.js';
import { reads } from './trouble/neighbours.js';
import { eachRound, ratioWithRounds, timedMediansOf, wholeNumber, type Scenario } from './scenario.js';

const HOT = 80;

/** Different requests that each connection repeats: together they include each of the rare tenants. */
const REQUESTS_PER_CONNECTION = 500;

type Choose = (tenants: readonly SeededTenant[]) => (random: Random) => SeededTenant;

const byZipf =
  (s: number): Choose =>
  (tenants) => {
    const draw = zipf(tenants.length, s);
    return (random) => at(tenants, draw(random));
  };

const loads = {
  one: { label: 'one tenant', choose: (tenants) => () => at(tenants, 0) },
  hot: { label: `${HOT} tenants`, choose: (tenants) => (random) => pick(tenants.slice(0, HOT), random) },
  zipf10: { label: `Zipf s=1.0 over ${MOST_TENANTS}`, choose: byZipf(1) },
  zipf15: { label: `Zipf s=1.5 over ${MOST_TENANTS}`, choose: byZipf(1.5) },
} as const satisfies Record<string, { readonly label: string; readonly choose: Choose }>;

type LoadName = keyof typeof loads;
const loadNames = Object.keys(loads) as LoadName[];

interface Figures {
  readonly requestsPerSecond: number;
  /** Requests a second, relative to `one` in the same round. */
  readonly ofOne: number;
  readonly p99: number;
  readonly serverCpu: number;
  readonly postgresCpu: number;
  /** The share of requests that found an open connection. */
  readonly hitRate: number;
  readonly openedPerSecond: number;
  /** Maximum of server connections in any sample. */
  readonly most: number;
}

/** The loads with a floor: the floor has as many connections for each tenant as the budget allows. */
const floors = { one: 'floor, one tenant', hot: `floor, ${HOT} tenants` } as const;
type FloorName = keyof typeof floors;
const floorNames = Object.keys(floors) as FloorName[];
const hasFloor = (name: LoadName): name is FloorName => name in floors;

type FloorFigures = Pick<Figures, 'requestsPerSecond' | 'p99' | 'serverCpu' | 'postgresCpu'> & {
  /** The service's requests a second, relative to the floor's in the same round. */
  readonly ofFloor: number;
};

interface FleetRound {
  readonly service: Record<LoadName, Figures>;
  readonly floor: Record<FloorName, FloorFigures>;
}

export const fleet: Scenario<'fleet'> = {
  name: 'fleet',
  what: `GET /products/:id over ${MOST_TENANTS} tenants with ${BUDGET} connections in all, against one tenant`,
  rounds: 3,

  async run(bench) {
    const stage = await bench.stages.fleet();
    const tenants = await stage.tenants(MOST_TENANTS);
    const rounds = await stage.withService({}, (service) =>
      eachRound(bench, this.name, async (round, tell) => {
        const measured: Partial<FleetRound['service']> = {};
        for (const name of loadNames) {
          tell(loads[name].label);
          const figures = await measureOne(stage, service, requestsOf(name, stage, tenants, round));
          measured[name] = {
            ...figures,
            ofOne: figures.requestsPerSecond / (measured.one ?? figures).requestsPerSecond,
          };
        }
        const own = measured as FleetRound['service'];
        const floor: Partial<FleetRound['floor']> = {};
        for (const name of floorNames) {
          tell(floors[name]);
          const asked = tenants.slice(0, name === 'one' ? 1 : HOT);
          const poolMax = Math.min(stage.poolMax, Math.floor(BUDGET / asked.length));
          const figures = await stage.withFloor(asked, poolMax, (target) =>
            measureOne(stage, target, requestsOf(name, stage, tenants, round)),
          );
          floor[name] = { ...figures, ofFloor: own[name].requestsPerSecond / figures.requestsPerSecond };
        }
        return { service: own, floor: floor as FleetRound['floor'] };
      }),
    );
    const middle = Object.fromEntries(
      loadNames.map((name) => [name, medians(rounds.map(({ service }) => service[name]))]),
    ) as FleetRound['service'];
    const middleOfFloor = Object.fromEntries(
      floorNames.map((name) => [name, medians(rounds.map(({ floor }) => floor[name]))]),
    ) as FleetRound['floor'];
    const most = (name: LoadName): number => Math.max(...rounds.map(({ service }) => service[name].most));
    const ofFloor = (name: LoadName): string =>
      hasFloor(name)
        ? ratioWithRounds(
            middleOfFloor[name].ofFloor,
            rounds.map(({ floor }) => floor[name].ofFloor),
          )
        : '';
    return {
      name: this.name,
      what: this.what,
      rounds,
      median: { service: middle, floor: middleOfFloor },
      table: {
        caption: `${timedMediansOf(bench)}; ${bench.flags.connections} connections; ${BUDGET} database connections over all tenants, ${stage.poolMax} per tenant`,
        headings: [
          'scenario',
          'asked for',
          'req/s',
          'p99 ms',
          'server µs',
          'postgres µs',
          'hit rate',
          'opened/s',
          'most open',
          'of one tenant: req/s (rounds)',
          'of floor: req/s (rounds)',
        ],
        rows: [
          ...loadNames.map((name) => {
            const figures = middle[name];
            const ratios = rounds.map(({ service }) => service[name].ofOne);
            return [
              name === 'one' ? 'fleet' : '',
              loads[name].label,
              ...timesOf(figures),
              figures.hitRate.toFixed(4),
              figures.openedPerSecond.toFixed(1),
              wholeNumber(most(name)),
              name === 'one' ? '' : ratioWithRounds(figures.ofOne, ratios),
              ofFloor(name),
            ];
          }),
          ...floorNames.map((name) => ['', floors[name], ...timesOf(middleOfFloor[name])]),
        ],
      },
      warnings: [],
      failures: loadNames
        .filter((name) => most(name) > BUDGET)
        .map((name) => `fleet, ${loads[name].label}: ${most(name)} connections were open; the budget is ${BUDGET}.`),
    };
  },
};

function timesOf({ requestsPerSecond, p99, serverCpu, postgresCpu }: FloorFigures | Figures): string[] {
  return [wholeNumber(requestsPerSecond), p99.toFixed(2), serverCpu.toFixed(1), postgresCpu.toFixed(1)];
}

function requestsOf(name: LoadName, { flags }: Fleet, tenants: readonly SeededTenant[], round: number): LoadRequest[] {
  return reads(flags.connections * REQUESTS_PER_CONNECTION, round, loads[name].choose(tenants));
}

function at(tenants: readonly SeededTenant[], index: number): SeededTenant {
  const tenant = tenants[index];
  if (!tenant) throw new RangeError(`there is no tenant ${index}`);
  return tenant;
}

async function measureOne(
  { flags, cluster, cleanup }: Fleet,
  { url, pid }: Pick<Service, 'url' | 'pid'>,
  requests: readonly LoadRequest[],
): Promise<Omit<Figures, 'ofOne'>> {
  const { connections, warmup, seconds } = flags;
  const job = { url, connections, warmup, seconds, requests };
  const { result, counts } = await watchConnections(cluster, (edges) =>
    measure({ name: 'load', job, server: pid }, cluster.postmaster, cleanup, edges),
  );
  const { requestsPerSecond, p99, serverCpu, postgresCpu } = result;
  const openedPerSecond = counts.opened / seconds;
  return {
    requestsPerSecond,
    p99,
    serverCpu,
    postgresCpu,
    hitRate: 1 - openedPerSecond / requestsPerSecond,
    openedPerSecond,
    most: counts.most,
  };
}
