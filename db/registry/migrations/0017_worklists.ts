import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // When the status last changed, so that a job finds fresh changes without reading all tenants. A trigger writes it, also for
  // changes by a former build or by hand. Its name comes after that of the trigger that counts the generation.
  await sql`alter table tenants add column status_since timestamptz(3)`.execute(db);
  await sql`
    create function tenants_status_since() returns trigger language plpgsql as $$
    begin
      if (new.status, new.restoring, new.generation) is distinct from (old.status, old.restoring, old.generation) then
        new.status_since := clock_timestamp();
      end if;
      return new;
    end $$`.execute(db);
  await sql`
    create trigger tenants_status_since before update on tenants
    for each row execute function tenants_status_since()`.execute(db);
  await sql`
    create index tenants_status_since on tenants (status_since, id)
    where status in ('active', 'suspended', 'deleted') and status_since is not null`.execute(db);

  // For the job that asks which names of databases and roles a row has.
  await sql`create index tenants_db_name on tenants (db_name)`.execute(db);
  await sql`create index tenants_db_user on tenants (db_user)`.execute(db);
  await sql`create index tenants_adopts on tenants (adopts) where adopts is not null`.execute(db);
  await sql`create index standby_databases_db_name on standby_databases (db_name)`.execute(db);

  await sql`
    create index tenants_own_storage_limit on tenants (id) where status = 'active' and limits ? 'storageBytes'`.execute(
    db,
  );
  await sql`
    create index tenants_unfinished on tenants (id) where status in ('provisioning', 'deleting')`.execute(db);
}
