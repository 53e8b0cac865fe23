// Work that goes on by itself, such as finishing what a crash left: each job now and then, on one replica at a time. The one
// that does it holds a lock of the registry, which is free again as soon as its connection is gone. A job whose connection is
// cut goes on while another replica begins: that there is one at a time saves work, and nothing may depend on it.
import type { Kysely } from 'kysely';
import { whileLocked } from '../../db/registry/job-locks.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { Slots } from './bounded-tasks.js';

export interface HousekeepingJob {
  /** Unique; the lock is named after it. */
  readonly name: string;
  /** ms between the end of a run and the next one. */
  readonly every: number;
  /** Gives up between two steps when `signal` is aborted. What it throws is told to `onError`, and it runs again. */
  readonly run: (signal: AbortSignal) => Promise<void>;
}

export interface Housekeeping {
  /** Runs a job from now on, the first time at once. */
  add(job: HousekeepingJob): void;
  /**
   * Runs a job now, wherever its time is; behind the run that is under way, which may have looked already. Resolves when it is
   * done; without the lock, where another replica has it, at once.
   */
  runNow(name: string): Promise<void>;
  /** Lets what runs come to the end of its step. */
  close(): Promise<void>;
}

export function createHousekeeping(deps: {
  /** With connections of its own: the lock holds one for as long as the job takes. */
  readonly registry: Kysely<Registry>;
  /** Jobs that hold a lock at once. */
  readonly atOnce?: number;
  readonly onError: (error: unknown, context: { job: string }) => void;
}): Housekeeping {
  const { registry, atOnce = Infinity } = deps;
  const holders = new Slots(atOnce, Infinity);
  const jobs = new Map<string, () => Promise<void>>();
  const timers = new Set<NodeJS.Timeout>();
  const closing = new AbortController();
  const running = new Set<Promise<void>>();

  async function locked(job: HousekeepingJob): Promise<void> {
    await holders.run(async () => {
      // It may have waited for others until the end.
      if (!closing.signal.aborted) await whileLocked(registry, job.name, () => job.run(closing.signal));
    });
  }

  function add(job: HousekeepingJob): void {
    let current: Promise<void> | undefined;
    let next: Promise<void> | undefined;
    const begin = (): Promise<void> => {
      if (closing.signal.aborted) return Promise.resolve();
      const run = locked(job)
        .catch((error: unknown) => {
          if (!closing.signal.aborted) deps.onError(error, { job: job.name });
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
    jobs.set(job.name, once);
    void once().then(again);
  }

  return {
    add,

    async runNow(name) {
      const job = jobs.get(name);
      if (!job) throw new Error(`there is no job "${name}"`);
      await job();
    },

    async close() {
      closing.abort();
      for (const timer of timers) clearTimeout(timer);
      await Promise.all(running);
    },
  };
}
