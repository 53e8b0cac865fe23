// The disk space of a tenant's database, as its owner sees it: what deleted rows still take up, and giving it back.
import { sql, type Kysely } from 'kysely';
import type { TenantDatabase } from './tenant-schema.js';

export interface TableRows {
  readonly name: string;
  /** Rows that are there. An estimate. */
  readonly live: number;
  /** Rows that were ever deleted or replaced, as far as the server remembers. */
  readonly gone: number;
}

/** The tenant's tables with what became of their rows. */
export async function listTableRows(db: Kysely<TenantDatabase>): Promise<TableRows[]> {
  const { rows } = await sql<TableRows>`
    select relname as name, n_live_tup::float8 as live, (n_tup_del + n_tup_upd)::float8 as gone
    from pg_stat_user_tables where schemaname = 'public' order by relname`.execute(db);
  return rows;
}

/** How long (ms) a table is waited for before everybody who uses it would have to wait too. */
const LOCK_TIMEOUT = 500;

/** Writes a table anew without what deleted rows took up. It is locked meanwhile, also for who reads. */
export async function rewriteTable(db: Kysely<TenantDatabase>, name: string): Promise<void> {
  await db.connection().execute(async (connection) => {
    await sql`select set_config('lock_timeout', ${String(LOCK_TIMEOUT)}, false)`.execute(connection);
    await sql`vacuum (full, analyze) ${sql.table(`public.${name}`)}`.execute(connection);
  });
}
