import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // Stored in everything that is made on a cluster, so that no installation treats another installation's databases as its own.
  await sql`create table installation (id uuid primary key, only_one boolean not null default true unique check (only_one))`.execute(
    db,
  );
  await sql`insert into installation (id) values (gen_random_uuid())`.execute(db);

  await sql`
    create table clusters (
      id uuid primary key,
      name text not null constraint clusters_name_key unique check (length(name) between 1 and 100),
      host text not null,
      port integer not null check (port between 1 and 65535),
      region text check (length(region) between 1 and 100),
      provisioner_user text not null,
      provisioner_password text not null,
      tls text not null check (tls in ('off', 'verify-full')),
      tls_ca text,
      connection_budget integer not null check (connection_budget > 0),
      connection_reserve integer not null check (connection_reserve > 0),
      weight integer not null default 100 check (weight between 1 and 1000),
      accepting boolean not null default true,
      standby_target integer not null default 0 check (standby_target between 0 and 1000),
      created_at timestamptz(3) not null default now(),
      updated_at timestamptz(3) not null default now(),
      constraint clusters_place_key unique (host, port)
    )`.execute(db);
  // Every sort that GET /clusters offers, with the id as the last key.
  await sql`create index clusters_created_at_id on clusters (created_at, id)`.execute(db);

  // A database that waits for its tenant. Its id becomes the tenant's id: marker and ciphertext are bound to it.
  await sql`
    create table standby_databases (
      id uuid primary key,
      cluster_id uuid not null references clusters,
      db_name text not null,
      db_user text not null,
      db_password text not null,
      schema_version text not null,
      ready boolean not null default false,
      created_at timestamptz(3) not null default now(),
      unique (cluster_id, db_name)
    )`.execute(db);
  // Finds the next standby database to claim.
  await sql`create index standby_databases_claim on standby_databases (cluster_id, schema_version, id) where ready`.execute(
    db,
  );

  await sql`
    alter table tenants
      add column cluster_id uuid references clusters,
      add column limits jsonb not null default '{}' check (jsonb_typeof(limits) = 'object'),
      add column deleted_at timestamptz(3),
      add column status_before_deletion text check (status_before_deletion in ('active', 'suspended')),
      add column next_db_password text,
      add column password_rotated_at timestamptz(3) not null default now(),
      drop constraint tenants_status_check,
      add constraint tenants_status_check
        check (status in ('provisioning', 'active', 'suspended', 'deleted', 'deleting')),
      add constraint tenants_deletion_check
        check ((status = 'deleted') = (deleted_at is not null) and (deleted_at is null) = (status_before_deletion is null))`.execute(
    db,
  );
  // For the number of tenants on a cluster, and for the jobs that find deleted tenants and old passwords.
  await sql`create index tenants_cluster_id on tenants (cluster_id, id)`.execute(db);
  await sql`create index tenants_deleted_at on tenants (deleted_at) where deleted_at is not null`.execute(db);
  await sql`create index tenants_password_rotated_at on tenants (password_rotated_at)`.execute(db);

  // The keys of POST /tenants, so that a repeated request does nothing a second time.
  await sql`
    create table idempotency_keys (
      operator_id uuid not null references operators on delete cascade,
      key text not null,
      request_hash text not null,
      tenant_id uuid not null,
      created_at timestamptz(3) not null default now(),
      primary key (operator_id, key)
    )`.execute(db);
  await sql`create index idempotency_keys_created_at on idempotency_keys (created_at)`.execute(db);

  await sql`
    create or replace function tenants_next_epoch() returns trigger language plpgsql as $$
    begin
      if new.epoch <= old.epoch and
        (new.slug, new.status, new.db_host, new.db_port, new.db_name, new.db_user, new.db_password,
          new.next_db_password, new.pool_options, new.limits, new.sessions_valid_from)
        is distinct from
        (old.slug, old.status, old.db_host, old.db_port, old.db_name, old.db_user, old.db_password,
          old.next_db_password, old.pool_options, old.limits, old.sessions_valid_from)
      then
        new.epoch := old.epoch + 1;
      end if;
      return new;
    end $$`.execute(db);
  await sql`
    create or replace function tell_change() returns trigger language plpgsql as $$
    begin
      perform pg_notify('tenantry', tg_argv[0] || ' ' || coalesce(new.id, old.id));
      return null;
    end $$`.execute(db);
  await sql`
    create trigger clusters_tell_change after insert or update or delete on clusters
    for each row execute function tell_change('cluster')`.execute(db);
}
