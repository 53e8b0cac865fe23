// `npm run bench`: the service as it runs in production, against the least that could answer the same bytes and against
// itself when its tenants are many or one of them is in trouble.
import { Cleanup } from './cleanup.js';
import { HELP, readFlags, UsageError, type Flags } from './flags.js';
import { isProcReadable } from './measuring/proc.js';
import { machineFacts, progress, tables, writeJson } from './report.js';
import { scenarios } from './scenarios/index.js';
import type { ScenarioReport } from './scenarios/scenario.js';
import { createStages } from './stage/stages.js';

const cleanup = new Cleanup();
const interruption = new AbortController();

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.on(signal, () => {
    // Everything below has a deadline: a second Ctrl-C would only leave PostgreSQL running.
    if (interruption.signal.aborted) return;
    interruption.abort();
    progress('stopping');
    void cleanup.run().finally(() => process.exit(130));
  });
}

// Such as a terminal that is gone: without this the processes would stay.
process.on('uncaughtException', (error) => {
  interruption.abort();
  process.stderr.write(`\n${describe(error)}\n`);
  void cleanup.run().finally(() => process.exit(1));
});

try {
  const flags = readFlags(process.argv.slice(2));
  if (flags === 'help') process.stdout.write(HELP);
  else await bench(flags);
} catch (error) {
  if (!interruption.signal.aborted) {
    process.exitCode = 1;
    process.stderr.write(`\n${describe(error)}\n`);
  }
} finally {
  await cleanup.run();
}

async function bench(flags: Flags): Promise<void> {
  if (!isProcReadable()) throw new UsageError('the benchmark reads CPU time and memory from /proc: it needs Linux');
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
  if (reports.some(({ failures }) => failures.length > 0)) process.exitCode = 1;
}

function describe(error: unknown): string {
  if (error instanceof UsageError) return `${error.message}\nWhat there is: npm run bench -- --help`;
  if (!(error instanceof Error)) return String(error);
  const { stack = error.message, cause } = error;
  return cause === undefined ? stack : `${stack}\ncaused by ${describe(cause)}`;
}
