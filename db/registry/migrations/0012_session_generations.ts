import { sql, type Kysely } from 'kysely';
import { addSessionColumns } from '../../shared/session-migrations.js';

export async function up(db: Kysely<unknown>): Promise<void> {
  await addSessionColumns(db);
  await sql`alter table tenants add column sessions_generation bigint not null default 0`.execute(db);

  // A former build signs a tenant out with sessions_valid_from alone.
  await sql`
    create or replace function tenants_next_epoch() returns trigger language plpgsql as $$
    begin
      if new.sessions_valid_from is distinct from old.sessions_valid_from
        and new.sessions_generation = old.sessions_generation
      then
        new.sessions_generation :=
          greatest(old.sessions_generation + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint);
      end if;
      if new.epoch <= old.epoch and
        (new.slug, new.status, new.db_host, new.db_port, new.db_name, new.db_user, new.db_password,
          new.next_db_password, new.pool_options, new.limits, new.sessions_valid_from, new.sessions_generation)
        is distinct from
        (old.slug, old.status, old.db_host, old.db_port, old.db_name, old.db_user, old.db_password,
          old.next_db_password, old.pool_options, old.limits, old.sessions_valid_from, old.sessions_generation)
      then
        new.epoch := old.epoch + 1;
      end if;
      return new;
    end $$`.execute(db);
}
