import { sql, type Kysely } from 'kysely';
import { createSessions } from '../../shared/session-migrations.js';

export async function up(db: Kysely<unknown>): Promise<void> {
  await createSessions(db, 'operators');
  // In the registry and not in the tenant's database: restoring that database from a backup brings back ended sessions.
  await sql`alter table tenants add column sessions_valid_from timestamptz(3)`.execute(db);
  await sql`
    create or replace function tenants_next_epoch() returns trigger language plpgsql as $$
    begin
      if new.epoch <= old.epoch and
        (new.status, new.db_host, new.db_port, new.db_name, new.db_user, new.db_password, new.pool_options,
          new.sessions_valid_from)
        is distinct from
        (old.status, old.db_host, old.db_port, old.db_name, old.db_user, old.db_password, old.pool_options,
          old.sessions_valid_from)
      then
        new.epoch := old.epoch + 1;
      end if;
      return new;
    end $$`.execute(db);
}
