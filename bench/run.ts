// `npm run bench`: compares the production service with the smallest program that could give the same bytes. Also compares it with
// itself, with many tenants or with one in trouble.
import { describeError, runCommand } from '../src/lib/command-line.js';
import { Cleanup } from './cleanup.js';
import { benchCommand, flagsOf, type Flags } from './flags.js';
import { isProcReadable } from './measuring/proc.js';
import { machineFacts, progress, tables, writeJson, type ScenarioReport } from './report.js';
import { scenarios } from './scenarios/index.js';
import { createStages } from './stage/stages.js';

const cleanup = new Cleanup();
const interruption = new AbortController();

/** The exit code after a signal. */
const INTERRUPTED = 130;

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    // Everything below has a deadline: a second Ctrl-C would only leave PostgreSQL running.
    if (interruption.signal.aborted) return;
    interruption.abort();
    progress('stopping');
    void cleanup.run().finally(() => process.exit(INTERRUPTED));
  });
}

// Such as the loss of the terminal: without this handler the processes would keep running.
process.on('uncaughtException', (error) => {
  interruption.abort();
  process.stderr.write(`\n${describeError(error)}\n`);
  void cleanup.run().finally(() => process.exit(1));
});

await runCommand(benchCommand(scenarios), async (line) => {
  try {
    return await bench(flagsOf(line));
  } catch (error) {
    // A failure after Ctrl-C is expected: the scenario's servers are being stopped.
    if (interruption.signal.aborted) return INTERRUPTED;
    throw error;
  } finally {
    await cleanup.run();
  }
});

/** Returns the exit code. */
async function bench(flags: Flags): Promise<number> {
  if (!isProcReadable()) {
    process.stderr.write('the benchmark reads CPU time and memory from /proc: it needs Linux\n');
    return 1;
  }
  const machine = machineFacts();
  const stages = createStages(flags, cleanup);
  const reports: ScenarioReport[] = [];
  for (const scenario of scenarios.filter(({ name }) => flags.scenarios.includes(name))) {
    try {
      reports.push(await scenario.run({ flags, stages, rounds: flags.rounds ?? scenario.rounds }));
    } catch (error) {
      if (interruption.signal.aborted) throw error;
      throw new Error(`${scenario.name} failed. The service's last complaints:\n${await stages.complaints()}`, {
        cause: error,
      });
    }
  }
  const report = { facts: { ...machine, postgres: stages.postgres }, flags, reports };
  await writeJson(flags.json, report);
  process.stdout.write(tables(report));
  progress(`written to ${flags.json}`);
  return reports.some(({ failures }) => failures.length > 0) ? 1 : 0;
}
