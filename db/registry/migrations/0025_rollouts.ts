import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // Rollouts bring the tenants' databases to a schema version (src/rollouts/rollout-worker.ts). `target` is the newest migration of
  // the build that recorded the rollout. `prepared`: templates and marks are in order. `checked_wave`: the last wave whose schemas
  // were compared with the template. `tenants_current`: how many tenants were at the target already.
  await sql`
    create table rollouts (
      id uuid primary key,
      target text not null check (length(target) between 1 and 200),
      state text not null check (state in ('running', 'paused', 'stopped', 'done', 'aborted')),
      plan jsonb not null check (jsonb_typeof(plan) = 'object'),
      wave integer not null check (wave >= 0),
      prepared boolean not null default false,
      checked_wave integer not null default -1,
      tenants_current integer not null default 0,
      differences integer not null default 0,
      first_difference text check (length(first_difference) <= 500),
      reason text check (length(reason) <= 500),
      requested_by uuid,
      created_at timestamptz(3) not null default now(),
      updated_at timestamptz(3) not null default now(),
      finished_at timestamptz(3),
      constraint rollouts_finished_check check ((finished_at is not null) = (state in ('done', 'aborted')))
    )`.execute(db);
  // One rollout at a time.
  await sql`create unique index rollouts_under_way on rollouts ((true)) where finished_at is null`.execute(db);
  await sql`create index rollouts_created_at_id on rollouts (created_at, id)`.execute(db);

  // One row for each tenant that was behind. `place` is the host:port of its server. `worker` is the name of an advisory lock: while
  // a session holds the lock, the item is that worker's. A worker does the items of one `slot` one after the other: together they take
  // one place of the server.
  await sql`
    create table rollout_items (
      rollout_id uuid not null references rollouts on delete cascade,
      tenant_id uuid not null,
      wave integer not null check (wave >= 0),
      place text not null check (length(place) <= 300),
      state text not null default 'pending' check (state in ('pending', 'running', 'done', 'failed', 'skipped')),
      attempts integer not null default 0,
      error text check (length(error) <= 500),
      duration_ms integer,
      worker text check (length(worker) <= 100),
      slot integer,
      claimed_at timestamptz(3),
      updated_at timestamptz(3) not null default now(),
      primary key (rollout_id, tenant_id),
      constraint rollout_items_held_check check ((worker is not null) = (state = 'running'))
    ) with (fillfactor = 80)`.execute(db);
  // What workers claim: within a wave and a place, first attempts before second ones.
  await sql`
    create index rollout_items_claims on rollout_items (rollout_id, wave, place, attempts, tenant_id)
    where state = 'pending'`.execute(db);
  // What runs on a server now, for all rollouts: an aborted one may still have running items.
  await sql`create index rollout_items_running on rollout_items (place) where state = 'running'`.execute(db);
  // Every filter of GET /rollouts/:id/items.
  await sql`create index rollout_items_wave on rollout_items (rollout_id, wave, tenant_id)`.execute(db);
  await sql`create index rollout_items_state on rollout_items (rollout_id, state, wave, tenant_id)`.execute(db);
}
