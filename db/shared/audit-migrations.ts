// Steps of migrations that the registry and tenants' databases share: the order of the audit's rows, and who dates them.
//
// A row's place in the order is (era, xid, id). `xid` is the transaction that wrote the row, so a reader knows which rows can still
// come: those of transactions that have not ended. Another server counts transactions from another number, for example after a dump
// was restored there. So an era begins with the first row that a server writes after its start: its rows come after all others. It
// follows from the newest row, whatever the clock says: retention never removes that row.
import { sql, type Kysely } from 'kysely';

/** Rows from before this migration have zeros: they come first. Constants, so that no row is rewritten. */
export async function addAuditOrder(db: Kysely<unknown>): Promise<void> {
  await sql`
    alter table audit
      add column era bigint not null default 0,
      add column xid xid8 not null default '0',
      add column server bigint not null default 0`.execute(db);
}

/**
 * From now on the database dates and places each row, and makes its id, which has a time too. What the writer gives is ignored:
 * statements of former builds run on.
 */
export async function stampAudit(db: Kysely<unknown>): Promise<void> {
  await sql`
    create or replace function stamp_audit() returns trigger language plpgsql set search_path = pg_catalog, public, pg_temp as $$
    declare
      started constant bigint := (extract(epoch from pg_postmaster_start_time()) * 1000000)::bigint;
      moment constant timestamptz := clock_timestamp();
      micros constant bigint := (extract(epoch from moment) * 1000000)::bigint;
      last record;
    begin
      select a.era, a.server into last from audit a order by a.era desc, a.xid desc, a.id desc limit 1;
      if last.server is distinct from started then
        -- The first row since the start of the server. Others that write their first row wait, so that all get one era. It is later
        -- than every era of a server that was lost.
        perform pg_advisory_xact_lock(hashtextextended('tenantry audit era', 0));
        select a.era, a.server into last from audit a order by a.era desc, a.xid desc, a.id desc limit 1;
        if last.server is distinct from started then
          last.era := greatest(coalesce(last.era, 0) + 1, micros);
        end if;
      end if;
      new.era := last.era;
      new.server := started;
      new.xid := pg_current_xact_id();
      new.at := moment;
      -- A UUIDv7 (RFC 9562): milliseconds, version, a fraction of the millisecond, variant, random bits.
      new.id := encode(
        substring(int8send(micros / 1000) from 3)
          || set_byte(set_byte('\\x0000', 0, 112 + ((micros % 1000) * 4 / 256)::integer), 1, ((micros % 1000) * 4 % 256)::integer)
          || substring(uuid_send(gen_random_uuid()) from 9),
        'hex')::uuid;
      return new;
    end
    $$`.execute(db);
  await sql`create trigger stamp_audit before insert on audit for each row execute function stamp_audit()`.execute(db);
}
