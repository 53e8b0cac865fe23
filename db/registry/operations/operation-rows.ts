// Queries on operations. A worker holds the lock of the operation's subject. Each write of a worker names the attempt that it
// belongs to: a worker whose lock was lost while it worked changes nothing after another worker has taken the operation.
import { sql, type Kysely, type RawBuilder, type UpdateObject } from 'kysely';
import { newId } from '../../shared/ids.js';
import { rowVersion, type Versioned } from '../../shared/row-version.js';
import { WITHOUT_STANDBY } from '../../shared/synchronous-commit.js';
import type { OperationDetails, OperationState } from './operations-table.js';
import type { Registry } from '../registry-schema.js';

export interface OperationRecord {
  readonly id: string;
  readonly kind: string;
  readonly subject: string;
  readonly tenantId: string | null;
  readonly clusterId: string | null;
  readonly claim: string | null;
  readonly state: OperationState;
  readonly undoes: boolean;
  readonly step: string | null;
  readonly attempts: number;
  readonly error: string | null;
  readonly progressDone: number | null;
  readonly progressTotal: number | null;
  readonly notBefore: string;
  readonly details: OperationDetails;
  readonly operatorId: string | null;
  readonly worker: string | null;
  readonly createdAt: string;
  readonly updatedAt: string;
  readonly endedAt: string | null;
}

/** The values of a new operation. */
export interface NewOperation {
  readonly kind: string;
  /** The id whose lock its workers take. */
  readonly subject: string;
  readonly tenantId?: string | undefined;
  readonly clusterId?: string | null | undefined;
  readonly claim?: string | undefined;
  readonly details?: OperationDetails | undefined;
  readonly operatorId?: string | undefined;
  /** The replica that begins at once; without it any replica takes the operation soon. */
  readonly worker?: string | undefined;
}

/** An operation as one worker has taken it. */
export type Taken = Pick<OperationRecord, 'id' | 'attempts'>;

/** The columns of an `OperationRecord`. */
export const operationColumns = [
  'id',
  'kind',
  'subject',
  'tenant_id as tenantId',
  'cluster_id as clusterId',
  'claim',
  'state',
  'undoes',
  'step',
  'attempts',
  'error',
  // pg returns a bigint as text.
  sql<number | null>`progress_done::float8`.as('progressDone'),
  sql<number | null>`progress_total::float8`.as('progressTotal'),
  'not_before as notBefore',
  'details',
  'operator_id as operatorId',
  'worker',
  'created_at as createdAt',
  'updated_at as updatedAt',
  'ended_at as endedAt',
] as const;

/** The column has milliseconds. Without the cut it could be rounded to a time in the future. */
export const NOW = sql<string>`date_trunc('milliseconds', now())`;

/** Other replicas leave an operation alone for so long (ms) after a worker took it: its lock would refuse them. */
export const LEFT_ALONE_FOR = 10_000;

/**
 * Records an operation, in the transaction of the act that begins it.
 *
 * @returns undefined if the subject has an unfinished operation of the same kind
 */
export async function insertOperation(
  db: Kysely<Registry>,
  { kind, subject, tenantId, clusterId, claim, details = {}, operatorId, worker }: NewOperation,
): Promise<OperationRecord | undefined> {
  return db
    .insertInto('operations')
    .values({
      id: newId(),
      kind,
      subject,
      tenant_id: tenantId ?? null,
      cluster_id: clusterId ?? null,
      claim: claim ?? null,
      state: worker === undefined ? 'waiting' : 'running',
      details: JSON.stringify(details),
      operator_id: operatorId ?? null,
      worker: worker ?? null,
      not_before: worker === undefined ? NOW : later(LEFT_ALONE_FOR),
    })
    .onConflict((conflict) => conflict.columns(['subject', 'kind']).where('ended_at', 'is', null).doNothing())
    .returning(operationColumns)
    .executeTakeFirst();
}

export async function findOperation(
  db: Kysely<Registry>,
  id: string,
): Promise<(OperationRecord & Versioned) | undefined> {
  return db
    .selectFrom('operations')
    .select([...operationColumns, rowVersion('operations')])
    .where('id', '=', id)
    .executeTakeFirst();
}

/** The unfinished operation of a kind for a subject. */
export async function findUnfinishedOperation(
  db: Kysely<Registry>,
  subject: string,
  kind: string,
): Promise<OperationRecord | undefined> {
  return db
    .selectFrom('operations')
    .select(operationColumns)
    .where('subject', '=', subject)
    .where('kind', '=', kind)
    .where('ended_at', 'is', null)
    .executeTakeFirst();
}

/**
 * Takes an operation for a worker, which holds the lock of its subject.
 *
 * @returns the operation with the worker's own attempt; undefined if it has ended or waits for a person
 */
export async function takeOperation(
  db: Kysely<Registry>,
  id: string,
  worker: string,
): Promise<OperationRecord | undefined> {
  return db
    .updateTable('operations')
    .set({
      state: sql<OperationState>`case when undoes then 'undoing' else 'running' end`,
      attempts: sql<number>`attempts + 1`,
      worker,
      not_before: later(LEFT_ALONE_FOR),
      updated_at: sql<string>`now()`,
    })
    .where('id', '=', id)
    .where('state', 'in', ['running', 'undoing', 'waiting'])
    .returning(operationColumns)
    .executeTakeFirst();
}

/**
 * Records the step that runs, and how far it is. No standby has to confirm it: a worker that continues
 * asks the databases instead.
 *
 * @returns false if the operation is no longer this worker's
 */
export async function noteStep(
  db: Kysely<Registry>,
  { id, attempts }: Taken,
  { step, undoes, progress }: { step: string; undoes: boolean; progress?: { done: number; total: number } | undefined },
): Promise<boolean> {
  const noted = await db
    .updateTable('operations')
    .set({
      step,
      undoes,
      state: undoes ? 'undoing' : 'running',
      ...(progress && { progress_done: progress.done, progress_total: progress.total }),
      not_before: later(LEFT_ALONE_FOR),
      updated_at: sql<string>`now()`,
    })
    .where('id', '=', id)
    .where('attempts', '=', attempts)
    // A late note must not hide that the operation waits by now.
    .where('state', 'in', ['running', 'undoing'])
    .returning(WITHOUT_STANDBY.as('committed'))
    .executeTakeFirst();
  return noted !== undefined;
}

/**
 * Changes an operation for the worker that has taken it.
 *
 * @returns false if another worker has taken the operation since, or it has ended; then nothing changed
 */
export async function changeTaken(
  db: Kysely<Registry>,
  { id, attempts }: Taken,
  values: UpdateObject<Registry, 'operations', 'operations'>,
): Promise<boolean> {
  const changed = await db
    .updateTable('operations')
    .set(values)
    .set({ updated_at: sql<string>`now()` })
    .where('id', '=', id)
    .where('attempts', '=', attempts)
    .where('ended_at', 'is', null)
    .returning('id')
    .executeTakeFirst();
  return changed !== undefined;
}

/**
 * Lets an operation wait: for its next attempt, or for a person.
 *
 * @param why.delay ms until the next attempt
 */
export async function pauseOperation(
  db: Kysely<Registry>,
  taken: Taken,
  why: {
    readonly state: 'waiting' | 'needs-person';
    readonly step: string;
    readonly undoes: boolean;
    readonly error: string;
    readonly delay: number;
  },
): Promise<boolean> {
  return changeTaken(db, taken, {
    state: why.state,
    step: why.step,
    undoes: why.undoes,
    error: sql<string>`left(${why.error}::text, 500)`,
    not_before: later(why.delay),
  });
}

/**
 * Ends an operation, in the transaction of its last step if that is one of the registry. An operation that was undone frees the
 * Idempotency-Key of its request: the same request may begin another one.
 *
 * @param error why it was undone, in plain words
 * @returns false if the operation is no longer this worker's
 */
export async function endOperation(
  db: Kysely<Registry>,
  taken: Taken,
  state: 'done' | 'undone',
  error: string | null = null,
): Promise<boolean> {
  return changeTaken(db, taken, {
    state,
    error: sql<string>`left(${error}::text, 500)`,
    ended_at: sql<string>`now()`,
    ...(state === 'undone' && { request_key: null, request_tag: null }),
  });
}

/** The time in `ms`. */
export function later(ms: number): RawBuilder<string> {
  return sql<string>`now() + ${ms}::float8 * interval '1 millisecond'`;
}
