import { sql, type Kysely } from 'kysely';

export const transaction = false;

/** The oldest rows first, of all tenants and of one; and the filters of `GET /operators/audit`. */
export async function up(db: Kysely<unknown>): Promise<void> {
  await sql`drop index concurrently if exists audit_era_xid_id`.execute(db);
  await sql`create index concurrently audit_era_xid_id on audit (era, xid, id)`.execute(db);
  await sql`drop index concurrently if exists audit_tenant_id_era_xid_id`.execute(db);
  await sql`create index concurrently audit_tenant_id_era_xid_id on audit (tenant_id, era, xid, id)`.execute(db);
  await sql`drop index concurrently if exists audit_action_at_id`.execute(db);
  await sql`create index concurrently audit_action_at_id on audit (action, at, id)`.execute(db);
  await sql`drop index concurrently if exists audit_actor_id_at_id`.execute(db);
  await sql`create index concurrently audit_actor_id_at_id on audit (actor_id, at, id)`.execute(db);
  await sql`drop index concurrently if exists audit_target_id_at_id`.execute(db);
  await sql`create index concurrently audit_target_id_at_id on audit (target_id, at, id)`.execute(db);
}
