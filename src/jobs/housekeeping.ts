// Jobs that run by themselves, such as finishing what a crash left. Each job runs periodically, on one replica at a time.
//
// That replica holds a lock in the registry, which is free as soon as its connection is gone. If the connection is cut, the job
// goes on while another replica begins the same job. So running one at a time only saves work, and nothing may depend on it.
import type { Kysely } from 'kysely';
import { whileLocked } from '../../db/registry/job-locks.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { Slots } from './bounded-tasks.js';

export interface HousekeepingJob {
  /** A unique name, which also names the lock. */
  readonly name: string;
  /** Time (ms) between the end of a run and the next run. */
  readonly every: number;
  /** Stops between two steps when `signal` is aborted. An error is passed to `onError`, and the job runs again. */
  readonly run: (signal: AbortSignal) => Promise<void>;
}

/** What a job did on this replica. Runs that another replica had are not counted. */
export interface JobState {
  readonly name: string;
  readonly running: boolean;
  /** Failures since the last success. */
  readonly failures: number;
  /** When it last succeeded, in ms since 1970; undefined before that. */
  readonly succeededAt: number | undefined;
}

export interface Housekeeping {
  /** Runs a job periodically, the first time at once. */
  add(job: HousekeepingJob): void;
  /**
   * Runs a job now, whenever its next run is due. If a run is under way, which may have looked already, another run follows it.
   * Resolves when the job is done; if another replica has the lock, at once.
   */
  runNow(name: string): Promise<void>;
  /** Every job, in the order in which they were added. */
  jobs(): readonly JobState[];
  /** Waits until running jobs have reached the end of their step. */
  close(): Promise<void>;
}

type State = { -readonly [Key in Exclude<keyof JobState, 'name'>]: JobState[Key] };

export function createHousekeeping(deps: {
  /** A pool for locks: a lock holds a connection until its job ends. */
  readonly registry: Kysely<Registry>;
  /** The most jobs that hold a lock at once. */
  readonly atOnce?: number;
  readonly onError: (error: unknown, context: { job: string }) => void;
  /** Called when a job is added, so that its numbers can begin at 0. */
  readonly onAdded?: (job: string) => void;
  /** Called after each run. @param seconds undefined if the job did not begin, because its lock could not be asked for */
  readonly onRun?: (job: string, outcome: 'success' | 'failed', seconds: number | undefined) => void;
}): Housekeeping {
  const { registry, atOnce = Infinity } = deps;
  const holders = new Slots(atOnce, Infinity);
  const jobs = new Map<string, { readonly once: () => Promise<void>; readonly state: State }>();
  const timers = new Set<NodeJS.Timeout>();
  const closing = new AbortController();
  const running = new Set<Promise<void>>();

  /** @param begun called when the job has its lock */
  async function locked(job: HousekeepingJob, begun: () => void): Promise<void> {
    await holders.run(async () => {
      // It may have waited for others until the end.
      if (closing.signal.aborted) return;
      await whileLocked(registry, job.name, () => {
        begun();
        return job.run(closing.signal);
      });
    });
  }

  async function attempt(job: HousekeepingJob, state: State): Promise<void> {
    let begunAt: number | undefined;
    let outcome: 'success' | 'failed' = 'success';
    try {
      await locked(job, () => {
        begunAt = performance.now();
        state.running = true;
      });
    } catch (error) {
      if (closing.signal.aborted) return;
      outcome = 'failed';
      deps.onError(error, { job: job.name });
    } finally {
      state.running = false;
    }
    if (outcome === 'failed') state.failures += 1;
    // Another replica has the job.
    else if (begunAt === undefined) return;
    else {
      state.failures = 0;
      state.succeededAt = Date.now();
    }
    deps.onRun?.(job.name, outcome, begunAt === undefined ? undefined : (performance.now() - begunAt) / 1_000);
  }

  function add(job: HousekeepingJob): void {
    const state: State = { running: false, failures: 0, succeededAt: undefined };
    let current: Promise<void> | undefined;
    let next: Promise<void> | undefined;
    const begin = (): Promise<void> => {
      if (closing.signal.aborted) return Promise.resolve();
      const run = attempt(job, state).finally(() => {
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
    jobs.set(job.name, { once, state });
    deps.onAdded?.(job.name);
    void once().then(again);
  }

  return {
    add,

    async runNow(name) {
      const job = jobs.get(name);
      if (!job) throw new Error(`there is no job "${name}"`);
      await job.once();
    },

    jobs: () => [...jobs].map(([name, { state }]) => ({ name, ...state })),

    async close() {
      closing.abort();
      for (const timer of timers) clearTimeout(timer);
      await Promise.all(running);
    },
  };
}
