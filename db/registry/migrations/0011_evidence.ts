import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // The mark of the tenant's database has these values too (db/server/marks.ts): the id of the operation that made the tenant,
  // and a count of the changes of its status. Both are empty in rows of a former build until a replica completes them.
  await sql`
    alter table tenants
      add column claim uuid,
      add column generation integer not null default 0,
      add column restoring boolean not null default false,
      add column adopts text,
      add column on_purge text check (on_purge in ('drop', 'keep')),
      add constraint tenants_restoring_check check (not restoring or status = 'deleted')`.execute(db);

  // Allows one adoption of a database at a time.
  await sql`
    create unique index tenants_adopts_key on tenants (db_host, db_port, adopts) where adopts is not null`.execute(db);
  await sql`create index tenants_restoring on tenants (id) where restoring`.execute(db);

  // The trigger counts, so that changes by a former build or by hand in SQL count too. The creation of a tenant is its first
  // change, and its removal the last: both have their number already.
  await sql`
    create function tenants_next_generation() returns trigger language plpgsql as $$
    begin
      if new.status is distinct from old.status and new.status = 'deleting' then
        -- A former build drops by the row alone: it does not write on_purge, and is refused.
        if new.on_purge is null and (old.claim is not null or old.db_name <> old.db_user) then
          raise exception 'this tenant can be removed by a newer build only' using errcode = 'TN002';
        end if;
        new.restoring := false;
      elsif new.status is distinct from old.status then
        if new.generation <= old.generation and old.status <> 'provisioning' and not old.restoring then
          new.generation := old.generation + 1;
        end if;
        new.restoring := false;
      end if;
      return new;
    end $$`.execute(db);
  await sql`
    create trigger tenants_next_generation before update on tenants
    for each row execute function tenants_next_generation()`.execute(db);
}
