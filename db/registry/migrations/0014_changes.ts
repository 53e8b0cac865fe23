import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // The changes that replicas publish to each other, in rows and not in notifications: a row stays until every replica has read
  // it (db/registry/feed-rows.ts). The order of the numbers differs from the order of the commits, so readers compare
  // transactions.
  await sql`
    create table changes (
      seq bigint generated always as identity primary key,
      xid xid8 not null default pg_current_xact_id(),
      message text not null,
      at timestamptz(3) not null default clock_timestamp()
    )`.execute(db);
  await sql`create index changes_xid on changes (xid)`.execute(db);

  // For an hour or so after this moment, a former build beside this one publishes its changes with NOTIFY alone.
  await sql`alter table installation add column feed_since timestamptz(3) not null default now()`.execute(db);

  // With the owner's rights: a role that may change a tenant by hand needs no rights on this table. The notification wakes the
  // readers; replicas of a former build read the message in it.
  await sql`
    create or replace function tell_change() returns trigger
    language plpgsql security definer set search_path = pg_catalog, public, pg_temp as $$
    declare
      told text := tg_argv[0] || ' ' || coalesce(new.id, old.id);
    begin
      insert into public.changes (message) values (told);
      if pg_notification_queue_usage() < 0.5 then
        perform pg_notify('tenantry', told || '  feed');
      end if;
      return null;
    end $$`.execute(db);
}
