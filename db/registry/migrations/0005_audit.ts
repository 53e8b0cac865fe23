import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // No foreign keys: an audit row outlives the rows that it names, tenants too.
  await sql`
    create table audit (
      id uuid primary key,
      at timestamptz(3) not null default now(),
      tenant_id uuid,
      actor_kind text not null check (actor_kind in ('user', 'operator', 'none')),
      actor_id uuid,
      action text not null,
      target_kind text,
      target_id uuid,
      address text,
      user_agent text,
      request_id text,
      details jsonb not null check (jsonb_typeof(details) = 'object'),
      check ((actor_kind = 'none') = (actor_id is null)),
      check ((target_kind is null) = (target_id is null))
    )`.execute(db);
  await sql`create index audit_at_id on audit (at, id)`.execute(db);
  // The order of GET /tenants/:id/audit, and each of its filters.
  await sql`create index audit_tenant_id_at_id on audit (tenant_id, at, id)`.execute(db);
  for (const column of ['action', 'actor_id']) {
    const name = sql.id(`audit_tenant_id_${column}_at_id`);
    await sql`create index ${name} on audit (tenant_id, ${sql.ref(column)}, at, id)`.execute(db);
  }
}
