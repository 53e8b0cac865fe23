// The disk space of a tenant's database, as its owner sees it: how much deleted rows still occupy, and how to free it.
import { sql, type Kysely } from 'kysely';
import type { TenantDatabase } from './tenant-schema.js';

export interface TableRows {
  readonly name: string;
  /** Rows in the table. An estimate. */
  readonly live: number;
  /** Rows that were deleted or replaced, in the server's statistics. */
  readonly gone: number;
}

/** The tenant's tables with their row statistics. */
export async function listTableRows(db: Kysely<TenantDatabase>): Promise<TableRows[]> {
  const { rows } = await sql<TableRows>`
    select relname as name, n_live_tup::float8 as live, (n_tup_del + n_tup_upd)::float8 as gone
    from pg_stat_user_tables where schemaname = 'public' order by relname`.execute(db);
  return rows;
}

/** Longest wait (ms) for the lock of a table. While it waits, all other users of the table would have to wait too. */
const LOCK_TIMEOUT = 500;

/** Rewrites a table without the space of deleted rows. The table is locked during that time, for readers too. */
export async function rewriteTable(db: Kysely<TenantDatabase>, name: string): Promise<void> {
  await db.connection().execute(async (connection) => {
    await sql`select set_config('lock_timeout', ${String(LOCK_TIMEOUT)}, false)`.execute(connection);
    await sql`vacuum (full, analyze) ${sql.table(`public.${name}`)}`.execute(connection);
  });
}
