// How much a tenant uses of the things that its limits count.
import { sql, type Kysely, type Transaction } from 'kysely';
import type { TenantDatabase } from './tenant-schema.js';

/** Tables whose rows a limit may count. */
export type CountedTable = keyof TenantDatabase;

/**
 * Counts the rows of a table, up to `most`. The lock lasts until the transaction ends, for this table. Without the lock, two
 * transactions could both see room for one more row and both insert. The lock is a statement of its own, because a single
 * statement would count the rows that it saw before it got the lock.
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

/** How much of its database a tenant uses. */
export interface DatabaseUsage {
  /** Connections of the tenant's role, from all processes. */
  readonly connections: number;
  readonly users: number;
  readonly products: number;
  readonly storageBytes: number;
}

/** Counts and measures. It reads whole indexes. */
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

/** The size of the tenant's database, in bytes. */
export async function measureStorage(db: Kysely<TenantDatabase>): Promise<number> {
  const { rows } = await sql<{ bytes: number }>`
    select pg_database_size(current_database())::float8 as bytes`.execute(db);
  return rows[0]?.bytes ?? 0;
}
