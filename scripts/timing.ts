// `npm run timing`: whether the duration of a failed sign-in reveals the reason of the failure.
import { median } from '../bench/figures/statistics.js';
import { defineCommand, runCommand, wholeNumber, type CommandLine } from '../src/lib/command-line.js';
import { makeDataDir, startProcess } from '../tests/support/service-process.js';
import { auc } from '../tests/timing/auc.js';
import { CLASSES, measure, prepare, type Times } from '../tests/timing/run.js';
import { exitCodes, say } from './command.js';

/** The distance from 0.5 that may still be chance: 3.3 standard deviations, which is one run of a thousand. */
const toleranceOf = (samples: number): number => 3.3 / Math.sqrt(6 * samples);

/** Interval (ms) between two lines of progress. */
const PROGRESS_INTERVAL = 10_000;

const MOST = 999_999;

const timingCommand = defineCommand({
  start: 'npm run timing --',
  about: `
Starts the service as a process of its own, with the embedded PostgreSQL, and signs in again and again with what must fail:
a wrong password, an unknown tenant, an unknown user, an inactive user, a suspended tenant, in random order. Prints for each
how well its times can be told from those of a wrong password: the AUC of Mann and Whitney, 0.50 when a coin does as well.`,
  flags: {
    samples: wholeNumber({ what: 'times for each reason', min: 1, max: MOST, default: 2_000, example: 500 }),
    'at-once': wholeNumber({ what: 'sign-ins under way at a time', min: 1, max: MOST, default: 3 }),
  },
  notes: `
2,000 samples take some 17 minutes: every failure takes a quarter of a second at least. Nothing else must run meanwhile: when
the machine is so busy that the work takes longer than that, what differs in it shows.`,
  exits: {
    0: 'all are as near to 0.50 as chance leaves them (0.03 with 2,000 samples)',
    1: 'one is not',
    3: 'the run itself could not go on',
  },
  failed: exitCodes.failed,
});

/** Returns the exit code. */
async function run({ flags }: CommandLine<typeof timingCommand.flags>): Promise<number> {
  const { samples, 'at-once': atOnce } = flags;
  const data = await makeDataDir();
  const service = await startProcess({ DATA_DIR: data.dir });
  const stop = async (): Promise<void> => {
    service.signal('SIGTERM');
    await service.exited;
    await data.remove();
  };
  // Without this, Ctrl-C would leave the service running, and its folder.
  const interrupted = (): void => {
    void stop().finally(() => process.exit(exitCodes.failed));
  };
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted).once('SIGHUP', interrupted);
  try {
    const operator = { email: 'operator@tenantry.local', password: service.operatorPassword ?? '' };
    const attempts = await prepare(service.url, operator);
    let said = performance.now();
    const onRound = (round: number): void => {
      if (performance.now() - said < PROGRESS_INTERVAL) return;
      said = performance.now();
      say(`${round} of ${samples}`);
    };
    return tell(await measure(service.url, attempts, { samples, atOnce, onRound }));
  } finally {
    process.off('SIGINT', interrupted).off('SIGTERM', interrupted).off('SIGHUP', interrupted);
    await stop();
  }
}

/** Prints the table and returns the exit code. */
function tell(times: Times): number {
  const [first, ...others] = CLASSES;
  const tolerance = toleranceOf(times[first].length);
  say(`\n${'reason'.padEnd(22)}${'median ms'.padStart(10)}${'AUC'.padStart(8)}`);
  say(`${first.padEnd(22)}${median(times[first]).toFixed(2).padStart(10)}`);
  let even = true;
  for (const name of others) {
    const value = auc(times[name], times[first]);
    even &&= Math.abs(value - 0.5) <= tolerance;
    say(`${name.padEnd(22)}${median(times[name]).toFixed(2).padStart(10)}${value.toFixed(3).padStart(8)}`);
  }
  say(`\n${even ? 'All' : 'Not all'} within 0.50 ± ${tolerance.toFixed(2)}.`);
  return even ? exitCodes.kept : exitCodes.broken;
}

await runCommand(timingCommand, run);
