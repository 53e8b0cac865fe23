import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // No foreign keys: an audit row outlives the rows that it names.
  await sql`
    create table audit (
      id uuid primary key,
      at timestamptz(3) not null default now(),
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
  // The order of GET /audit, and each of its filters.
  await sql`create index audit_at_id on audit (at, id)`.execute(db);
  for (const column of ['action', 'actor_id', 'target_id']) {
    await sql`create index ${sql.id(`audit_${column}_at_id`)} on audit (${sql.ref(column)}, at, id)`.execute(db);
  }
}
