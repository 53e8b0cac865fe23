import { sql, type Kysely } from 'kysely';

export const transaction = false;

/** The order of `GET /audit?order=asc`. The trigger of the next migration reads its end. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`drop index concurrently if exists audit_era_xid_id`.execute(db);
  await sql`create index concurrently audit_era_xid_id on audit (era, xid, id)`.execute(db);
}
