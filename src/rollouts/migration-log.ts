// The migration as lines of the log.
import type { Logger } from 'pino';
import type { MigrationProgress, MigrationReport } from './migrate-fleet.js';
import { reasonOf } from './reasons.js';

export function logProgress(log: Logger): MigrationProgress {
  return {
    registry(migrations) {
      if (migrations.length > 0) log.info({ migrations }, 'migrated the registry');
    },
    tenant({ id: tenantId }, { done, all, error: err, again }) {
      if (err === undefined) log.info({ tenantId, done, all }, 'migrated a tenant database');
      // The error of a tenant that is not tried again is logged at the end.
      else if (again)
        log.warn({ tenantId, done, all, err }, 'could not migrate a tenant database: it is tried again later');
    },
  };
}

/** Logs the whole report on one line, for programs that read it. */
export function logReport(log: Logger, report: MigrationReport): void {
  const { clustersFailed, failed, ...counts } = report;
  const line = {
    ...counts,
    clustersFailed: clustersFailed.map(({ cluster, error }) => ({ cluster, reason: reasonOf(error) })),
    failed: failed.map(({ tenant, error }) => ({ id: tenant.id, slug: tenant.slug, reason: reasonOf(error) })),
  };
  log.info({ report: line }, 'the migration has ended');
}
