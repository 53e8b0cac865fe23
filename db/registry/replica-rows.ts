// The rows that replicas write of themselves: who serves, and which databases it left as they are. Each replica
// writes them every few seconds, in one statement with one transaction id. No standby has to confirm it: the next beat writes
// again what a failover loses.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import { WITHOUT_STANDBY } from '../shared/synchronous-commit.js';
import type { ReportKind } from './fleet/fleet-tables.js';
import type { Registry } from './registry-schema.js';

/** One beat of a replica. Times are in ms before the beat, so that no two clocks are compared. */
export interface Beat {
  readonly id: string;
  /** The version of the build. */
  readonly version: string;
  /** The schema of tenants that the build makes. */
  readonly schemaVersion: string;
  /** The version of Node.js. */
  readonly node: string;
  readonly host: string;
  readonly servingFor: number;
  /** ms by which the replica's clock is ahead of the registry's; undefined if that is not known. */
  readonly clockSkew: number | undefined;
  /** Why the replica should get no requests; undefined if it is ready. */
  readonly notReady: string | undefined;
  /** Slots in use, by `<kind> <host:port>`. */
  readonly slotsUsed: Readonly<Record<string, number>>;
  /** The id of the fleet's cache store that the replica knows; undefined if it takes no part in caching answers. */
  readonly cacheId?: string | undefined;
  /** How long (ms) the replica may acknowledge writes after this beat, if it cannot write another one. */
  readonly actsFor: number;
  readonly reports: readonly BeatReport[];
}

export interface BeatReport {
  readonly kind: ReportKind;
  readonly subject: string;
  readonly tenantId: string | undefined;
  readonly generation: number | undefined;
  readonly database: string;
  readonly why: string;
}

/** A replica that has not written for this long is silent: three beats. As an interval of PostgreSQL, and in ms. */
export const ALIVE_FOR = sql`interval '15 seconds'`;
export const SILENT_AFTER = 15_000;

/** A report that no job has repeated for this long counts no longer, as an interval of PostgreSQL. */
export const REPORT_COUNTS_FOR = sql`interval '5 minutes'`;

/** The largest number of a 4-byte integer: a clock that is wrong by more than 24 days is shown as wrong by that. */
const MAX_INTEGER = 2_147_483_647;

/** @throws DatabaseFault */
export async function writeBeat(db: Kysely<Registry>, beat: Beat): Promise<void> {
  const { reports } = beat;
  const ofReports = <K extends keyof BeatReport>(key: K): (BeatReport[K] | null)[] =>
    reports.map((report) => report[key] ?? null);
  const skew = beat.clockSkew === undefined ? null : Math.round(clamp(beat.clockSkew));
  await sql`with beat as (insert into replicas (id, version, node, host, started_at, seen_at, clock_skew, not_ready, slots_used,
        schema_version, cache_id, acts_for)
      select ${beat.id}::text, left(${beat.version}::text, 100), left(${beat.node}::text, 100), left(${beat.host}::text, 253),
        clock_timestamp() - ${Math.round(beat.servingFor)}::float8 * interval '1 millisecond', clock_timestamp(),
        ${skew}::integer, left(${beat.notReady ?? null}::text, 200), ${JSON.stringify(beat.slotsUsed)}::jsonb, left(${beat.schemaVersion}::text, 200),
        ${beat.cacheId ?? null}::uuid, ${Math.round(beat.actsFor)}::bigint
      where (select ${WITHOUT_STANDBY}) is not null
      on conflict (id) do update set seen_at = excluded.seen_at, clock_skew = excluded.clock_skew,
        not_ready = excluded.not_ready, slots_used = excluded.slots_used,
        cache_id = excluded.cache_id, acts_for = excluded.acts_for
    )
    insert into reports as known (kind, subject, tenant_id, generation, database, why, first_at, seen_at)
    select kind, left(subject, 400), tenant_id, generation, left(database, 100), left(why, 500), clock_timestamp(),
      clock_timestamp()
    from unnest(${ofReports('kind')}::text[], ${ofReports('subject')}::text[], ${ofReports('tenantId')}::uuid[],
      ${ofReports('generation')}::integer[], ${ofReports('database')}::text[], ${ofReports('why')}::text[])
      as given (kind, subject, tenant_id, generation, database, why)
    -- Two replicas that write the same reports must lock them in one order.
    order by kind, subject
    on conflict (kind, subject) do update set tenant_id = excluded.tenant_id, generation = excluded.generation,
      database = excluded.database, why = excluded.why, seen_at = excluded.seen_at,
      first_at = case when known.seen_at < excluded.seen_at - ${REPORT_COUNTS_FOR} then excluded.first_at
        else known.first_at end`.execute(db);
}

/** Removes a replica that stops in order. @throws DatabaseFault */
export async function removeReplica(db: Kysely<Registry>, id: string): Promise<void> {
  await db.deleteFrom('replicas').where('id', '=', id).returning(WITHOUT_STANDBY.as('committed')).execute();
}

/**
 * Whether a replica may still acknowledge writes: a condition on a row of `replicas`. One that takes no part in caching answers may
 * also do so while only its beats fail. It then renews its leases of connection slots, without which it cannot write.
 *
 * @param formerFor how long (ms) this is assumed of a replica of a former build, which does not say
 */
export function mayAct(formerFor: number): RawBuilder<boolean> {
  return sql<boolean>`(
    greatest(seen_at, case when cache_id is null then
        (select max(renewed_at) from slot_leases where replica_id = replicas.id) end)
      > clock_timestamp() - coalesce(acts_for, ${Math.round(formerFor)}::bigint) * interval '1 millisecond')`;
}

/** How long a row stays after its last beat or report, as an interval of PostgreSQL. A replica that may act stays longer. */
const KEPT_FOR = sql`interval '1 hour'`;

/**
 * Removes rows of replicas that are long gone, and reports that nobody has repeated. Takes no transaction id if there is nothing
 * to remove, and waits for no other replica that does the same.
 *
 * @param id the replica that asks, whose own row stays
 * @param formerFor as for `mayAct`
 */
export async function sweepReplicas(db: Kysely<Registry>, id: string, formerFor: number): Promise<void> {
  await sql`with gone as (delete from replicas where id in (
        select id from replicas where seen_at < clock_timestamp() - ${KEPT_FOR} and id <> ${id} and not ${mayAct(formerFor)}
        for update skip locked)
      returning ${WITHOUT_STANDBY}
    )
    delete from reports where (kind, subject) in (
      select kind, subject from reports where seen_at < clock_timestamp() - ${KEPT_FOR} for update skip locked)
    returning ${WITHOUT_STANDBY}`.execute(db);
}

function clamp(value: number): number {
  return Math.max(-MAX_INTEGER, Math.min(MAX_INTEGER, value));
}

/**
 * Whether a live replica makes tenants of an older schema. A replica of a build that does not say counts as one, because such
 * builds are older.
 */
export async function olderBuildLives(db: Kysely<Registry>, schemaVersion: string): Promise<boolean> {
  const older = await db
    .selectFrom('replicas')
    .select('id')
    .where(livesWithOlderSchema(schemaVersion))
    .limit(1)
    .executeTakeFirst();
  return older !== undefined;
}

/** A condition on a row of `replicas`, as in `olderBuildLives`. */
export function livesWithOlderSchema(schemaVersion: string): RawBuilder<boolean> {
  return sql<boolean>`(
    seen_at > clock_timestamp() - ${ALIVE_FOR} and coalesce(schema_version, '') < ${schemaVersion}::text)`;
}
