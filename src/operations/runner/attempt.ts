// One attempt at an operation, under the lock of its subject: the steps forward, or their undoing.
//
//     forward:  settled? ── done ──────────────> next step; after the last: done
//                  │ not done, or first attempt
//                  └─> do ── ok ───────────────> next step
//                       ├── error, certain ────> backward, if no step so far is irrevocable; otherwise waiting
//                       └── answer unknown ────> waiting, then settled? again
//     backward: undo, the last step first ─────> undone
//                  ├── past return ────────────> forward
//                  └── any error ──────────────> waiting, then backward again
//
// A database that is left as it is for want of evidence makes the operation wait for a person.
import type { Kysely } from 'kysely';
import type { HeldLock } from '../../../db/registry/lock-session.js';
import {
  endOperation,
  findOperation,
  noteStep,
  type OperationRecord,
} from '../../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { DatabaseFault, wasAnswered } from '../../../db/driver/database-fault.js';
import { inPlainWords } from '../../jobs/plain-words.js';
import { isLeftAsItIs } from '../reports.js';
import { LostOperation, PastReturn, type OperationKindName, type Planned, type Step } from './operation-kinds.js';

/** How an attempt ended. `error` is the error of the step `step`. */
export type Attempted =
  | { readonly state: 'done' }
  | { readonly state: 'undone'; readonly step: string; readonly error: unknown }
  | {
      readonly state: 'waiting' | 'needs-person';
      readonly step: string;
      readonly error: unknown;
      readonly undoes: boolean;
      /** Why the steps are being undone, if this worker knows it. */
      readonly because?: Failure;
    };

/** A step and its error. */
export interface Failure {
  readonly step: string;
  readonly error: unknown;
}

export interface AttemptDeps {
  readonly registry: Kysely<Registry>;
  /** Called after each step, for tests. An error that it throws counts as an error of the step. */
  readonly afterStep?: ((kind: OperationKindName, step: string) => void | Promise<void>) | undefined;
}

/** Steps are noted once an attempt has run for so long (ms): a quick one ends before anyone could look at it. */
const NOTED_AFTER = 500;

/**
 * For this long (ms) after a worker took an operation, steps begin without asking the registry whether the operation is still this
 * worker's.
 */
const ASKED_AFTER = 1_000;

class StepFailed extends Error {
  constructor(
    readonly index: number,
    readonly step: string,
    override readonly cause: unknown,
  ) {
    super(`the step ${step} failed`, { cause });
  }
}

/**
 * @param takenAt when this worker took the operation, on `performance.now`
 * @param begins whether this is the first attempt: then no step can be done already
 * @param failed why an earlier attempt began to undo the steps
 * @throws LostOperation if another worker has taken the operation
 */
export async function attempt(
  deps: AttemptDeps,
  operation: OperationRecord,
  plan: Planned,
  { held, takenAt, begins, failed }: { held: HeldLock; takenAt: number; begins: boolean; failed?: Failure | undefined },
): Promise<Attempted> {
  const { registry } = deps;
  let lost = false;
  let noted: Promise<unknown> = Promise.resolve();

  /** One note after the other: a late one must not overwrite a newer one. */
  function note(step: string, undoes: boolean): Promise<void> {
    const noting = noted.then(async () => {
      const mine = await noteStep(registry, operation, { step, undoes });
      lost ||= !mine;
    });
    noted = noting.catch(() => undefined);
    return noting;
  }

  function ensureMine(): void {
    if (lost || held.lost) throw new LostOperation();
  }

  /** @returns whether the last step has ended the operation */
  async function forward(steps: readonly Step[]): Promise<boolean> {
    const noteAt = performance.now() + NOTED_AFTER;
    let hasEnded = false;
    for (const [index, step] of steps.entries()) {
      // Only shows where the operation is, so the step does not wait for it. Each step compares what it changes.
      const noting = setTimeout(
        () => void note(step.name, false).catch(() => undefined),
        Math.max(0, noteAt - performance.now()),
      );
      try {
        // This process may have stood still, and another worker may have the operation since.
        if (performance.now() - takenAt > ASKED_AFTER) await note(step.name, false).catch(() => undefined);
        const settled = begins ? 'not-done' : await step.settled();
        if (settled === 'unknown') throw new DatabaseFault('unavailable', 'the outcome of the step is not known yet');
        if (settled === 'done') continue;
        ensureMine();
        await step.do();
        hasEnded = step.ends === true;
        await deps.afterStep?.(operation.kind as OperationKindName, step.name);
      } catch (error) {
        if (error instanceof LostOperation) throw error;
        throw new StepFailed(index, step.name, error);
      } finally {
        clearTimeout(noting);
      }
    }
    return hasEnded;
  }

  async function backward(steps: readonly Step[], why: Failure): Promise<Attempted> {
    for (const step of [...steps].reverse()) {
      if (!step.undo) continue;
      await note(step.name, true);
      ensureMine();
      try {
        await step.undo();
      } catch (error) {
        if (error instanceof PastReturn || error instanceof LostOperation) throw error;
        return {
          state: isLeftAsItIs(error) ? 'needs-person' : 'waiting',
          step: step.name,
          error,
          undoes: true,
          because: why,
        };
      }
    }
    await registry.transaction().execute(async (trx) => {
      if (typeof plan === 'object') await plan.undone?.(trx);
      if (!(await endOperation(trx, operation, 'undone', textOf(why)))) throw new LostOperation();
    });
    return { state: 'undone', ...why };
  }

  const why = failed ?? { step: operation.step ?? '', error: undefined };
  if (plan === 'undone') return backward([], why);
  const steps = plan === 'done' ? [] : plan.steps;
  if (operation.undoes && plan !== 'done') {
    try {
      return await backward(steps, why);
    } catch (error) {
      if (!(error instanceof PastReturn)) throw error;
      begins = false;
    }
  }
  try {
    if (await forward(steps)) return { state: 'done' };
  } catch (error) {
    if (!(error instanceof StepFailed)) throw error;
    const { index, step, cause } = error;
    const waiting = { state: 'waiting', step, error: cause, undoes: false } as const;
    if (isLeftAsItIs(cause)) return { ...waiting, state: 'needs-person' };
    if (!isCertain(cause) || steps.slice(0, index).some(({ irrevocable }) => irrevocable)) return waiting;
    try {
      return await backward(steps.slice(0, index + 1), { step, error: cause });
    } catch (again) {
      if (again instanceof PastReturn) return waiting;
      throw again;
    }
  }
  // The last step may have ended it, in its own transaction.
  if (
    !(await endOperation(registry, operation, 'done')) &&
    (await findOperation(registry, operation.id))?.state !== 'done'
  )
    throw new LostOperation();
  return { state: 'done' };
}

/** Whether the step certainly was not done: PostgreSQL refused it, or it failed before it was sent. */
function isCertain(error: unknown): boolean {
  return !(error instanceof DatabaseFault) || wasAnswered(error);
}

/** The error of a step, for the operation's row. */
export function textOf({ step, error }: Failure): string | null {
  return error === undefined ? null : `The step "${step}" failed: ${inPlainWords(error)}.`;
}
