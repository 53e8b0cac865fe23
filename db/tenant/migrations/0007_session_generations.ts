import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  await addSessionColumns(db);
}

/** The registry's table of sessions gets the same columns. */
export async function addSessionColumns(db: Kysely<unknown>): Promise<void> {
  // Null in a session that a former build began, and in an operator's.
  await sql`
    alter table sessions
      add column generation bigint,
      add column replaced_hashes bytea not null default ''`.execute(db);
}
