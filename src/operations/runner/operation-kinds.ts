// What an operation is made of: a kind, and a plan of steps. Each kind has a file in src/operations.
import type { Transaction } from 'kysely';
import type { OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';

/**
 * - `create`: makes a tenant, from a standby database or from the template.
 * - `adopt`: makes an existing database a tenant.
 * - `open`, `close`: apply the status in a tenant's row to its database.
 * - `remove`: removes a deleted tenant, or a tenant whose making was given up.
 * - `rotate`: changes the password of a tenant's role.
 * - `standby`: makes a standby database. `withdraw`: drops one.
 * - `reencrypt`: encrypts database passwords with the current key.
 * - `template`: makes the template database of a server.
 */
export const operationKinds = [
  'create',
  'adopt',
  'open',
  'close',
  'remove',
  'rotate',
  'standby',
  'withdraw',
  'reencrypt',
  'template',
] as const;
export type OperationKindName = (typeof operationKinds)[number];

/**
 * - `done`: the effect of the step is there.
 * - `not-done`: it certainly is not, and will not come: the answer is given behind a fence. The row lock of the step was taken, or
 *   the backend that ran it is seen gone.
 * - `unknown`: it must be asked again.
 */
export type Settled = 'done' | 'not-done' | 'unknown';

export interface Step {
  readonly name: string;
  /** Asks the databases themselves. An error counts as `unknown`. Not asked before the first attempt of the first worker. */
  readonly settled: () => Promise<Settled>;
  /** Called after `not-done`, or for the first time. */
  readonly do: () => Promise<void>;
  /**
   * Removes what the step made, as far as it is there and carries the evidence. Can be repeated. Missing if there is nothing to
   * undo.
   *
   * @throws PastReturn if the databases show that the operation must go forward
   */
  readonly undo?: () => Promise<void>;
  /** After this step the operation only goes forward. */
  readonly irrevocable?: true;
  /** The last step, if its `do` also ends the operation, in the transaction of its own change. */
  readonly ends?: true;
}

export interface Plan {
  readonly steps: readonly Step[];
  /** The last act after all steps are undone, in the transaction that ends the operation. */
  readonly undone?: (trx: Transaction<Registry>) => Promise<void>;
}

/** What is left to do; `done` or `undone` if the operation ends without a step. */
export type Planned = Plan | 'done' | 'undone';

/** A plan for steps that need more than the lock of the subject, because work on other subjects touches the same databases. */
export interface SurroundedPlan {
  /**
   * Holds what the steps need, such as a lock on their server, while it makes the plan and until the attempt has ended.
   *
   * @param attempt carries out the plan. Call it once, and return its result
   */
  readonly surround: <T>(attempt: (plan: Planned) => Promise<T>) => Promise<T>;
}

/**
 * @typeParam Input what only the request knows, such as the hash of a password. It is not recorded: if the process ends, another
 *   worker continues without it
 */
export interface OperationKind<Input = undefined> {
  readonly name: OperationKindName;
  /** Waited for before each attempt, while the operation has no turn on its server yet. */
  readonly wait?: () => Promise<void>;
  /**
   * Reads the rows that the steps need, under the subject's lock, at each attempt.
   *
   * @returns how the operation ends if nothing is left to do
   */
  plan(operation: OperationRecord, input: Input | undefined): Promise<Planned | SurroundedPlan>;
  /**
   * What a person's abandoning changes in the registry, in its transaction. It deletes nothing that may hold data.
   *
   * @throws AppError `operation-state` if the operation cannot be abandoned
   */
  abandon?(trx: Transaction<Registry>, operation: OperationRecord): Promise<void>;
}

/** Thrown by `undo` if the operation must go forward, because what it made may be in use by now. */
export class PastReturn extends Error {
  constructor() {
    super('the operation can no longer be undone');
    this.name = 'PastReturn';
  }
}

/** Thrown by a step whose worker lost the operation to another worker. */
export class LostOperation extends Error {
  constructor() {
    super('another worker has taken the operation');
    this.name = 'LostOperation';
  }
}
