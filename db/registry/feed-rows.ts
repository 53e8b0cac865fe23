// Queries on the changes that replicas publish to each other. A row's number does not show when the row was committed. So a
// reader compares snapshots: a row is new if it is visible now and was not visible in the last snapshot, however late it was
// committed.
import { sql, type Kysely } from 'kysely';
import { WITHOUT_STANDBY } from '../shared/synchronous-commit.js';
import type { Registry } from './registry-schema.js';

/** The channel of the notifications that wake readers. Former builds read the messages from it. */
export const CHANNEL = 'tenantry';

/** A reader that finds more new rows than this reads none of them. One `any` is shorter. */
export const MAX_NEW_ROWS = 10_000;

/** How many rows one statement deletes. */
const SWEPT_AT_ONCE = 5_000;

/** How long a former build may run beside this one, as an interval of PostgreSQL. */
const FORMER_BUILD_FOR = `interval '2 hours'`;

/** The result of one reading. */
export interface FeedReading {
  /** The snapshot of this reading, from which the next reading continues. */
  readonly snapshot: string;
  /** The registry's clock, in ms since 1970. */
  readonly clock: number;
  /** Identifies the server, the database and the table. Another source has other transactions and numbers. */
  readonly source: string;
  /** Numbers of the oldest and the newest row; 0 if there is none. */
  readonly oldest: number;
  readonly newest: number;
  /** The new messages since the last reading, in order of number. Empty in a first reading; at most MAX_NEW_ROWS + 1. */
  readonly messages: readonly string[];
  /** The numbers of their rows. */
  readonly seqs: readonly number[];
  /** Whether the server is read-only: then changes are made elsewhere. */
  readonly readOnly: boolean;
  /** Whether a former build may run beside this one. */
  readonly former: boolean;
  /** How full the server's NOTIFY queue is, from 0 to 1. Reading this value also frees what every listener has read. */
  readonly queueUsage: number;
}

/** SQL that identifies the server, the database and the table. `d` is the database's row. */
const SOURCE = `concat_ws(' ', extract(epoch from pg_postmaster_start_time()), d.oid, 'changes'::regclass::oid)`;

/**
 * Reads the new rows, in one statement that takes no transaction id. Its parameter is the snapshot of the previous reading, or
 * null. Rows from another server, which a restored dump contains, have transaction ids that this server has not assigned yet.
 */
export const READ_FEED = `select pg_current_snapshot()::text as "snapshot",
    (extract(epoch from clock_timestamp()) * 1000)::float8 as "clock",
    ${SOURCE} as "source",
    coalesce((select min(seq) from changes), 0)::float8 as "oldest",
    coalesce((select max(seq) from changes), 0)::float8 as "newest",
    added.messages, added.seqs,
    pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' as "readOnly",
    coalesce((select feed_since > now() - ${FORMER_BUILD_FOR} from installation), true) as "former",
    case when pg_is_in_recovery() then 0 else pg_notification_queue_usage() end as "queueUsage"
  from pg_database d, (
      select coalesce(array_agg(message order by seq), '{}') as messages,
        coalesce(array_agg(seq::float8 order by seq), '{}') as seqs
      from (
        select seq, message from (
          select seq, message from changes
          where xid >= pg_snapshot_xmax($1::pg_snapshot) and xid < pg_snapshot_xmax(pg_current_snapshot())
          union all
          select seq, message from changes where xid = any(array(select pg_snapshot_xip($1::pg_snapshot)))
        ) visible order by seq limit ${MAX_NEW_ROWS + 1}
      ) new
    ) added
  where d.datname = current_database()`;

/**
 * Adds changes, in one transaction. No standby has to confirm them: readers that reach another server treat that as a gap.
 *
 * @param notify whether to notify too: a full queue (54000) then fails the statement
 * @throws DatabaseFault
 */
export async function insertChanges(
  db: Kysely<Registry>,
  messages: readonly { readonly row: string; readonly notification: string }[],
  notify: boolean,
): Promise<void> {
  const rows = messages.map(({ row }) => row);
  const notifications = notify ? messages.map(({ notification }) => notification) : [];
  await sql`
    with added as (
      insert into changes (message)
      select message from unnest(${rows}::text[]) message where (select ${WITHOUT_STANDBY}) is not null
    )
    select pg_notify(${CHANNEL}, notification) from unnest(${notifications}::text[]) notification`.execute(db);
}

/** Where a reading ended. */
export type FeedPosition = Pick<FeedReading, 'snapshot' | 'source'>;

/**
 * The ids of tenants whose rows changed since an earlier reading, by this build, a former one or by hand: a trigger adds them to
 * the feed, but only if a column changed that pools depend on, such as the status. Without an earlier reading, all that the feed
 * still has: the last minute at least. A tenant may be gone.
 */
export async function listChangedTenants(
  db: Kysely<Registry>,
  since: FeedPosition | undefined,
  limit: number,
): Promise<{ readonly ids: readonly string[]; readonly position: FeedPosition }> {
  const added = since
    ? sql`
        select message from changes
        where xid >= pg_snapshot_xmax(${since.snapshot}::pg_snapshot) and xid < pg_snapshot_xmax(pg_current_snapshot())
        union all
        select message from changes where xid = any(array(select pg_snapshot_xip(${since.snapshot}::pg_snapshot)))`
    : sql`select message from changes`;
  const { rows } = await sql<FeedPosition & { ids: string[] }>`
    select pg_current_snapshot()::text as snapshot, ${sql.raw(SOURCE)} as source, array(
        select distinct split_part(message, ' ', 2) from (${added}) added
        where message ~ '^tenant [0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}( |$)' limit ${limit}
      ) as ids
    from pg_database d where d.datname = current_database()`.execute(db);
  const [{ ids, ...position } = { ids: [], snapshot: '', source: '' }] = rows;
  // Another server has other transactions, so the earlier snapshot says nothing about its rows.
  if (since && since.source !== position.source) return listChangedTenants(db, undefined, limit);
  return { ids, position };
}

/** What is visible now. */
export async function currentSnapshot(db: Kysely<Registry>): Promise<string> {
  const { rows } = await sql<{ snapshot: string }>`select pg_current_snapshot()::text as snapshot`.execute(db);
  return rows[0]?.snapshot ?? '';
}

/**
 * Deletes a batch of rows that were visible in an earlier snapshot, and rows from another server. The newest row stays: a reader
 * whose last row is gone knows that it missed something.
 *
 * @param earlier a snapshot so old that every reader has read since, or knows that it was silent for too long
 * @returns whether there may be more
 */
export async function sweepChanges(db: Kysely<Registry>, earlier: string): Promise<boolean> {
  const wasVisible = sql<boolean>`pg_visible_in_snapshot(xid, ${earlier}::pg_snapshot)`;
  const { numAffectedRows = 0n } = await sql`
    delete from changes where seq in (
      select seq from changes
      where (${wasVisible} or xid >= pg_snapshot_xmax(pg_current_snapshot()))
        and seq < (select max(seq) from changes where ${wasVisible})
      order by seq limit ${SWEPT_AT_ONCE}
    ) and (select ${WITHOUT_STANDBY}) is not null`.execute(db);
  return numAffectedRows >= SWEPT_AT_ONCE;
}
