// `npm run migrate`: brings the whole fleet to this build's schema.
import { prepareAndMigrate } from '../boot/index.js';
import { describeProblem } from '../boot/start-problem.js';
import { processEnvironment, readSettings, type Settings } from '../config/index.js';
import type { EmbeddedCluster } from '../embedded/embedded-cluster.js';
import { defineCommand, runCommand } from '../lib/command-line.js';
import { createLogger } from '../observability/logger.js';
import { logProgress, logReport } from '../rollouts/migration-log.js';
import { endOnSignals } from './interruption.js';
import { showProgress, showReport } from './terminal-report.js';

const INCOMPLETE = 3;

const migrateCommand = defineCommand({
  start: 'npm run migrate --',
  about: `
Brings the registry, the template databases and every tenant's database to the newest schema. Safe to repeat, and to run
while the service runs. Reads the same environment as the service (docs/reference/configuration.md).`,
  flags: {},
  notes: `
On a terminal it writes text. Otherwise each line is a JSON object, and the last one has the report.`,
  exits: {
    0: 'everything is at the newest schema',
    1: 'it could not begin, or the registry failed: run it again',
    [INCOMPLETE]: 'some tenants or clusters are not at the newest schema, and the others are: run it again',
  },
});

let embedded: EmbeddedCluster | undefined;

endOnSignals();
await runCommand(migrateCommand, async () => {
  try {
    const settings = readSettings(processEnvironment());
    return process.stdout.isTTY ? await onTerminal(settings) : await asLines(settings);
  } catch (error) {
    process.stderr.write(`${describeProblem(error)}\n`);
    return 1;
  } finally {
    await embedded?.stop();
  }
});

async function onTerminal(settings: Settings): Promise<number> {
  const write = (text: string): void => void process.stdout.write(text);
  const report = await prepareAndMigrate(settings, createLogger(settings.log), keepEmbedded, showProgress(write));
  showReport(write, report);
  return exitCode(report);
}

async function asLines(settings: Settings): Promise<number> {
  const { log: options } = settings;
  // The progress and the report are lines of level info, which a quieter log would leave out.
  const level = ['debug', 'trace'].includes(options.level) ? options.level : 'info';
  const log = createLogger({ ...options, level });
  const report = await prepareAndMigrate(settings, log, keepEmbedded, logProgress(log));
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
}: Awaited<ReturnType<typeof prepareAndMigrate>>): number {
  return failed.length + clustersFailed.length + tenantsUnfinished > 0 ? INCOMPLETE : 0;
}
