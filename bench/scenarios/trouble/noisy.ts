// One tenant floods the service with queries that wait: the effect on the others.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { seededRandom } from '../../figures/random.js';
import { median, medians } from '../../figures/statistics.js';
import { startDrive } from '../../measuring/drive.js';
import type { FloodJob } from '../../programs/messages.js';
import type { Fleet } from '../../stage/fleet.js';
import type { SeededTenant } from '../../stage/seed.js';
import {
  halfOfCapacity,
  latenciesOf,
  latenessWarnings,
  type Latencies,
  NEIGHBOURS,
  neighbours,
  otherWarnings,
  readOf,
  runOpenLoad,
} from './neighbours.js';
import { untilServed } from './recovery.js';
import { eachRound, ratioWithRounds, timedMediansOf, wholeNumber, type Scenario } from '../scenario.js';

/** Clients of the noisy tenant that wait at once. */
const CLIENTS = 250;

/** Time (ms) in which the flood's first requests take all they can get. */
const HEAD_START = 1_000;

/** Maximum seconds of the flood besides the measured time. */
const MARGIN = 60;

interface NoisyRound {
  readonly alone: Latencies;
  readonly flooded: Latencies;
  /** p99 under the flood over p99 without. */
  readonly ratio: number;
  readonly flood: {
    readonly waiting: number;
    readonly served: number;
    readonly refused: number;
    readonly other: number;
    readonly untilRefused: number;
  };
  readonly firstOther: string | undefined;
}

export const noisy: Scenario<'noisy'> = {
  name: 'noisy',
  what: `${NEIGHBOURS} tenants at half of the capacity while ${CLIENTS} requests of another wait for locks`,
  rounds: 5,

  async run(bench) {
    const stage = await bench.stages.fleet();
    const [loud, ...quiet] = await stage.tenants(NEIGHBOURS + 1);
    if (!loud) throw new Error('there is no tenant to be noisy');
    return stage.withService({}, async (service) => {
      const rate = await halfOfCapacity(stage, service, quiet);
      const rounds = await eachRound<NoisyRound>(bench, this.name, async (round, tell) => {
        const job = neighbours(stage, service, quiet, rate, round);
        tell('without the flood');
        const alone = latenciesOf(await runOpenLoad(stage, job));
        tell('under the flood');
        const request = readOf(loud, seededRandom(round));
        const longest = job.warmup + job.seconds + MARGIN;
        const { result, flood, firstOther } = await underFlood(
          stage,
          loud,
          { url: service.url, clients: CLIENTS, request, longest },
          () => runOpenLoad(stage, job),
        );
        await untilServed(service, request);
        const flooded = latenciesOf(result);
        return { alone, flooded, ratio: flooded.p99 / alone.p99, flood, firstOther };
      });
      const middle = {
        alone: medians(rounds.map(({ alone }) => alone)),
        flooded: medians(rounds.map(({ flooded }) => flooded)),
        ratio: median(rounds.map(({ ratio }) => ratio)),
        flood: medians(rounds.map(({ flood }) => flood)),
      };
      const { alone, flooded, ratio, flood } = middle;
      return {
        name: this.name,
        what: this.what,
        rounds,
        median: middle,
        table: {
          caption: `${timedMediansOf(bench)}; ${NEIGHBOURS} tenants asked ${wholeNumber(rate)} times a second, half of the capacity`,
          headings: [
            'scenario',
            'the other tenant',
            'p50 ms',
            'p99 ms',
            'p99 over quiet (rounds)',
            'its requests: waiting',
            'served',
            '503',
            'other',
            'ms until 503',
          ],
          rows: [
            ['noisy', 'quiet', alone.p50.toFixed(2), alone.p99.toFixed(2), '', '', '', '', '', ''],
            [
              '',
              'floods',
              flooded.p50.toFixed(2),
              flooded.p99.toFixed(2),
              ratioWithRounds(
                ratio,
                rounds.map((round) => round.ratio),
              ),
              wholeNumber(flood.waiting),
              wholeNumber(flood.served),
              wholeNumber(flood.refused),
              wholeNumber(flood.other),
              flood.refused === 0 ? '' : wholeNumber(flood.untilRefused),
            ],
          ],
        },
        warnings: [...latenessWarnings(this.name, alone), ...otherWarnings(this.name, rounds)],
        failures: [],
      };
    });
  },
};

/** Runs `work` while clients of a tenant wait for a table that the benchmark has locked. */
async function underFlood<T>(
  { cluster, cleanup }: Fleet,
  { database }: SeededTenant,
  job: FloodJob,
  work: () => Promise<T>,
): Promise<{ result: T } & Pick<NoisyRound, 'flood' | 'firstOther'>> {
  return cluster.asSuperuser(
    (db) =>
      db.transaction().execute(async (trx) => {
        await sql`lock table products in access exclusive mode`.execute(trx);
        const flood = await startDrive('flood', job, { cleanup });
        try {
          await flood.begun;
          await sleep(HEAD_START);
          const result = await work();
          flood.finish();
          const { waiting, served, refused, other, firstOther, untilRefused } = await flood.result;
          return { result, flood: { waiting, served, refused, other, untilRefused }, firstOther };
        } finally {
          await flood.stop();
        }
      }),
    database,
  );
}
