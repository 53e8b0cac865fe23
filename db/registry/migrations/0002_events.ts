import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // The epoch counts every change of a column that pools depend on, also a change made by hand in SQL.
  await sql`
    create function tenants_next_epoch() returns trigger language plpgsql as $$
    begin
      if new.epoch <= old.epoch and
        (new.status, new.db_host, new.db_port, new.db_name, new.db_user, new.db_password, new.pool_options)
        is distinct from
        (old.status, old.db_host, old.db_port, old.db_name, old.db_user, old.db_password, old.pool_options)
      then
        new.epoch := old.epoch + 1;
      end if;
      return new;
    end $$`.execute(db);
  await sql`
    create trigger tenants_next_epoch before update on tenants
    for each row execute function tenants_next_epoch()`.execute(db);

  // Notifies every replica on commit (src/replicas/events.ts). A rollout that writes schema_version notifies no replica.
  await sql`
    create function tell_change() returns trigger language plpgsql as $$
    begin
      perform pg_notify('tenantry', tg_argv[0] || ' ' || old.id);
      return null;
    end $$`.execute(db);
  await sql`
    create trigger tenants_tell_change after update on tenants
    for each row when (new.epoch is distinct from old.epoch) execute function tell_change('tenant')`.execute(db);
  await sql`
    create trigger tenants_tell_removal after delete on tenants
    for each row execute function tell_change('tenant')`.execute(db);
  await sql`
    create trigger operators_tell_change after update or delete on operators
    for each row execute function tell_change('operator')`.execute(db);
}
