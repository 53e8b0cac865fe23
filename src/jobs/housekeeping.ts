// Jobs that run by themselves, such as finishing what a crash left. Each job runs periodically, on one replica at a time.
//
// That replica holds a lock in the registry, which is free as soon as its connection is gone. If the connection is cut, the job
// goes on while another replica begins the same job. So running one at a time only saves work, and nothing may depend on it.
import { jobLockName } from '../../db/registry/job-locks.js';
import type { LockSession } from '../../db/registry/lock-session.js';
import { JobRecord, type JobState } from './job-states.js';

export interface HousekeepingJob {
  /** A unique name, which also names the lock. */
  readonly name: string;
  /** Time (ms) between the end of a run and the next run. */
  readonly every: number;
  /** Stops between two steps when `signal` is aborted. An error is passed to `onError`, and the job runs again. */
  readonly run: (signal: AbortSignal) => Promise<void>;
}

export interface Housekeeping {
  /** Runs a job periodically, the first time at once. */
  add(job: HousekeepingJob): void;
  /**
   * Runs a job now, whenever its next run is due. If a run is under way, which may have looked already, another run follows it.
   * Resolves when the job is done; if another replica has the lock, at once.
   */
  runNow(name: string): Promise<void>;
  /** Every job, with its last runs in this process. */
  stats(): JobState[];
  /** Waits until running jobs have reached the end of their step. */
  close(): Promise<void>;
}

export function createHousekeeping(deps: {
  readonly locks: LockSession;
  readonly onError: (error: unknown, context: { job: string }) => void;
  readonly onAdded?: (job: string) => void;
  /** Called after each run. `seconds` is undefined if the job could not begin. */
  readonly onRun?: (job: string, outcome: 'success' | 'failed', seconds: number | undefined) => void;
}): Housekeeping {
  const jobs = new Map<string, { readonly record: JobRecord; readonly runNow: () => Promise<void> }>();
  const timers = new Set<NodeJS.Timeout>();
  const closing = new AbortController();
  const running = new Set<Promise<void>>();

  const isClosing = (): boolean => closing.signal.aborted;

  function ended({ name }: HousekeepingJob, outcome: 'success' | 'failed', seconds: number | undefined): void {
    deps.onRun?.(name, outcome, seconds);
  }

  async function locked(job: HousekeepingJob, record: JobRecord): Promise<void> {
    const ran = await deps.locks.attempt(jobLockName(job.name), () => {
      record.began();
      return job.run(closing.signal);
    });
    if (isClosing()) record.stopped();
    else if (ran) ended(job, 'success', record.succeeded());
  }

  function add(job: HousekeepingJob): void {
    let current: Promise<void> | undefined;
    let next: Promise<void> | undefined;
    const record = new JobRecord(job.name, job.every);
    const begin = (): Promise<void> => {
      if (closing.signal.aborted) return Promise.resolve();
      const run = locked(job, record)
        .catch((error: unknown) => {
          if (closing.signal.aborted) return;
          ended(job, 'failed', record.failed(error));
          deps.onError(error, { job: job.name });
        })
        .finally(() => {
          running.delete(run);
          current = undefined;
        });
      running.add(run);
      return (current = run);
    };
    const once = (): Promise<void> => {
      if (!current) return begin();
      return (next ??= current.then(() => {
        next = undefined;
        return begin();
      }));
    };
    const again = (): void => {
      if (closing.signal.aborted) return;
      const timer = setTimeout(() => {
        timers.delete(timer);
        void once().then(again);
      }, job.every);
      timer.unref();
      timers.add(timer);
    };
    jobs.set(job.name, { record, runNow: once });
    deps.onAdded?.(job.name);
    void once().then(again);
  }

  return {
    add,

    async runNow(name) {
      const job = jobs.get(name);
      if (!job) throw new Error(`there is no job "${name}"`);
      await job.runNow();
    },

    stats: () => [...jobs.values()].map(({ record }) => record.state),

    async close() {
      closing.abort();
      for (const timer of timers) clearTimeout(timer);
      await Promise.all(running);
    },
  };
}
