// `npm run fuzz`: sends any number of made-up requests to its own service.
import { defineCommand, runCommand, toggle, wholeNumber, type CommandLine } from '../src/lib/command-line.js';
import { describeFailure } from '../tests/fuzz/report.js';
import { fuzz, startFuzzService } from '../tests/fuzz/run.js';
import { startCluster } from '../tests/support/cluster.js';
import { exitCodes, say } from './command.js';

const MAX_SEED = 2 ** 31 - 1;

/** Interval (ms) between two lines of progress. */
const PROGRESS_INTERVAL = 5_000;

const fuzzCommand = defineCommand({
  start: 'npm run fuzz --',
  about: `
Starts a throwaway PostgreSQL and the service, makes requests from the service's own OpenAPI document (valid, nearly valid
and hostile ones, by everybody and by nobody), and checks every answer: no failure, nothing that is not declared, no secret.
Stops at the first answer that breaks a promise and looks for the smallest request that does the same.`,
  flags: {
    requests: wholeNumber({
      what: 'how many requests are made',
      min: 1,
      max: MAX_SEED,
      default: 5_000,
      example: 50_000,
    }),
    seed: wholeNumber({
      placeholder: 'S',
      what: 'with the same seed the same requests come again',
      min: 0,
      max: MAX_SEED,
      default: Math.floor(Math.random() * MAX_SEED),
      defaultText: 'a random one, which is printed',
      example: 7,
    }),
    keep: toggle({
      what: 'leaves the service running after a failure, until Ctrl-C, so that the printed curl line can be tried',
    }),
  },
  notes: 'TEST_SERVERS=containers takes PostgreSQL from a container instead of the embedded binaries.',
  exits: { 0: 'all promises kept', 1: 'one was broken', 3: 'the run itself could not go on' },
  failed: exitCodes.failed,
});

/** Returns the exit code. */
async function run({ flags: { requests, seed, keep } }: CommandLine<typeof fuzzCommand.flags>): Promise<number> {
  say(`${requests} requests with --seed ${seed}`);
  const { cluster, stop } = await startCluster();
  // Without this, Ctrl-C would leave PostgreSQL running, and its folder.
  const interrupted = (): void => {
    void stop().finally(() => process.exit(exitCodes.failed));
  };
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted).once('SIGHUP', interrupted);
  try {
    const service = await startFuzzService(cluster);
    try {
      const started = performance.now();
      let said = started;
      const { failure, tally } = await fuzz(cluster, service, {
        requests,
        seed,
        onProgress: (done) => {
          const now = performance.now();
          if (now - said < PROGRESS_INTERVAL) return;
          said = now;
          say(`${done} of ${requests}, ${Math.round((done * 1_000) / (now - started))} a second`);
        },
      });
      if (!failure) {
        say(summary(tally));
        say(`All ${requests} answers kept every promise.`);
        return exitCodes.kept;
      }
      const url = keep ? await service.app.listen({ port: 0, host: '127.0.0.1' }) : 'http://127.0.0.1:3000';
      say(describeFailure(failure, seed, url));
      say(`\nAgain: npm run fuzz -- --requests ${requests} --seed ${seed}${keep ? '' : ' --keep'}`);
      process.off('SIGINT', interrupted).off('SIGTERM', interrupted).off('SIGHUP', interrupted);
      if (keep) await untilInterrupted();
      return exitCodes.broken;
    } finally {
      await service.close();
    }
  } finally {
    await stop();
  }
}

/** The number of answers of each status. */
function summary(tally: ReadonlyMap<string, number>): string {
  const byStatus = new Map<string, number>();
  for (const [key, count] of tally) {
    const status = key.slice(-3);
    byStatus.set(status, (byStatus.get(status) ?? 0) + count);
  }
  return [...byStatus]
    .sort()
    .map(([status, count]) => `${status}: ${count}`)
    .join(', ');
}

async function untilInterrupted(): Promise<void> {
  say('The service runs until Ctrl-C.');
  await new Promise((resolve) => process.once('SIGINT', resolve).once('SIGTERM', resolve).once('SIGHUP', resolve));
}

await runCommand(fuzzCommand, run);
