// Many clients sign in at once, repeatedly: the effect of the hashing on tenants that only read.
import { setTimeout as sleep } from 'node:timers/promises';
import { median, medians } from '../../figures/statistics.js';
import { startDrive } from '../../measuring/drive.js';
import type { FloodJob, LoadRequest } from '../../programs/messages.js';
import type { Fleet } from '../../stage/fleet.js';
import { USER_PASSWORD, type SeededTenant } from '../../stage/seed.js';
import {
  halfOfCapacity,
  latenciesOf,
  latenessWarnings,
  type Latencies,
  NEIGHBOURS,
  neighbours,
  otherWarnings,
  runOpenLoad,
} from './neighbours.js';
import { untilServed } from './recovery.js';
import { eachRound, ratioWithRounds, timedMediansOf, wholeNumber, type Scenario } from '../scenario.js';

/** Clients that sign in, each again after its answer. */
const CLIENTS = 100;

/** Time (ms) in which the queue of hashes fills. */
const HEAD_START = 1_000;

/** Maximum seconds of the flood besides the measured time. */
const MARGIN = 60;

interface FloodRound {
  readonly quiet: Latencies;
  readonly flooded: Latencies;
  /** p99 under the flood over p99 without. */
  readonly ratio: number;
  readonly flood: {
    readonly signInsPerSecond: number;
    readonly refused: number;
    readonly other: number;
  };
  readonly firstOther: string | undefined;
}

export const loginFlood: Scenario<'flood-login'> = {
  name: 'flood-login',
  what: `${NEIGHBOURS} tenants at half of the capacity while ${CLIENTS} clients of another sign in on and on`,
  rounds: 5,

  async run(bench) {
    const stage = await bench.stages.fleet();
    const [loud, ...quiet] = await stage.tenants(NEIGHBOURS + 1);
    if (!loud) throw new Error('there is no tenant to sign in to');
    return stage.withService({}, async (service) => {
      const rate = await halfOfCapacity(stage, service, quiet);
      const request = signInOf(loud);
      const rounds = await eachRound<FloodRound>(bench, this.name, async (round, tell) => {
        const job = neighbours(stage, service, quiet, rate, round);
        tell('without the flood');
        const atRest = latenciesOf(await runOpenLoad(stage, job));
        tell('under the flood');
        const longest = job.warmup + job.seconds + MARGIN;
        const { result, flood, firstOther } = await underFlood(
          stage,
          { url: service.url, clients: CLIENTS, request, longest },
          () => runOpenLoad(stage, job),
        );
        await untilServed(service, request);
        const flooded = latenciesOf(result);
        return { quiet: atRest, flooded, ratio: flooded.p99 / atRest.p99, flood, firstOther };
      });
      const middle = {
        quiet: medians(rounds.map((round) => round.quiet)),
        flooded: medians(rounds.map(({ flooded }) => flooded)),
        ratio: median(rounds.map(({ ratio }) => ratio)),
        flood: medians(rounds.map(({ flood }) => flood)),
      };
      const { flooded, ratio, flood } = middle;
      return {
        name: this.name,
        what: this.what,
        rounds,
        median: middle,
        table: {
          caption: `${timedMediansOf(bench)}; ${NEIGHBOURS} tenants asked ${wholeNumber(rate)} times a second, half of the capacity`,
          headings: [
            'scenario',
            'sign-ins',
            'p50 ms',
            'p99 ms',
            'p99 over quiet (rounds)',
            'sign-ins a second',
            '503',
            'other',
          ],
          rows: [
            ['flood-login', 'none', middle.quiet.p50.toFixed(2), middle.quiet.p99.toFixed(2), '', '', '', ''],
            [
              '',
              `${CLIENTS} at once`,
              flooded.p50.toFixed(2),
              flooded.p99.toFixed(2),
              ratioWithRounds(
                ratio,
                rounds.map((round) => round.ratio),
              ),
              flood.signInsPerSecond.toFixed(1),
              wholeNumber(flood.refused),
              wholeNumber(flood.other),
            ],
          ],
        },
        warnings: [...latenessWarnings(this.name, middle.quiet), ...otherWarnings(this.name, rounds)],
        failures: [],
      };
    });
  },
};

function signInOf({ slug, users }: SeededTenant): LoadRequest {
  const [user] = users;
  if (!user) throw new Error('the tenant has nobody to sign in');
  return {
    method: 'POST',
    path: '/auth/login',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ tenant: slug, email: user.email, password: USER_PASSWORD }),
  };
}

/** Runs `work` while clients sign in as fast as they are answered. */
async function underFlood<T>(
  { cleanup }: Fleet,
  job: FloodJob,
  work: () => Promise<T>,
): Promise<{ result: T } & Pick<FloodRound, 'flood' | 'firstOther'>> {
  const flood = await startDrive('flood', job, { cleanup });
  try {
    await flood.begun;
    const begunAt = performance.now();
    await sleep(HEAD_START);
    const result = await work();
    const seconds = (performance.now() - begunAt) / 1_000;
    flood.finish();
    const { served, refused, other, firstOther } = await flood.result;
    return { result, flood: { signInsPerSecond: served / seconds, refused, other }, firstOther };
  } finally {
    await flood.stop();
  }
}
