import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // How long rows are kept; 0 for ever. Only the owner writes it, so the service cannot shorten the time.
  await sql`
    create table audit_retention (
      only_one boolean primary key default true check (only_one),
      days integer not null default 0 check (days between 0 and 36500)
    )`.execute(db);
  await sql`insert into audit_retention default values`.execute(db);
  // Runs with the rights of the owner: the service itself cannot remove rows. The newest row stays, because the next one gets its
  // era after it.
  await sql`
    create function remove_expired_audit(most integer) returns integer
    language sql security definer set search_path = pg_catalog, public, pg_temp as $$
      with expired as (
        select a.id from audit a, audit_retention r
        where r.days > 0 and a.at < now() - r.days * interval '1 day'
          and a.id <> (select n.id from audit n order by n.era desc, n.xid desc, n.id desc limit 1)
        order by a.at, a.id limit least(most, 1000)
      ), removed as (
        delete from audit where id in (select id from expired) returning 1
      )
      select count(*)::integer from removed
    $$`.execute(db);
  await sql`revoke execute on function remove_expired_audit from public`.execute(db);
}
