import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // All databases of a server share one queue of notifications, and any role can fill it. Then a transaction that notifies fails
  // at its COMMIT. No exception block of a trigger can catch that error, so the change itself must not depend on the
  // notification. Reading the usage also frees what every listener has read. Replicas without notifications query the registry
  // (db/driver/channel.ts).
  await sql`
    create or replace function tell_change() returns trigger language plpgsql as $$
    begin
      if pg_notification_queue_usage() < 0.5 then
        perform pg_notify('tenantry', tg_argv[0] || ' ' || coalesce(new.id, old.id));
      end if;
      return null;
    end $$`.execute(db);
}
