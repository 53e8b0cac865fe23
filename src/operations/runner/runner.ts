// The runner: the only code that finishes or undoes work of more than one step. Operations are rows of the registry:
//
//     (begun by a request) ──> running ──> done
//     (begun by a job) ──> waiting ──taken──> running
//     running ── a step certainly failed ──> undoing ──> undone
//     running, undoing ── no answer ──> waiting ──taken, after a pause that grows──> running, undoing
//     running, undoing ── the evidence is missing ──> needs-person ──retry──> waiting
//     waiting, needs-person ──abandon──> abandoned
//
// A worker holds the lock of the operation's subject. The lock dies with the process, so an unfinished operation without a lock
// was left by a crash: any replica takes it.
import type { Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import type { HeldLock } from '../../../db/registry/lock-session.js';
import {
  findOperation,
  findUnfinishedOperation,
  pauseOperation,
  takeOperation,
  type OperationRecord,
} from '../../../db/registry/operations/operation-rows.js';
import { type DueOperation } from '../../../db/registry/operations/operation-lists.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { isLeftAsItIs } from '../reports.js';
import type { TenantLocks } from '../../tenants/tenant-locks.js';
import { attempt, textOf, type Attempted, type AttemptDeps } from './attempt.js';
import { LostOperation, type OperationKind, type Planned } from './operation-kinds.js';
import type { OperationTimes } from './operation-times.js';
import { createServerTurns } from './server-turns.js';
import { createTakeUp, type TakeUp } from './take-up.js';

/** How an operation stands when a worker has stopped working on it. */
export type Outcome = Attempted | { readonly state: 'lost' };

export interface Runner {
  /** Makes a kind known. Each kind once, before `work` and `takeUp`. */
  add<Input>(kind: OperationKind<Input>): void;
  /**
   * Works on an operation that this process has just recorded, until it ends or must wait. With `input` it is worked on until it
   * ends, because no other process could continue.
   *
   * @param held if the caller holds the lock of the subject already
   */
  work<Input>(
    kind: OperationKind<Input>,
    operation: OperationRecord,
    more?: { readonly input?: Input; readonly held?: HeldLock },
  ): Promise<Outcome>;
  /**
   * Takes the unfinished operation of a subject now, whenever its next attempt is due, unless another worker is at it.
   *
   * @returns false if another worker is at it
   */
  settle(subject: string, kind: string): Promise<boolean>;
  /** Finds and takes operations that have no worker. */
  readonly takeUp: TakeUp;
  /** The kind of that name, if this build has it. */
  kindOf(name: string): OperationKind<never> | undefined;
  /** Waits until running steps have ended. */
  close(): Promise<void>;
}

export interface RunnerDeps extends AttemptDeps {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  /** The replica's id. */
  readonly worker: string;
  /** The schema version of tenants that this build makes. */
  readonly schemaVersion: string;
  readonly times: OperationTimes;
  /**
   * Called when a worker stops working on an operation, with the seconds since it was recorded. The operation is as the worker
   * took it: its `error` is that of the attempt before.
   */
  readonly onOutcome: (operation: OperationRecord, outcome: Attempted, seconds: number) => void;
  /** Called if due operations could not be listed. */
  readonly onLookFailed: (error: unknown) => void;
  /** Called if a due operation could not be taken. It is taken later. */
  readonly onError: (error: unknown, context: { operationId: string; kind: string }) => void;
}

/**
 * A statement that a process sent before it died may begin to run shortly (ms) after its locks are free. After this wait the
 * statement is running, so it is seen and ended.
 */
const SETTLED_AFTER = 250;

export function createRunner(deps: RunnerDeps): Runner {
  const { registry, locks, worker, times } = deps;
  const kinds = new Map<string, OperationKind<never>>();
  const turns = createServerTurns(times.turnPatience);
  const running = new Set<Promise<unknown>>();
  const closing = new AbortController();

  function tracked<T>(work: Promise<T>): Promise<T> {
    const entry: Promise<unknown> = work.then(undefined, () => undefined).finally(() => running.delete(entry));
    running.add(entry);
    return work;
  }

  /** How an operation stands that is no longer this worker's. */
  async function ended(id: string): Promise<Outcome> {
    const known = await findOperation(registry, id).catch(() => undefined);
    return known?.state === 'done' ? { state: 'done' } : { state: 'lost' };
  }

  /** One attempt. What it found is recorded in the row. */
  async function once<Input>(
    kind: OperationKind<Input>,
    operation: OperationRecord,
    input: Input | undefined,
    held: HeldLock,
    takenAt: number,
    before: Extract<Attempted, { state: 'waiting' | 'needs-person' }> | undefined,
  ): Promise<Outcome> {
    const begins = operation.attempts === 1 && before === undefined;
    const began = before?.undoes ? { ...operation, undoes: true } : operation;
    let outcome: Attempted;
    try {
      const plan = await kind.plan(began, input);
      const carryOut = (planned: Planned): Promise<Attempted> =>
        attempt(deps, began, planned, { held, takenAt, begins, failed: before?.because });
      outcome = typeof plan === 'object' && 'surround' in plan ? await plan.surround(carryOut) : await carryOut(plan);
    } catch (error) {
      if (error instanceof LostOperation) return ended(operation.id);
      const step = operation.step ?? before?.step ?? 'begin';
      outcome = { state: isLeftAsItIs(error) ? 'needs-person' : 'waiting', step, error, undoes: began.undoes };
    }
    return concluded(operation, outcome, takenAt);
  }

  /** Records in the row how an attempt ended. @param takenAt as in `attempt` */
  async function concluded(operation: OperationRecord, outcome: Attempted, takenAt: number): Promise<Attempted> {
    if (outcome.state === 'waiting' || outcome.state === 'needs-person') {
      const delay = pause(times, operation.attempts);
      const error = textOf(outcome) ?? 'It has not succeeded yet.';
      // If this cannot be recorded, the row still says `running`, and is taken a little later.
      await pauseOperation(registry, operation, { ...outcome, state: outcome.state, error, delay }).catch(
        () => undefined,
      );
    }
    // The first worker began at once. The registry's clock may be another one.
    const first = operation.attempts === 1 ? performance.now() - takenAt : Date.now() - Date.parse(operation.createdAt);
    deps.onOutcome(operation, outcome, Math.max(0, first) / 1_000);
    return outcome;
  }

  /** One attempt, as soon as it is the operation's turn on its server. Without a turn the operation waits, for any worker. */
  async function inTurn(
    operation: OperationRecord,
    takenAt: number,
    work: () => Promise<Outcome>,
  ): Promise<Outcome | { readonly withoutTurn: Outcome }> {
    const turn = { begun: false };
    try {
      return await turns(operation.clusterId ?? operation.subject, () => {
        turn.begun = true;
        return work();
      });
    } catch (error) {
      if (turn.begun) throw error;
      const { step, undoes } = operation;
      const waiting = { state: 'waiting', step: step ?? 'begin', error, undoes } as const;
      return { withoutTurn: await concluded(operation, waiting, takenAt) };
    }
  }

  /** Waits, and takes the operation again. @returns undefined if it is no longer this worker's */
  async function takenAgain(
    { id, attempts }: OperationRecord,
    held: HeldLock,
  ): Promise<OperationRecord | 'given up' | undefined> {
    for (;;) {
      const delay = Math.min(pause(times, attempts), times.longestHeldPause);
      await sleep(delay, undefined, { signal: closing.signal, ref: false }).catch(() => undefined);
      if (closing.signal.aborted || held.lost) return 'given up';
      try {
        return await takeOperation(registry, id, worker);
      } catch {
        // The registry does not answer. It does in a moment.
      }
    }
  }

  /** Works under the lock. With `input` until the operation ends, otherwise once. */
  async function underLock<Input>(
    kind: OperationKind<Input>,
    operation: OperationRecord,
    input: Input | undefined,
    held: HeldLock,
    since: number,
  ): Promise<Outcome> {
    let taken = operation;
    let takenAt = since;
    let before: Extract<Attempted, { state: 'waiting' | 'needs-person' }> | undefined;
    for (;;) {
      const current = { operation: taken, takenAt };
      await kind.wait?.();
      const outcome = await inTurn(taken, takenAt, () =>
        once(kind, current.operation, input, held, current.takenAt, before),
      );
      // A server that is this busy gets no more work from a request that would soon be over.
      if ('withoutTurn' in outcome) return outcome.withoutTurn;
      // Undoing needs no input: any worker continues it.
      if (outcome.state !== 'waiting' || outcome.undoes || input === undefined) return outcome;
      before = outcome;
      const again = await takenAgain(taken, held);
      if (again === 'given up') return outcome;
      if (!again) return ended(taken.id);
      taken = again;
      takenAt = performance.now();
    }
  }

  /** @returns false if another worker is at it */
  async function take({ id, kind: name, subject, state }: DueOperation): Promise<boolean> {
    const kind = kinds.get(name);
    // An operation of a newer build is left to replicas of that build.
    if (!kind) return false;
    return locks.attempt(subject, async (held) => {
      if (state !== 'waiting') await sleep(SETTLED_AFTER);
      const taken = await takeOperation(registry, id, worker);
      if (taken) await underLock(kind, taken, undefined, held, performance.now());
    });
  }

  /** @returns whether this process worked on it */
  async function takeOne(due: DueOperation): Promise<boolean> {
    try {
      return await take(due);
    } catch (error) {
      deps.onError(error, { operationId: due.id, kind: due.kind });
      return false;
    }
  }

  const takeUp = createTakeUp(registry, deps.schemaVersion, times, (due) => tracked(takeOne(due)), deps.onLookFailed);

  return {
    add(kind) {
      kinds.set(kind.name, kind);
    },

    work(kind, operation, { input, held } = {}) {
      const recordedAt = performance.now();
      const work = held
        ? underLock(kind, operation, input, held, recordedAt)
        : locks.hold(operation.subject, (lock) => underLock(kind, operation, input, lock, recordedAt));
      return tracked(work);
    },

    async settle(subject, kind) {
      const unfinished = await findUnfinishedOperation(registry, subject, kind);
      return !unfinished || take(unfinished);
    },

    takeUp,
    kindOf: (name) => kinds.get(name),

    async close() {
      takeUp.close();
      closing.abort();
      await Promise.all(running);
    },
  };
}

function pause({ firstPause, longestPause }: OperationTimes, attempts: number): number {
  const longest = Math.min(longestPause, firstPause * 2 ** Math.min(attempts, 20));
  return longest * (0.8 + 0.2 * Math.random());
}
