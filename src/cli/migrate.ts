// `npm run migrate`: brings the whole fleet to this build's schema.
import { prepareAndMigrate } from '../boot/index.js';
import { describeProblem } from '../boot/start-problem.js';
import { processEnvironment, readSettings, type Settings } from '../config/index.js';
import type { EmbeddedCluster } from '../embedded/embedded-cluster.js';
import { defineCommand, runCommand } from '../lib/command-line.js';
import { createLogger } from '../observability/logger.js';
import { logProgress, logReport } from '../rollouts/migration-log.js';
import type { RolloutRun } from '../rollouts/roll-tenants.js';
import { endOnSignals } from './interruption.js';
import { rolloutFlags, rolloutRunOf } from './rollout-flags.js';
import { showProgress, showReport } from './terminal-report.js';

const INCOMPLETE = 3;

const migrateCommand = defineCommand({
  start: 'npm run migrate --',
  about: `
Brings the registry, the template databases and every tenant's database to the newest schema. Safe to repeat, and to run
while the service runs. Reads the same environment as the service (docs/reference/configuration.md).
Tenants that are behind are migrated by a rollout, which replicas of this build work on too (docs/guide/operate.md). If one
is under way, this joins it.`,
  flags: rolloutFlags,
  notes: `
On a terminal it writes text. Otherwise each line is a JSON object, and the last one has the report.`,
  exits: {
    0: 'everything is at the newest schema',
    1: 'it could not begin, or the registry failed: run it again',
    [INCOMPLETE]:
      'some tenants or clusters are not at the newest schema, or the rollout is paused or stopped: see the report, and run it again',
  },
});

let embedded: EmbeddedCluster | undefined;

endOnSignals();
await runCommand(migrateCommand, async ({ flags }) => {
  const run = rolloutRunOf(flags);
  try {
    const settings = readSettings(processEnvironment());
    return process.stdout.isTTY ? await onTerminal(settings, run) : await asLines(settings, run);
  } catch (error) {
    process.stderr.write(`${describeProblem(error)}\n`);
    return 1;
  } finally {
    await embedded?.stop();
  }
});

async function onTerminal(settings: Settings, run: RolloutRun): Promise<number> {
  const write = (text: string): void => void process.stdout.write(text);
  const report = await prepareAndMigrate(settings, createLogger(settings.log), keepEmbedded, showProgress(write), run);
  showReport(write, report);
  return exitCode(report);
}

async function asLines(settings: Settings, run: RolloutRun): Promise<number> {
  const { log: options } = settings;
  // The progress and the report are lines of level info, which a quieter log would leave out.
  const level = ['debug', 'trace'].includes(options.level) ? options.level : 'info';
  const log = createLogger({ ...options, level });
  const report = await prepareAndMigrate(settings, log, keepEmbedded, logProgress(log), run);
  logReport(log, report);
  return exitCode(report);
}

function keepEmbedded(cluster: EmbeddedCluster): void {
  embedded = cluster;
}

function exitCode({
  failed,
  clustersFailed,
  tenantsUnfinished,
  blocked,
  rollout,
}: Awaited<ReturnType<typeof prepareAndMigrate>>): number {
  const isOver = blocked === undefined && (rollout === undefined || rollout.state === 'done');
  return isOver && failed.length + clustersFailed.length + tenantsUnfinished === 0 ? 0 : INCOMPLETE;
}
