// The jobs of the fleet as one list: when each last ran and worked, wherever that was, and whether it fails.
import type { JobRow } from '../../db/registry/job-rows.js';
import type { JobState } from '../jobs/job-states.js';
import type { JobStatus } from './status-types.js';

/**
 * @param rows the jobs in the registry; undefined if they could not be read: then `own` is all that is known
 * @param ownId the answering replica, whose runs are `own`
 */
export function jobsStatus(rows: readonly JobRow[] | undefined, ownId: string, own: readonly JobState[]): JobStatus[] {
  const known = rows ?? [];
  // A job that has not begun anywhere has no row yet.
  const others = own.filter(({ name }) => known.every((row) => row.name !== name));
  return [...known.map(ofRow), ...others.map((job) => ofState(ownId, job))].sort((one, other) =>
    one.name < other.name ? -1 : 1,
  );
}

function ofRow(row: JobRow): JobStatus {
  const { runningOn, runningFor, failuresInARow, lastRunOn, lastError, lastSuccessAgo } = row;
  return {
    name: row.name,
    every: row.every,
    running: runningOn !== null && runningFor !== null ? [{ replicaId: runningOn, runningFor }] : [],
    lastRunAgo: row.lastRunAgo,
    lastRunOn,
    lastDuration: row.lastDuration,
    lastSuccessAgo,
    failing: failing(lastRunOn ?? '', { failuresInARow, lastError, lastSuccessAgo }),
  };
}

function ofState(replicaId: string, job: JobState): JobStatus {
  const { name, every, runningFor, failuresInARow, lastRunAgo = null, lastDuration = null } = job;
  const lastSuccessAgo = job.lastSuccessAgo ?? null;
  return {
    name,
    every,
    running: runningFor === undefined ? [] : [{ replicaId, runningFor }],
    lastRunAgo,
    lastRunOn: lastRunAgo === null ? null : replicaId,
    lastDuration,
    lastSuccessAgo,
    failing: failing(replicaId, { failuresInARow, lastError: job.lastError ?? null, lastSuccessAgo }),
  };
}

function failing(
  replicaId: string,
  { failuresInARow, lastError, lastSuccessAgo }: Pick<JobRow, 'failuresInARow' | 'lastError' | 'lastSuccessAgo'>,
): JobStatus['failing'] {
  if (failuresInARow === 0) return [];
  const words = lastError ?? 'an unexpected error, which the log shows';
  return [{ replicaId, failuresInARow, lastError: words, lastSuccessAgo }];
}
