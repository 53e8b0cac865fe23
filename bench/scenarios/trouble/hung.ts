// One tenant's PostgreSQL server hangs, like a machine that swaps or lost its disk: the effect on the others, and how soon the
// tenant's own requests are answered.
import { seededRandom } from '../../figures/random.js';
import { median, medians } from '../../figures/statistics.js';
import { freeze } from '../../measuring/freeze.js';
import type { OpenLoadJob } from '../../programs/messages.js';
import type { Cluster } from '../../stage/cluster.js';
import type { Fleet } from '../../stage/fleet.js';
import {
  halfOfCapacity,
  latenciesOf,
  latenessWarnings,
  type Latencies,
  NEIGHBOURS,
  neighbours,
  otherWarnings,
  reads,
  readOf,
  runOpenLoad,
  startOpenLoad,
} from './neighbours.js';
import { untilServed } from './recovery.js';
import { eachRound, ratioWithRounds, timedMediansOf, wholeNumber, type Scenario } from '../scenario.js';

/** Requests a second of the tenant that hangs. */
const OWN_RATE = 20;

/** Maximum seconds for any answer. After this time the service should refuse at once, without waiting. */
const KNOWN_AFTER = 2;

interface Own {
  /** Median from two seconds after the start of the hang, in ms. */
  readonly later: number;
  /** From the start of the hang, in ms. */
  readonly slowest: number;
  readonly refused: number;
  readonly served: number;
  readonly other: number;
}

interface HungRound {
  readonly before: Latencies;
  readonly during: Latencies;
  /** p99 of the other tenants during the hang, over p99 before. */
  readonly ratio: number;
  /** The answers to the tenant on the hung server. */
  readonly own: Own;
  readonly firstOther: string | undefined;
  /** From the end of the hang until the tenant is served, in ms. */
  readonly recovery: number;
}

export const hung: Scenario<'hung'> = {
  name: 'hung',
  what: `${NEIGHBOURS} tenants at half of the capacity while the server of another hangs (SIGSTOP)`,
  rounds: 5,

  async run(bench) {
    const stage = await bench.stages.fleet();
    // Not the first tenant: an earlier flood of sign-ins has ended the sessions of its seeded users.
    const [, ...others] = await stage.tenants(NEIGHBOURS + 1);
    const { tenant, cluster } = await stage.loner();
    return stage.withService({}, async (service) => {
      const rate = await halfOfCapacity(stage, service, others);
      const { url } = service;
      const rounds = await eachRound<HungRound>(bench, this.name, async (round, tell) => {
        const job = neighbours(stage, service, others, rate, round);
        const requests = reads(100, round, () => tenant);
        const { seconds } = job;
        const ownBefore = { url, rate: OWN_RATE, warmup: job.warmup, seconds, requests, successOnly: true };
        tell('all well');
        const [before] = await Promise.all([runOpenLoad(stage, job), runOpenLoad(stage, ownBefore)]);
        tell('one hangs');
        const ownDuring = { ...ownBefore, warmup: KNOWN_AFTER, seconds: Math.max(1, seconds - KNOWN_AFTER) };
        const { during, own, firstOther } = await whileHung(stage, cluster, job, { ...ownDuring, successOnly: false });
        const recovery = await untilServed(service, readOf(tenant, seededRandom(round)));
        return {
          before: latenciesOf(before),
          during,
          ratio: during.p99 / before.p99,
          own,
          firstOther,
          recovery,
        };
      });
      const middle = {
        before: medians(rounds.map(({ before }) => before)),
        during: medians(rounds.map(({ during }) => during)),
        ratio: median(rounds.map(({ ratio }) => ratio)),
        own: medians(rounds.map(({ own }) => own)),
        recovery: median(rounds.map(({ recovery }) => recovery)),
      };
      const { before, during, ratio, own } = middle;
      return {
        name: this.name,
        what: this.what,
        rounds,
        median: middle,
        table: {
          caption: `${timedMediansOf(bench)}; ${NEIGHBOURS} tenants asked ${wholeNumber(rate)} times a second, half of the capacity; the one that hangs ${OWN_RATE} times`,
          headings: [
            'scenario',
            'the other tenant',
            'p50 ms',
            'p99 ms',
            'p99 over well (rounds)',
            'its answers: 503',
            'served',
            'other',
            'slowest ms',
            `after ${KNOWN_AFTER} s: p50 ms`,
            'well again ms',
          ],
          rows: [
            ['hung', 'is well', before.p50.toFixed(2), before.p99.toFixed(2), '', '', '', '', '', '', ''],
            [
              '',
              'hangs',
              during.p50.toFixed(2),
              during.p99.toFixed(2),
              ratioWithRounds(
                ratio,
                rounds.map((round) => round.ratio),
              ),
              wholeNumber(own.refused),
              wholeNumber(own.served),
              wholeNumber(own.other),
              wholeNumber(Math.max(...rounds.map((round) => round.own.slowest))),
              own.later.toFixed(2),
              wholeNumber(middle.recovery),
            ],
          ],
        },
        warnings: [...latenessWarnings(this.name, before), ...otherWarnings(this.name, rounds)],
        failures: [],
      };
    });
  },
};

/** Runs both loads while the tenant's server hangs, from the start of the others' measured time. */
async function whileHung(
  stage: Fleet,
  { postmaster }: Cluster,
  others: OpenLoadJob,
  ownJob: OpenLoadJob,
): Promise<{ during: Latencies } & Pick<HungRound, 'own' | 'firstOther'>> {
  const load = await startOpenLoad(stage, others);
  await load.begun;
  const thaw = await freeze(postmaster, stage.cleanup);
  try {
    const { p50, slowest, refused, served, other, firstOther } = await runOpenLoad(stage, ownJob);
    const own = { later: p50, slowest, refused, served, other };
    return { during: latenciesOf(await load.result), own, firstOther };
  } finally {
    thaw();
    await load.stop();
  }
}
