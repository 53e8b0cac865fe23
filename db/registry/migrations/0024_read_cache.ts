import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // The store that all replicas cache answers in (src/replicas/read-cache/fleet-store.ts). Each change gives the row another id,
  // which is part of every key: what was cached under an earlier id is never read again.
  await sql`
    create table read_cache (
      only_one boolean primary key default true check (only_one),
      id uuid not null default gen_random_uuid(),
      store text not null default 'none' check (length(store) between 1 and 200),
      source text not null default '' check (length(source) <= 200),
      changed_at timestamptz(3) not null default clock_timestamp()
    )`.execute(db);
  await sql`insert into read_cache default values`.execute(db);
  await sql`
    create trigger read_cache_tell_change after insert or update or delete on read_cache
    for each row execute function tell_change('cache-store')`.execute(db);

  // Tenants whose answers are not cached now, or were not at some time. A tenant without a row is cached. This is a table of its
  // own, without a foreign key: a writer must not wait for a lock on the tenant's row, and the tenant's ETag must not change.
  await sql`
    create table tenant_caches (
      id uuid primary key,
      state text not null default 'on' check (state in ('on', 'off', 'rising')),
      generation integer not null default 0,
      wanted boolean not null default true,
      changed_at timestamptz(3) not null default clock_timestamp()
    ) with (fillfactor = 50)`.execute(db);
  await sql`create index tenant_caches_not_on on tenant_caches (id) where state <> 'on' and wanted`.execute(db);
  await sql`
    create trigger tenant_caches_tell_change after insert or update or delete on tenant_caches
    for each row execute function tell_change('tenant-cache')`.execute(db);

  // Which process of PostgreSQL answers at a place, `host:port`. The generation is part of every key: after a failover or a restart
  // there is another one, so nothing that a former primary answered is read again.
  await sql`
    create table cache_servers (
      id text primary key check (length(id) <= 300),
      server text not null check (length(server) <= 100),
      generation uuid not null default gen_random_uuid()
    )`.execute(db);
  await sql`
    create trigger cache_servers_tell_change after insert or update or delete on cache_servers
    for each row execute function tell_change('cache-server')`.execute(db);

  // `cache_id`: the id of read_cache that the replica knows. Null if the replica takes no part: it is of a former build, or has
  // READ_CACHE=off. `acts_for`: how long (ms) the replica may acknowledge writes after it last wrote its row. Null: of a former
  // build.
  await sql`alter table replicas add column cache_id uuid, add column acts_for bigint check (acts_for >= 0)`.execute(
    db,
  );
}
