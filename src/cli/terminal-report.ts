// The migration on a terminal: a line about its progress once a second, and the report at its end.
import type { MigrationProgress, MigrationReport } from '../rollouts/migrate-fleet.js';
import { reasonOf } from '../rollouts/reasons.js';

/** Shortest time (ms) between two lines about the progress. */
const EVERY = 1_000;

type Write = (text: string) => void;

export function showProgress(write: Write): MigrationProgress {
  const began = performance.now();
  let shownAt = began;
  return {
    registry: (ran) => {
      write(registryLine(ran));
    },
    tenant({ id, slug }, { done, all, error, again }) {
      if (error !== undefined)
        write(`  failed${again ? ', tried again later' : ''}: ${slug} (${id}): ${reasonOf(error)}\n`);
      const now = performance.now();
      if (now - shownAt < EVERY && done < all) return;
      shownAt = now;
      const left = done === 0 || done === all ? '' : `, ${duration(((now - began) / done) * (all - done))} left`;
      write(`tenants    ${done} of ${all}${left}\n`);
    },
  };
}

/** Writes what the migration did, without the line about the registry, which `showProgress` has written. */
export function showReport(write: Write, report: MigrationReport): void {
  const { templateMade, clustersFailed, tenantsMigrated, tenantsCurrent, tenantsUnfinished, failed } = report;
  const { tenantsOfFailedClusters, rolesBounded, databasesMarked, standbyWithdrawn, newer, templatesLeft } = report;
  const { rollout, blocked } = report;
  const lines = [
    `template   ${templateMade ? 'made' : 'up to date'}`,
    ...clustersFailed.map(({ cluster, error }) => `  failed: the cluster ${cluster}: ${reasonOf(error)}`),
    ...(standbyWithdrawn > 0 ? [`standby    ${standbyWithdrawn} databases of an older build withdrawn`] : []),
    `tenants    ${tenantsMigrated} migrated, ${tenantsCurrent} up to date, ${failed.length} failed`,
    ...(blocked !== undefined ? [`  not begun: ${blocked}`] : []),
    ...(rollout && rollout.state !== 'done' ? [`rollout    ${rolloutLine(rollout)}`] : []),
    ...(rollout && rollout.differences > 0
      ? [`drift      ${rollout.differences} tenants differ from the template, first ${rollout.firstDifference ?? ''}`]
      : []),
    ...(tenantsOfFailedClusters > 0 ? [`  not reached: ${tenantsOfFailedClusters} on clusters that failed`] : []),
    ...(tenantsUnfinished > 0
      ? [`  unfinished: ${tenantsUnfinished} that an older build is making. Run this again when it has ended`]
      : []),
    ...(rolesBounded > 0 ? [`roles      ${rolesBounded} bounded`] : []),
    ...(databasesMarked > 0 ? [`marks      ${databasesMarked} databases of a former build marked`] : []),
    ...templatesLeft.map(({ name, why }) => `  kept: the template ${name}, because ${why}`),
    ...(newer.length > 0
      ? [`newer      the fleet is newer than this build, which leaves it as it is: ${newer.join(', ')}`]
      : []),
    ...failed.map(({ tenant, error }) => `  failed: ${tenant.slug} (${tenant.id}): ${reasonOf(error)}`),
  ];
  write(`${lines.join('\n')}\n`);
}

function rolloutLine({ id, state, reason }: NonNullable<MigrationReport['rollout']>): string {
  if (state === 'running')
    return `${id} goes on when the clusters answer, on a replica of this build or in the next run`;
  return `${id} is ${state}${reason === null ? '' : `: ${reason}`}`;
}

function registryLine(ran: readonly string[]): string {
  return `registry   ${ran.length === 0 ? 'up to date' : `ran ${ran.join(', ')}`}\n`;
}

/** @param ms at least 0 @example `40 s`, `12 min` */
function duration(ms: number): string {
  const seconds = Math.ceil(ms / 1_000);
  return seconds < 120 ? `${seconds} s` : `${Math.round(seconds / 60)} min`;
}
