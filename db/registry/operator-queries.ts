// Queries on the registry's operators.
import { sql, type Kysely, type Transaction } from 'kysely';
import { newId } from '../shared/ids.js';
import type { Registry } from './registry-schema.js';

/** An operator with the password's hash, for sign-in. @param email in lower case */
export async function findOperatorByEmail(
  db: Kysely<Registry>,
  email: string,
): Promise<{ id: string; email: string; passwordHash: string; active: boolean } | undefined> {
  return db
    .selectFrom('operators')
    .select(['id', 'email', 'password as passwordHash', 'active'])
    .where('email', '=', email)
    .executeTakeFirst();
}

export async function findOperator(db: Kysely<Registry>, id: string): Promise<OperatorRecord | undefined> {
  return db
    .selectFrom('operators')
    .select(['id', 'email', 'active', 'created_at as createdAt', 'updated_at as updatedAt'])
    .where('id', '=', id)
    .executeTakeFirst();
}

/** The password's hash, for changes that require the password. */
export async function findOperatorCredentials(
  db: Kysely<Registry>,
  id: string,
): Promise<{ passwordHash: string } | undefined> {
  return db.selectFrom('operators').select('password as passwordHash').where('id', '=', id).executeTakeFirst();
}

/** Changes the password of an active operator, if the stored password is still the confirmed one. Returns whether it changed. */
export async function updateOperatorPassword(
  db: Kysely<Registry>,
  id: string,
  hashes: { confirmed: string; next: string },
): Promise<boolean> {
  const updated = await db
    .updateTable('operators')
    .set({ password: hashes.next, updated_at: sql<string>`now()` })
    .where('id', '=', id)
    .where('active', '=', true)
    .where('password', '=', hashes.confirmed)
    .returning('id')
    .executeTakeFirst();
  return updated !== undefined;
}

/** Changes the password of an active operator without the old one. Returns whether it changed. */
export async function replaceOperatorPassword(
  db: Kysely<Registry>,
  id: string,
  passwordHash: string,
): Promise<boolean> {
  const updated = await db
    .updateTable('operators')
    .set({ password: passwordHash, updated_at: sql<string>`now()` })
    .where('id', '=', id)
    .where('active', '=', true)
    .returning('id')
    .executeTakeFirst();
  return updated !== undefined;
}

export interface OperatorRecord {
  readonly id: string;
  readonly email: string;
  readonly active: boolean;
  readonly createdAt: string;
  readonly updatedAt: string;
}

/** The operators with the first addresses of the alphabet. @param only those that are active, or those that are not */
export async function listOperators(
  db: Kysely<Registry>,
  limit: number,
  only: { readonly active?: boolean } = {},
): Promise<OperatorRecord[]> {
  let query = db
    .selectFrom('operators')
    .select(['id', 'email', 'active', 'created_at as createdAt', 'updated_at as updatedAt']);
  if (only.active !== undefined) query = query.where('active', '=', only.active);
  return query.orderBy('email').limit(limit).execute();
}

/** Locks the active operators, so that of two transactions the second sees what the first has left. Returns their ids. */
export async function lockActiveOperators(trx: Transaction<Registry>): Promise<string[]> {
  const rows = await trx
    .selectFrom('operators')
    .select('id')
    .where('active', '=', true)
    .orderBy('id')
    .forNoKeyUpdate()
    .execute();
  return rows.map(({ id }) => id);
}

/** Deactivates an active operator. Returns whether it changed. */
export async function deactivateOperator(db: Kysely<Registry>, id: string): Promise<boolean> {
  const updated = await db
    .updateTable('operators')
    .set({ active: false, updated_at: sql<string>`now()` })
    .where('id', '=', id)
    .where('active', '=', true)
    .returning('id')
    .executeTakeFirst();
  return updated !== undefined;
}

/**
 * Prevents an operator from being deactivated until the transaction ends. The lock is shared, so that acts of one operator do
 * not wait for each other. Returns whether the operator is active.
 */
export async function lockOperator(trx: Transaction<Registry>, id: string): Promise<boolean> {
  const operator = await trx
    .selectFrom('operators')
    .select('active')
    .where('id', '=', id)
    .forShare()
    .executeTakeFirst();
  return operator?.active ?? false;
}

/** How many operators there are, active or not. */
export async function countOperators(db: Kysely<Registry>): Promise<number> {
  const { count } = await db
    .selectFrom('operators')
    .select((eb) => eb.fn.countAll<string>().as('count'))
    .executeTakeFirstOrThrow();
  return Number(count);
}

/** Adds an operator. If an operator with that address exists, nothing changes. Returns its id if one was added. */
export async function insertOperator(
  db: Kysely<Registry>,
  operator: { email: string; passwordHash: string },
): Promise<string | undefined> {
  const inserted = await db
    .insertInto('operators')
    .values({ id: newId(), email: operator.email, password: operator.passwordHash })
    .onConflict((conflict) => conflict.column('email').doNothing())
    .returning('id')
    .executeTakeFirst();
  return inserted?.id;
}
