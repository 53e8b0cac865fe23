// Jobs that run by themselves, such as finding work that a crash left. A job runs on one replica at a time, and once per `every` in
// the fleet. The registry's table of jobs says when it ran last.
//
//     waiting ── due, by the registry's clock ──> locked ── ended, or failed ──> waiting
//     locked ── the deadline is over ──> failed: its lock is free, and another replica may begin
//
// The lock is free as soon as the replica's connection is gone. If the connection is cut, or the job ignores its deadline, the job
// goes on while another replica begins the same job. So running one at a time only saves work, and nothing may depend on it.
import type { Kysely } from 'kysely';
import { jobLockName } from '../../db/registry/job-locks.js';
import { beginJob, endJob, jobDueIn, leaveJob, type EndedRun } from '../../db/registry/job-rows.js';
import type { LockSession } from '../../db/registry/lock-session.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { JobRecord, type JobState } from './job-states.js';
import { inPlainWords, MissedDeadline } from './plain-words.js';

export interface HousekeepingJob {
  /** A unique name, which also names the lock. */
  readonly name: string;
  /** Time (ms) between the end of a run, on any replica, and the next run. */
  readonly every: number;
  /**
   * Whether this replica should leave the job to others now. It runs the job only if no replica has for RELUCTANCE times `every`.
   */
  readonly reluctant?: () => boolean;
  /** Longest time (ms) of a run; by default DEADLINE. */
  readonly deadline?: number;
  /** Stops between two steps when `signal` is aborted. An error is passed to `onError`, and the job runs again. */
  readonly run: (signal: AbortSignal) => Promise<void>;
}

export interface Housekeeping {
  /** Runs a job periodically, the first time at once if no replica has run it lately. */
  add(job: HousekeepingJob): void;
  /**
   * Runs a job now, whenever its next run is due. If a run is under way, which may have looked already, another run follows it.
   * Resolves when the job is done, or its deadline is over; at once if another replica has the lock.
   */
  runNow(name: string): Promise<void>;
  /** Every job, with its last runs in this process. */
  stats(): JobState[];
  /** Waits until running jobs have reached the end of their step. */
  close(): Promise<void>;
}

export interface HousekeepingDeps {
  readonly registry: Kysely<Registry>;
  readonly locks: LockSession;
  readonly replicaId: string;
  readonly onError: (error: unknown, context: { job: string }) => void;
  readonly onAdded?: (job: string) => void;
  /** Called after each run. `seconds` is undefined if the job could not begin. */
  readonly onRun?: (job: string, outcome: 'success' | 'failed', seconds: number | undefined) => void;
}

const DEADLINE = 60_000;

/** How many times longer than `every` a reluctant replica waits. */
const RELUCTANCE = 12;

/** Longest pause (ms) before this replica looks again: while another replica runs the job, and after the job could not begin. */
const LOOK_AGAIN = 5_000;
const TRY_AGAIN = 60_000;

export function createHousekeeping(deps: HousekeepingDeps): Housekeeping {
  const jobs = new Map<string, Job>();
  const closing = new AbortController();

  return {
    add(given) {
      const job = new Job(deps, given, closing.signal);
      jobs.set(given.name, job);
      deps.onAdded?.(given.name);
      job.start();
    },

    async runNow(name) {
      const job = jobs.get(name);
      if (!job) throw new Error(`there is no job "${name}"`);
      await job.runNow();
    },

    stats: () => [...jobs.values()].map(({ record }) => record.state),

    async close() {
      closing.abort();
      await Promise.all([...jobs.values()].map((job) => job.stop()));
    },
  };
}

/** One job on this replica. */
class Job {
  readonly record: JobRecord;
  readonly #name: string;
  readonly #every: number;
  readonly #stopping = new AbortController();
  #timer: NodeJS.Timeout | undefined;
  #current: Promise<number> | undefined;
  #next: Promise<void> | undefined;
  /** Runs that have not ended. More than the current one only if a run ignores its deadline. */
  readonly #running = new Set<Promise<void>>();

  constructor(
    private readonly deps: HousekeepingDeps,
    private readonly job: HousekeepingJob,
    private readonly closing: AbortSignal,
  ) {
    this.#name = job.name;
    this.#every = job.every;
    this.record = new JobRecord(job.name, job.every);
  }

  /** Runs the job when it is due, again and again. */
  start(): void {
    void (this.#current ?? this.#attempt(false)).then((pause) => {
      if (this.closing.aborted) return;
      this.#timer = setTimeout(() => {
        this.start();
      }, pause);
      this.#timer.unref();
    });
  }

  async runNow(): Promise<void> {
    if (this.closing.aborted) return;
    if (!this.#current) {
      await this.#attempt(true);
      return;
    }
    // One run for all who ask during this one.
    this.#next ??= this.#current.then(async () => {
      this.#next = undefined;
      if (!this.closing.aborted) await this.#attempt(true);
    });
    await this.#next;
  }

  /** Ends what runs. Resolves when no run is left. */
  async stop(): Promise<void> {
    clearTimeout(this.#timer);
    this.#stopping.abort();
    await this.#current;
    await Promise.all(this.#running);
  }

  /** @returns the pause (ms) until the next look */
  #attempt(always: boolean): Promise<number> {
    const attempt = this.#look(always)
      .catch((error: unknown) => {
        if (!this.closing.aborted) this.#failed(error);
        return Math.min(this.#every, TRY_AGAIN);
      })
      .finally(() => {
        if (this.#current === attempt) this.#current = undefined;
      });
    return (this.#current = attempt);
  }

  async #look(always: boolean): Promise<number> {
    const { registry, locks, replicaId } = this.deps;
    const every = this.#every;
    // A run that ignores its deadline must not overlap with itself. Another replica runs the job meanwhile.
    if (this.#running.size > 0) return Math.min(every, LOOK_AGAIN);
    if (!always) {
      const waits = this.job.reluctant?.() === true ? every * RELUCTANCE : every;
      const due = await jobDueIn(registry, this.#name, waits);
      if (due > 0) return Math.min(due, every);
    }
    const ran = await locks.attempt(jobLockName(this.#name), async () => {
      if (this.closing.aborted) return;
      const since = await beginJob(registry, { name: this.#name, every, replicaId }, always);
      if (since === undefined) return;
      const ended = await this.#run();
      const run = { name: this.#name, replicaId, since };
      await (ended ? endJob(registry, run, ended) : leaveJob(registry, run));
    });
    return ran ? every : Math.min(every, LOOK_AGAIN);
  }

  /** @returns how the run ended; undefined if the process stops, which says nothing about the job */
  async #run(): Promise<EndedRun | undefined> {
    const { deadline = DEADLINE } = this.job;
    const late = new AbortController();
    let timer: NodeJS.Timeout | undefined;
    const over = new Promise<never>((_, reject) => {
      timer = setTimeout(() => {
        reject(new MissedDeadline(deadline));
        late.abort();
      }, deadline);
      timer.unref();
    });
    const began = performance.now();
    this.record.began();
    const run = (async () => this.job.run(AbortSignal.any([this.#stopping.signal, late.signal])))();
    const tracked = run
      .catch(() => undefined)
      .finally(() => {
        this.#running.delete(tracked);
      });
    this.#running.add(tracked);
    let error: string | undefined;
    try {
      await Promise.race([run, over]);
      if (!this.closing.aborted) {
        const seconds = this.record.succeeded();
        this.deps.onRun?.(this.#name, 'success', seconds);
      }
    } catch (failure) {
      if (!this.closing.aborted) this.#failed(failure);
      error = inPlainWords(failure);
    } finally {
      clearTimeout(timer);
    }
    if (this.closing.aborted) {
      this.record.stopped();
      return undefined;
    }
    return { duration: performance.now() - began, error };
  }

  #failed(error: unknown): void {
    const seconds = this.record.failed(error);
    this.deps.onRun?.(this.#name, 'failed', seconds);
    this.deps.onError(error, { job: this.#name });
  }
}
