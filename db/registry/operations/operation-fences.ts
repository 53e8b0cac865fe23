// Queries with which operations on one subject keep each other in order. They run in the transaction that changes the subject's row,
// after that change: the row's lock then puts the transactions of all workers in order.
import { sql, type Kysely } from 'kysely';
import { changeTaken, NOW, type Taken } from './operation-rows.js';
import type { OperationDetails } from './operations-table.js';
import type { Registry } from '../registry-schema.js';

/**
 * Adds to what the next worker needs, in the transaction of a step. It is also the fence of that step: until the transaction ends,
 * no other worker can take the operation.
 *
 * @returns false if another worker has taken the operation; then the step must roll back
 */
export async function noteDetails(db: Kysely<Registry>, taken: Taken, details: OperationDetails): Promise<boolean> {
  return changeTaken(db, taken, { details: sql<string>`details || ${JSON.stringify(details)}::jsonb` });
}

/**
 * Takes a subject's unfinished operation from its worker, and lets the next worker undo it: a later act of a person replaces it. An
 * operation that has changed the subject's row (`details.changed`) goes on.
 */
export async function supersedeOperation(db: Kysely<Registry>, subject: string, kind: string): Promise<void> {
  await db
    .updateTable('operations')
    .set({
      state: 'undoing',
      undoes: true,
      attempts: sql<number>`attempts + 1`,
      not_before: NOW,
      updated_at: sql<string>`now()`,
    })
    .where('subject', '=', subject)
    .where('kind', '=', kind)
    .where('ended_at', 'is', null)
    .where('undoes', '=', false)
    .where(sql<boolean>`not details ? 'changed'`)
    .execute();
}

/** Ends operations that wait for a person and are needless now, because the subject is as its row requires. */
export async function endNeedless(db: Kysely<Registry>, subject: string, kinds: readonly string[]): Promise<void> {
  await db
    .updateTable('operations')
    .set({ state: 'done', error: null, ended_at: sql<string>`now()`, updated_at: sql<string>`now()` })
    .where('subject', '=', subject)
    .where('kind', 'in', kinds)
    .where('state', '=', 'needs-person')
    .execute();
}

/** Whether a person has abandoned an operation of this kind since the tenant's row was last changed. */
export async function isAbandoned(db: Kysely<Registry>, tenantId: string, kind: string): Promise<boolean> {
  const found = await db
    .selectFrom('operations')
    .innerJoin('tenants', 'tenants.id', 'operations.subject')
    .select('operations.id')
    .where('operations.subject', '=', tenantId)
    .where('operations.kind', '=', kind)
    .where('operations.state', '=', 'abandoned')
    .whereRef('operations.ended_at', '>=', 'tenants.updated_at')
    .limit(1)
    .executeTakeFirst();
  return found !== undefined;
}

/** Lets any worker continue a subject's operation that waits for a person: what was missing is there now. Returns whether it does. */
export async function retryRefused(db: Kysely<Registry>, subject: string, kind: string): Promise<boolean> {
  const waiting = await db
    .updateTable('operations')
    .set({ state: 'waiting', not_before: NOW, updated_at: sql<string>`now()` })
    .where('subject', '=', subject)
    .where('kind', '=', kind)
    .where('state', '=', 'needs-person')
    .returning('id')
    .executeTakeFirst();
  return waiting !== undefined;
}
