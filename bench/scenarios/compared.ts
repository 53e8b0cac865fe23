// The kind of scenario that measures the service and its floor in the same round.
import { medians } from '../figures/statistics.js';
import type { Measurement } from '../measuring/measure.js';
import type { Table } from '../report.js';
import { SIZE, type Pair } from '../stage/pair.js';
import { eachRound, ratioWithRounds, timedMediansOf, wholeNumber, type Bench, type Scenario } from './scenario.js';

export type Side = 'service' | 'floor';

interface ComparedRound {
  readonly service: Measurement;
  readonly floor: Measurement;
  readonly ratio: Ratios;
}

/** The service relative to the floor: 1 is as fast or as cheap, 0.5 half as fast or twice as expensive. */
interface Ratios {
  readonly requests: number;
  readonly cpu: number;
}

const ROUNDS = 3;

/** Cores of a saturated load generator: it has one thread. */
const SATURATED = 0.95;

const HEADINGS = [
  'scenario',
  'side',
  'req/s',
  'p50 ms',
  'p99 ms',
  'server µs',
  'postgres µs',
  'RSS MiB',
  'load cores',
  'of floor: req/s (rounds)',
  'of floor: CPU',
];

export function compared<Name extends string>(scenario: {
  readonly name: Name;
  readonly what: string;
  /** @throws Error if the two sides do not do the same */
  check(pair: Pair): Promise<void>;
  /** @throws Error if any answer is no success */
  measure(pair: Pair, side: Side, round: number): Promise<Measurement>;
}): Scenario<Name> {
  const { name, what } = scenario;
  return {
    name,
    what,
    rounds: ROUNDS,
    async run(bench) {
      const pair = await bench.stages.pair();
      await scenario.check(pair);
      const rounds = await eachRound<ComparedRound>(bench, name, async (round, tell) => {
        tell('service');
        const service = await scenario.measure(pair, 'service', round);
        tell('floor');
        const floor = await scenario.measure(pair, 'floor', round);
        // A ratio for each round, in which both sides met the same machine; then the median of the ratios.
        const requests = service.requestsPerSecond / floor.requestsPerSecond;
        return { service, floor, ratio: { requests, cpu: floor.serverCpu / service.serverCpu } };
      });
      const middle: ComparedRound = {
        service: medians(rounds.map(({ service }) => service)),
        floor: medians(rounds.map(({ floor }) => floor)),
        ratio: medians(rounds.map(({ ratio }) => ratio)),
      };
      const isSaturated = [middle.service, middle.floor].some(({ loadCpu }) => loadCpu > SATURATED);
      return {
        name,
        what,
        rounds,
        median: middle,
        table: tableOf(name, bench, pair, rounds, middle),
        warnings: isSaturated ? [`${name}: the load generator had no CPU left; compare CPU and not requests.`] : [],
        failures: [],
      };
    },
  };
}

function tableOf(
  name: string,
  bench: Bench,
  { tenants, poolMax }: Pair,
  rounds: readonly ComparedRound[],
  { service, floor, ratio }: ComparedRound,
): Table {
  const { connections, fsync } = bench.flags;
  const count = tenants.length;
  const requests = ratioWithRounds(
    ratio.requests,
    rounds.map((round) => round.ratio.requests),
  );
  return {
    caption:
      `${timedMediansOf(bench)}; ${connections} connections; ` +
      `${count} tenants, ${count * SIZE.users} tokens, ${count * SIZE.products} products; ` +
      `${poolMax} database connections per tenant, fsync ${fsync ? 'on' : 'off'}`,
    headings: HEADINGS,
    rows: [
      [name, 'service', ...cells(service), requests, ratio.cpu.toFixed(2)],
      ['', 'floor', ...cells(floor), '', ''],
    ],
  };
}

function cells(measurement: Measurement): string[] {
  const { requestsPerSecond, p50, p99, serverCpu, postgresCpu, memory, loadCpu } = measurement;
  return [
    wholeNumber(requestsPerSecond),
    p50.toFixed(2),
    p99.toFixed(2),
    serverCpu.toFixed(1),
    postgresCpu.toFixed(1),
    memory.toFixed(0),
    loadCpu === 0 ? '' : loadCpu.toFixed(2),
  ];
}
