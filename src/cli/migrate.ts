// `npm run migrate`: migrates the registry, the template and every tenant's database to the newest schema.
import { prepareAndMigrate } from '../boot/index.js';
import { ConfigError, processEnvironment, readSettings } from '../config/index.js';
import { HistoryDiffers } from '../../db/shared/migration-history.js';
import type { EmbeddedCluster } from '../embedded/embedded-cluster.js';
import { inPlainWords } from '../jobs/plain-words.js';
import { defineCommand, runCommand } from '../lib/command-line.js';
import { createLogger } from '../observability/logger.js';

const migrateCommand = defineCommand({
  start: 'npm run migrate --',
  about: `
Brings the registry, the template database and every tenant's database to the newest schema. Safe to repeat, and to run
while the service runs. Reads the same environment as the service (docs/reference/configuration.md).`,
  flags: {},
  exits: { 0: 'all are up to date', 1: 'a database could not be migrated, and the others are done' },
});

let embedded: EmbeddedCluster | undefined;

await runCommand(migrateCommand, async () => {
  try {
    return await migrate();
  } catch (error) {
    process.stderr.write(`${describe(error)}\n`);
    return 1;
  } finally {
    await embedded?.stop();
  }
});

/** @returns the exit code */
async function migrate(): Promise<number> {
  const settings = readSettings(processEnvironment());
  const report = await prepareAndMigrate(settings, createLogger(settings.log), (cluster) => {
    embedded = cluster;
  });
  const { registry, templateMade, clustersFailed, tenantsMigrated, tenantsCurrent, rolesBounded, failed } = report;
  const { databasesMarked, newer, templatesLeft } = report;
  process.stdout.write(
    [
      `registry   ${registry.length === 0 ? 'up to date' : `ran ${registry.join(', ')}`}`,
      `template   ${templateMade ? 'made' : 'up to date'}`,
      ...clustersFailed.map(({ cluster }) => `  failed: on the cluster ${cluster}`),
      `tenants    ${tenantsMigrated} migrated, ${tenantsCurrent} up to date, ${failed.length} failed`,
      ...(rolesBounded > 0 ? [`roles      ${rolesBounded} bounded`] : []),
      ...(databasesMarked > 0 ? [`marks      ${databasesMarked} databases of a former build marked`] : []),
      ...templatesLeft.map(({ name, why }) => `  kept: the template ${name}, because ${why}`),
      ...(newer.length > 0
        ? [`newer      the fleet is newer than this build, which leaves it as it is: ${newer.join(', ')}`]
        : []),
      ...failed.map(({ tenant, error }) => `  failed: ${tenant.slug} (${tenant.id}): ${reasonOf(error)}`),
      '',
    ].join('\n'),
  );
  return failed.length + clustersFailed.length > 0 ? 1 : 0;
}

function describe(error: unknown): string {
  if (error instanceof ConfigError || error instanceof HistoryDiffers) return error.message;
  return (error instanceof Error ? error.stack : undefined) ?? String(error);
}

/** The whole error is in the log. */
function reasonOf(error: unknown): string {
  return error instanceof HistoryDiffers ? error.message : `${inPlainWords(error)}.`;
}
