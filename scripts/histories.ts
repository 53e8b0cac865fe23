// `npm run histories`: long histories of reads and writes over replicas that cache answers in a Redis that fails.
import { defineCommand, runCommand, text, wholeNumber, type CommandLine } from '../src/lib/command-line.js';
import { omissions, playHistory, type HistoryResult } from '../tests/support/cache-histories.js';
import { startCluster } from '../tests/support/cluster.js';
import { exitCodes, say } from './command.js';

const MAX_SEED = 2 ** 31 - 1;

/** How long (ms) one history lasts. The next one has the next seed, and a fresh Redis and registry. */
const LASTS = 30_000;

const historiesCommand = defineCommand({
  start: 'npm run histories --',
  about: `
Starts a throwaway PostgreSQL and Redis, and replicas of the service that cache answers, each with its own way to Redis. They
read and write a few products of two tenants, pause, and end between any two steps, while Redis is cut off from one replica,
frozen, emptied, full, restarted, or restored from an older snapshot. No answer may be older than what was acknowledged before
its request was sent.`,
  flags: {
    minutes: wholeNumber({
      what: 'how long it plays, in histories of half a minute',
      min: 1,
      max: 10_000,
      default: 10,
    }),
    replicas: wholeNumber({ what: 'how many replicas', min: 1, max: 8, default: 3 }),
    seed: wholeNumber({
      placeholder: 'S',
      what: 'the seed of the first history, which makes its choices; each later history has the next seed',
      min: 0,
      max: MAX_SEED,
      default: Math.floor(Math.random() * MAX_SEED),
      defaultText: 'a random one, which is printed',
      example: 7,
    }),
    without: text({
      placeholder: 'STEP',
      what: `leaves a step of the protocol out, to see that the histories notice: ${omissions.join(', ')}`,
    }),
  },
  exits: { 0: 'no answer was too old', 1: 'one was', 3: 'the run itself could not go on' },
  failed: exitCodes.failed,
});

/** Returns the exit code. */
async function run({ flags }: CommandLine<typeof historiesCommand.flags>): Promise<number> {
  const { minutes, replicas, seed, without } = flags;
  const omit = omissions.find((step) => step === without);
  if (without !== undefined && !omit) {
    say(`There is no step ${without}.`);
    return exitCodes.failed;
  }
  const { cluster, stop } = await startCluster();
  // Without this, Ctrl-C would leave PostgreSQL running, and its folder.
  const interrupted = (): void => {
    void stop().finally(() => process.exit(exitCodes.failed));
  };
  process.once('SIGINT', interrupted).once('SIGTERM', interrupted);
  const ends = performance.now() + minutes * 60_000;
  const results: HistoryResult[] = [];
  try {
    for (let next = seed; performance.now() < ends; next += 1) {
      const lasts = Math.min(LASTS, ends - performance.now());
      const result = await playHistory(cluster, { seed: next, lasts, replicas, omit, stopAtFirst: true });
      results.push(result);
      say(
        `seed ${next}: ${result.reads} reads, ${result.hits} hits, ${result.writes} writes, ${result.broken.length} too old`,
      );
      const [broken] = result.broken;
      if (broken === undefined) continue;
      say(`\n${broken}`);
      say(`\nAgain: npm run histories -- --minutes 1 --replicas ${replicas} --seed ${next}`);
      break;
    }
  } finally {
    process.off('SIGINT', interrupted).off('SIGTERM', interrupted);
    await stop();
  }
  say(`\n${summary(results)}`);
  return results.some(({ broken }) => broken.length > 0) ? exitCodes.broken : exitCodes.kept;
}

/** All histories together. */
function summary(results: readonly HistoryResult[]): string {
  const sum = (pick: (result: HistoryResult) => number): number => results.reduce((all, one) => all + pick(one), 0);
  const table = (pick: (result: HistoryResult) => Readonly<Record<string, number>>): string => {
    const names = [...new Set(results.flatMap((result) => Object.keys(pick(result))))].sort();
    return names.map((name) => `${name} ${sum((result) => pick(result)[name] ?? 0)}`).join(', ');
  };
  return [
    `${results.length} histories: ${sum(({ reads }) => reads)} reads, ${sum(({ writes }) => writes)} acknowledged writes, ${sum(({ unacknowledged }) => unacknowledged)} others`,
    `cache: ${table(({ events }) => events)}`,
    `faults: ${table(({ faults }) => faults)}`,
    `too old: ${sum(({ broken }) => broken.length)}`,
  ].join('\n');
}

await runCommand(historiesCommand, run);
