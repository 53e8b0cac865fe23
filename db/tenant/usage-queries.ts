// How much a tenant has of what its limits count.
import { sql, type Kysely, type Transaction } from 'kysely';
import type { TenantDatabase } from './tenant-schema.js';

/** Tables whose rows a limit may count. */
export type CountedTable = keyof TenantDatabase;

/**
 * Rows of a table, counted no further than `most`. Until the transaction ends nobody else gets past this for the same table:
 * two that both saw room for one more would both insert. Two statements, as one alone would count what it saw before its turn
 * came.
 */
export async function countUpTo(trx: Transaction<TenantDatabase>, table: CountedTable, most: number): Promise<number> {
  await sql`select pg_advisory_xact_lock(hashtextextended(${`tenantry limit ${table}`}, 0))`.execute(trx);
  const { rows } = await sql<{ count: number }>`
    select count(*)::int as count from (select from ${sql.table(table)} limit ${most}) as counted`.execute(trx);
  return rows[0]?.count ?? 0;
}

/** Whether the database has any user. */
export async function hasUsers(db: Kysely<TenantDatabase>): Promise<boolean> {
  const user = await db.selectFrom('users').select('id').limit(1).executeTakeFirst();
  return user !== undefined;
}

/** What a tenant uses of its database. */
export interface DatabaseUsage {
  /** Of its role, whichever process holds them. */
  readonly connections: number;
  readonly users: number;
  readonly products: number;
  readonly storageBytes: number;
}

/** Counts and measures; reads whole indexes. */
export async function measureUsage(db: Kysely<TenantDatabase>): Promise<DatabaseUsage> {
  const { rows } = await sql<DatabaseUsage>`
    select
      (select count(*)::int from pg_stat_activity where usename = current_user) as connections,
      (select count(*)::int from users) as users,
      (select count(*)::int from products) as products,
      pg_database_size(current_database())::float8 as "storageBytes"`.execute(db);
  const [usage] = rows;
  if (!usage) throw new Error('SELECT without FROM answered no row');
  return usage;
}

/** Bytes of the files of the tenant's database. */
export async function measureStorage(db: Kysely<TenantDatabase>): Promise<number> {
  const { rows } = await sql<{ bytes: number }>`
    select pg_database_size(current_database())::float8 as bytes`.execute(db);
  return rows[0]?.bytes ?? 0;
}
