// The jobs of all replicas as one list: when each last ran and worked, wherever that was, and where it fails.
import type { ReplicaJob } from '../../db/registry/status-queries.js';
import type { JobState } from '../jobs/job-states.js';
import type { JobStatus } from './status-types.js';

/**
 * A replica on which a job failed may not get its turn again, while the job works on the others. Then its failure counts for so
 * long (ms) after three pauses of the job.
 */
const FAILURE_COUNTS_FOR = 60_000;

/**
 * @param rows the jobs of all replicas in the registry, a few seconds old
 * @param ownId the answering replica, whose jobs are `own`
 */
export function jobsStatus(rows: readonly ReplicaJob[], ownId: string, own: readonly JobState[]): JobStatus[] {
  const others = rows.filter(({ replicaId }) => replicaId !== ownId);
  const all = [...own.map((job) => ofState(ownId, job)), ...others];
  const names = [...new Set(all.map(({ name }) => name))].sort();
  return names.map((name) => oneJob(all.filter((job) => job.name === name)));
}

function oneJob(runs: readonly ReplicaJob[]): JobStatus {
  const [first] = runs;
  const latest = runs.reduce<ReplicaJob | undefined>(
    (best, run) => (age(run.lastRunAgo) < age(best?.lastRunAgo ?? null) ? run : best),
    undefined,
  );
  const lastSuccessAgo = Math.min(...runs.map((run) => age(run.lastSuccessAgo)));
  return {
    name: first?.name ?? '',
    every: first?.every ?? 0,
    running: runs.flatMap(({ replicaId, runningFor }) => (runningFor === null ? [] : [{ replicaId, runningFor }])),
    lastRunAgo: latest?.lastRunAgo ?? null,
    lastRunOn: latest?.replicaId ?? null,
    lastDuration: latest?.lastDuration ?? null,
    lastSuccessAgo: Number.isFinite(lastSuccessAgo) ? lastSuccessAgo : null,
    failing: runs
      .filter((run) => run.failuresInARow > 0 && (run === latest || !isPast(run, lastSuccessAgo)))
      .map((run) => ({
        replicaId: run.replicaId,
        failuresInARow: run.failuresInARow,
        lastError: run.lastError ?? 'an unexpected error, which the log shows',
        lastSuccessAgo: run.lastSuccessAgo,
      })),
  };
}

/** Whether the job has worked elsewhere since, and this replica has not tried again for long. */
function isPast({ lastRunAgo, every }: ReplicaJob, lastSuccessAgo: number): boolean {
  const failedAgo = age(lastRunAgo);
  return lastSuccessAgo < failedAgo && failedAgo > 3 * every + FAILURE_COUNTS_FOR;
}

function age(ago: number | null): number {
  return ago ?? Infinity;
}

function ofState(replicaId: string, job: JobState): ReplicaJob {
  const { name, every, failuresInARow } = job;
  return {
    replicaId,
    name,
    every,
    failuresInARow,
    runningFor: job.runningFor ?? null,
    lastRunAgo: job.lastRunAgo ?? null,
    lastSuccessAgo: job.lastSuccessAgo ?? null,
    lastDuration: job.lastDuration ?? null,
    lastError: job.lastError ?? null,
  };
}
