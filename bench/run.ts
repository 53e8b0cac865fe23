// `npm run bench`: the service as it runs in production against the least that could answer the same bytes.
import { Cleanup } from './cleanup.js';
import { HELP, readFlags, UsageError, type Flags } from './flags.js';
import { isProcReadable } from './proc.js';
import { progress, summarise, table, writeJson, type ScenarioReport } from './report.js';
import { scenarios } from './scenarios/index.js';
import type { ComparedRound, Scenario } from './scenarios/scenario.js';
import type { TenantRound } from './scenarios/tenant.js';
import { openStage, type Stage } from './stage.js';

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
  const stage = await openStage(flags, cleanup);
  const reports: ScenarioReport[] = [];
  for (const scenario of scenarios.filter(({ name }) => flags.scenarios.includes(name))) {
    try {
      reports.push(await runScenario(scenario, stage, flags));
    } catch (error) {
      if (interruption.signal.aborted) throw error;
      throw new Error(`${scenario.name} failed. The service's last complaints:\n${await stage.complaints()}`, {
        cause: error,
      });
    }
  }
  await writeJson(flags.json, { facts: stage.facts, flags, reports });
  process.stdout.write(table(stage.facts, flags, reports));
  progress(`written to ${flags.json}`);
}

async function runScenario(scenario: Scenario, stage: Stage, { rounds: count }: Flags): Promise<ScenarioReport> {
  const compared: ComparedRound[] = [];
  const tenant: TenantRound[] = [];
  if (scenario.kind === 'compared') await scenario.check(stage);
  for (let round = 1; round <= count; round += 1) {
    const label = `${scenario.name} ${round}/${count}`;
    if (scenario.kind === 'tenant') {
      progress(label);
      tenant.push(await scenario.run(stage));
      continue;
    }
    progress(`${label} service`);
    const service = await scenario.measure(stage, 'service', round);
    progress(`${label} floor`);
    const floor = await scenario.measure(stage, 'floor', round);
    compared.push({ service, floor });
  }
  return summarise(scenario, compared, tenant);
}

function describe(error: unknown): string {
  if (error instanceof UsageError) return `${error.message}\nWhat there is: npm run bench -- --help`;
  if (!(error instanceof Error)) return String(error);
  const { stack = error.message, cause } = error;
  return cause === undefined ? stack : `${stack}\ncaused by ${describe(cause)}`;
}
