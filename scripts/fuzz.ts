// `npm run fuzz`: made-up requests to a service of its own, as many as one likes.
import { describeFailure } from '../tests/fuzz/report.js';
import { fuzz, startFuzzService } from '../tests/fuzz/run.js';
import { startCluster } from '../tests/support/cluster.js';
import { command, exitCodes, parseFlags, say, wholeNumber } from './command.js';

const HELP = `Usage: npm run fuzz -- [flags]

Starts a throwaway PostgreSQL and the service, makes requests from the service's own OpenAPI document (valid, nearly valid
and hostile ones, by everybody and by nobody), and checks every answer: no failure, nothing that is not declared, no secret.
Stops at the first answer that breaks a promise and looks for the smallest request that does the same.

  --requests N    how many requests are made (default 5000)
  --seed S        a whole number; with the same seed the same requests come again (default: a random one, which is printed)
  --keep          leaves the service running after a failure, until Ctrl-C, so that the printed curl line can be tried
  --help          this text

TEST_SERVERS=containers takes PostgreSQL from a container instead of the embedded binaries.
Exit code: 0 all promises kept, 1 one was broken, 2 the command line is wrong, 3 the run itself could not go on.
`;

interface Flags {
  readonly requests: number;
  readonly seed: number;
  readonly keep: boolean;
}

const DEFAULT_REQUESTS = 5_000;
const MAX_SEED = 2 ** 31 - 1;

/** How often (ms) the run says how far it is. */
const PROGRESS_INTERVAL = 5_000;

function readFlags(args: readonly string[]): Flags | 'help' {
  const { help, requests, seed, keep } = parseFlags(args, {
    requests: { type: 'string', default: String(DEFAULT_REQUESTS) },
    seed: { type: 'string', default: String(Math.floor(Math.random() * MAX_SEED)) },
    keep: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  });
  if (help) return 'help';
  return {
    requests: wholeNumber('requests', requests, 1, MAX_SEED),
    seed: wholeNumber('seed', seed, 0, MAX_SEED),
    keep,
  };
}

/** Returns the exit code. */
async function run({ requests, seed, keep }: Flags): Promise<number> {
  say(`${requests} requests with --seed ${seed}`);
  const { cluster, stop } = await startCluster();
  // Without this Ctrl-C would leave PostgreSQL running, and its folder.
  const interrupted = (): void => {
    void stop().finally(() => process.exit(exitCodes.failed));
  };
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
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
      process.off('SIGINT', interrupted).off('SIGTERM', interrupted);
      if (keep) await untilInterrupted();
      return exitCodes.broken;
    } finally {
      await service.close();
    }
  } finally {
    await stop();
  }
}

/** How often each status came. */
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
  await new Promise((resolve) => process.once('SIGINT', resolve).once('SIGTERM', resolve));
}

await command(HELP, readFlags, run);
