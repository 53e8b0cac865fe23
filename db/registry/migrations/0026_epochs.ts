import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // An epoch never goes back, also when the registry is restored from a backup: a replica that runs has pools of the epochs that are
  // lost, and takes a lower epoch for an old record. So the next epoch is never below the seconds since 2026, by the registry's clock.
  // They fit into the column until 2094.
  await sql`
    create or replace function tenants_next_epoch() returns trigger language plpgsql as $$
    begin
      if new.sessions_valid_from is distinct from old.sessions_valid_from
        and new.sessions_generation = old.sessions_generation
      then
        new.sessions_generation :=
          greatest(old.sessions_generation + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint);
      end if;
      if new.epoch > old.epoch or
        (new.slug, new.status, new.db_host, new.db_port, new.db_name, new.db_user, new.db_password,
          new.next_db_password, new.pool_options, new.limits, new.sessions_valid_from, new.sessions_generation)
        is distinct from
        (old.slug, old.status, old.db_host, old.db_port, old.db_name, old.db_user, old.db_password,
          old.next_db_password, old.pool_options, old.limits, old.sessions_valid_from, old.sessions_generation)
      then
        new.epoch := greatest(new.epoch, old.epoch + 1,
          extract(epoch from clock_timestamp() - timestamptz '2026-01-01 00:00:00+00')::integer);
      end if;
      return new;
    end $$`.execute(db);
}
