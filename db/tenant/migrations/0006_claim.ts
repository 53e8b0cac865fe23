import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // The mark of a database is its comment, which a dump does not contain. A claim inside the database is in the dump.
  await sql`alter table tenant_marker add column claim uuid`.execute(db);
}
