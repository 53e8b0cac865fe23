import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // One row for each replica that serves, which the replica writes every few seconds (db/registry/replica-rows.ts). A replica of a
  // former build writes none. Only the primary keys are indexed, so that these updates stay within their page.
  await sql`
    create table replicas (
      id text primary key check (length(id) between 1 and 100),
      version text not null check (length(version) <= 100),
      node text not null check (length(node) <= 100),
      host text not null check (length(host) <= 253),
      started_at timestamptz(3) not null,
      seen_at timestamptz(3) not null,
      clock_skew integer,
      not_ready text check (length(not_ready) <= 200),
      slots_used jsonb not null check (jsonb_typeof(slots_used) = 'object')
    ) with (fillfactor = 50)`.execute(db);

  // The last runs of each job on each replica: a job runs on one replica at a time, and any replica answers GET /status.
  await sql`
    create table replica_jobs (
      replica_id text not null references replicas on delete cascade,
      name text not null check (length(name) <= 100),
      every integer not null,
      runs bigint not null,
      failures_in_a_row integer not null,
      running_since timestamptz(3),
      last_run_at timestamptz(3),
      last_success_at timestamptz(3),
      last_duration integer,
      last_error text check (length(last_error) <= 200),
      primary key (replica_id, name)
    ) with (fillfactor = 50)`.execute(db);

  // Databases that are left as they are until a person acts (src/operations/reports.ts). The jobs report each of them again and
  // again, on whichever replica they run.
  await sql`
    create table reports (
      kind text not null check (kind in ('evidence', 'orphan')),
      subject text not null check (length(subject) <= 400),
      tenant_id uuid,
      generation integer,
      database text not null check (length(database) <= 100),
      why text not null check (length(why) <= 500),
      first_at timestamptz(3) not null,
      seen_at timestamptz(3) not null,
      primary key (kind, subject)
    ) with (fillfactor = 50)`.execute(db);

  // Since when a change of a database password has been unfinished. A trigger writes it, because a former build does not.
  await sql`alter table tenants add column next_password_since timestamptz(3)`.execute(db);
  await sql`update tenants set next_password_since = now() where next_db_password is not null`.execute(db);
  await sql`
    create function tenants_next_password_since() returns trigger language plpgsql as $$
    begin
      new.next_password_since := case
        when new.next_db_password is null then null
        else coalesce(old.next_password_since, now())
      end;
      return new;
    end $$`.execute(db);
  await sql`
    create trigger tenants_next_password_since before update of next_db_password on tenants
    for each row execute function tenants_next_password_since()`.execute(db);

  // Counts by status and schema version, and lists of unfinished work, read these instead of the table.
  await sql`create index tenants_status_schema_version on tenants (status, schema_version)`.execute(db);
  await sql`
    create index tenants_next_password_since on tenants (next_password_since) where next_db_password is not null`.execute(
    db,
  );
}
