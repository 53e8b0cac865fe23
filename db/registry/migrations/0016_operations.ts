import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // Work of more than one step (src/operations/runner). A row holds no secret, no password hash and no address: `details` has what
  // another worker needs to continue, and `request_tag` is a keyed hash of a request, which only compares requests.
  await sql`
    create table operations (
      id uuid primary key,
      kind text not null check (length(kind) between 1 and 40),
      subject uuid not null,
      tenant_id uuid,
      cluster_id uuid,
      claim uuid,
      state text not null
        check (state in ('running', 'undoing', 'waiting', 'needs-person', 'done', 'undone', 'abandoned')),
      undoes boolean not null default false,
      step text check (length(step) between 1 and 40),
      attempts integer not null default 1,
      error text check (length(error) <= 500),
      progress_done bigint,
      progress_total bigint,
      not_before timestamptz(3) not null default now(),
      details jsonb not null default '{}' check (jsonb_typeof(details) = 'object'),
      operator_id uuid,
      request_key text check (length(request_key) between 1 and 255),
      request_tag text,
      worker text check (length(worker) <= 100),
      created_at timestamptz(3) not null default now(),
      updated_at timestamptz(3) not null default now(),
      ended_at timestamptz(3),
      constraint operations_ended_check check ((ended_at is not null) = (state in ('done', 'undone', 'abandoned'))),
      constraint operations_key_check check ((request_key is null) = (request_tag is null))
    )`.execute(db);
  // One unfinished operation of a kind for each subject: a second request for the same joins the first.
  await sql`
    create unique index operations_unfinished on operations (subject, kind) where ended_at is null`.execute(db);
  // An Idempotency-Key belongs to its operator.
  await sql`
    create unique index operations_request_key on operations (operator_id, request_key)
    where request_key is not null`.execute(db);
  // What workers look for every few seconds: only unfinished rows are in it.
  await sql`create index operations_due on operations (not_before) where ended_at is null`.execute(db);
  // Every sort and filter of GET /operations, and the sweep of old rows.
  await sql`create index operations_created_at_id on operations (created_at, id)`.execute(db);
  await sql`create index operations_tenant_id on operations (tenant_id, created_at, id)`.execute(db);
  await sql`create index operations_cluster_id on operations (cluster_id, created_at, id)`.execute(db);
  await sql`create index operations_kind on operations (kind, created_at, id)`.execute(db);
  await sql`create index operations_state on operations (state, created_at, id)`.execute(db);
  await sql`create index operations_ended_at on operations (ended_at) where ended_at is not null`.execute(db);

  // What the job finds that records operations for unfinished tenants (src/operations/leftovers.ts).
  await sql`
    create index tenants_unfinished on tenants (id) where status in ('provisioning', 'deleting')`.execute(db);
  await sql`create index standby_databases_unfinished on standby_databases (id) where not ready`.execute(db);

  // The jobs of the fleet. One row for each, which the replica writes that runs it (src/jobs/housekeeping.ts). Former builds write
  // replica_jobs instead.
  await sql`
    create table jobs (
      name text primary key check (length(name) between 1 and 100),
      every bigint not null,
      running_on text check (length(running_on) <= 100),
      running_since timestamptz(3),
      last_run_at timestamptz(3),
      last_run_on text check (length(last_run_on) <= 100),
      last_duration bigint,
      last_success_at timestamptz(3),
      failures_in_a_row integer not null default 0,
      last_error text check (length(last_error) <= 200),
      constraint jobs_running_check check ((running_on is null) = (running_since is null))
    ) with (fillfactor = 50)`.execute(db);
  // The schema of tenants that the replica's build makes; null if a former build wrote the row.
  await sql`alter table replicas add column schema_version text check (length(schema_version) <= 200)`.execute(db);
}
