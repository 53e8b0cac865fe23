// A build with more migrations than this one, as its own process: it rolls out as `npm run migrate` does.
import { sql } from 'kysely';
import { pino } from 'pino';
import type { Migration } from '../../db/shared/migration-types.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import type { DriverMessage, NewerBuildJob, RolledOut } from './messages.js';

process.once('message', (job: NewerBuildJob) => {
  void run(job);
});
process.once('disconnect', () => process.exit(1));

async function run({ env, steps }: NewerBuildJob): Promise<void> {
  // Before any module reads the newest version.
  Object.assign(tenantMigrations, Object.fromEntries(steps.map((step) => [step, addingColumn(step)])));
  const { prepareAndMigrate } = await import('../../src/boot/index.js');
  const { readSettings } = await import('../../src/config/index.js');
  const settings = readSettings(env);
  const log = pino({ enabled: false });
  let failure: string | undefined;
  let tenants = 0;
  tell({ kind: 'begin' });
  const begunAt = performance.now();
  try {
    const report = await prepareAndMigrate(settings, log, () => undefined);
    tenants = report.tenantsMigrated;
    const left = [...report.failed, ...report.clustersFailed];
    const { blocked, rollout } = report;
    if (blocked !== undefined) failure = `the rollout did not begin: ${blocked}`;
    else if (rollout && (rollout.state !== 'done' || rollout.differences > 0))
      failure = `the rollout is ${rollout.state}: ${rollout.reason ?? rollout.firstDifference ?? ''}`;
    if (left.length > 0) failure = `the rollout left ${left.length} behind: ${String(left[0]?.error)}`;
  } catch (error) {
    failure = `the rollout failed: ${String(error)}`;
  }
  const ms = performance.now() - begunAt;
  tell({ kind: 'end' });
  tell({ kind: 'result', ms, tenants, peakMemory: process.resourceUsage().maxRSS / 1_024, failure });
  process.removeAllListeners('disconnect');
  process.disconnect();
}

function addingColumn(name: string): Migration {
  return {
    async up(db) {
      await sql`alter table products add column ${sql.id(name)} text`.execute(db);
    },
  };
}

function tell(message: DriverMessage<RolledOut>): void {
  process.send?.(message);
}
