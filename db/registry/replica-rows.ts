// The rows that replicas write of themselves: who serves, how its jobs go, and which databases it left as they are. Each replica
// writes them every few seconds, in one statement with one transaction id. No standby has to confirm it: the next beat writes
// again what a failover loses.
import { sql, type Kysely } from 'kysely';
import { WITHOUT_STANDBY } from '../shared/synchronous-commit.js';
import type { Registry, ReportKind } from './registry-schema.js';

/** One beat of a replica. Times are in ms before the beat, so that no two clocks are compared. */
export interface Beat {
  readonly id: string;
  /** The version of the build. */
  readonly version: string;
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
  /** The replica's jobs. Those that have neither begun nor ended since the last beat are not written again. */
  readonly jobs: readonly BeatJob[];
  readonly reports: readonly BeatReport[];
}

export interface BeatJob {
  readonly name: string;
  readonly every: number;
  readonly runs: number;
  readonly failuresInARow: number;
  readonly runningFor: number | undefined;
  readonly lastRunAgo: number | undefined;
  readonly lastSuccessAgo: number | undefined;
  readonly lastDuration: number | undefined;
  readonly lastError: string | undefined;
}

export interface BeatReport {
  readonly kind: ReportKind;
  readonly subject: string;
  readonly tenantId: string | undefined;
  readonly generation: number | undefined;
  readonly database: string;
  readonly why: string;
}

/** A report that no job has repeated for this long counts no longer, as an interval of PostgreSQL. */
export const REPORT_COUNTS_FOR = sql`interval '5 minutes'`;

/** The largest number of a 4-byte integer: a clock that is wrong by more than 24 days is shown as wrong by that. */
const MAX_INTEGER = 2_147_483_647;

/** @throws DatabaseFault */
export async function writeBeat(db: Kysely<Registry>, beat: Beat): Promise<void> {
  const { jobs, reports } = beat;
  const ofJobs = <K extends keyof BeatJob>(key: K): (NonNullable<BeatJob[K]> | null)[] =>
    jobs.map((job) => (typeof job[key] === 'number' ? Math.round(job[key]) : job[key]) as NonNullable<BeatJob[K]>);
  const ofReports = <K extends keyof BeatReport>(key: K): (BeatReport[K] | null)[] =>
    reports.map((report) => report[key] ?? null);
  const skew = beat.clockSkew === undefined ? null : Math.round(clamp(beat.clockSkew));
  await sql`with beat as (insert into replicas (id, version, node, host, started_at, seen_at, clock_skew, not_ready, slots_used)
      select ${beat.id}::text, left(${beat.version}::text, 100), left(${beat.node}::text, 100), left(${beat.host}::text, 253),
        clock_timestamp() - ${Math.round(beat.servingFor)}::float8 * interval '1 millisecond', clock_timestamp(),
        ${skew}::integer, left(${beat.notReady ?? null}::text, 200), ${JSON.stringify(beat.slotsUsed)}::jsonb
      where (select ${WITHOUT_STANDBY}) is not null
      on conflict (id) do update set seen_at = excluded.seen_at, clock_skew = excluded.clock_skew,
        not_ready = excluded.not_ready, slots_used = excluded.slots_used
    ),
    job as (
      insert into replica_jobs as known (replica_id, name, every, runs, failures_in_a_row, running_since, last_run_at,
        last_success_at, last_duration, last_error)
      select ${beat.id}::text, left(name, 100), every, runs, failures, ${before('running')}, ${before('run')},
        ${before('success')}, duration, left(error, 200)
      from unnest(${ofJobs('name')}::text[], ${ofJobs('every')}::integer[], ${ofJobs('runs')}::bigint[],
        ${ofJobs('failuresInARow')}::integer[], ${ofJobs('runningFor')}::float8[], ${ofJobs('lastRunAgo')}::float8[],
        ${ofJobs('lastSuccessAgo')}::float8[], ${ofJobs('lastDuration')}::integer[], ${ofJobs('lastError')}::text[])
        as given (name, every, runs, failures, running, run, success, duration, error)
      on conflict (replica_id, name) do update set every = excluded.every, runs = excluded.runs,
        failures_in_a_row = excluded.failures_in_a_row, running_since = excluded.running_since,
        last_run_at = excluded.last_run_at, last_success_at = excluded.last_success_at,
        last_duration = excluded.last_duration, last_error = excluded.last_error
      where known.runs <> excluded.runs or (known.running_since is null) <> (excluded.running_since is null)
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

/** Removes a replica that stops in order, and its jobs. @throws DatabaseFault */
export async function removeReplica(db: Kysely<Registry>, id: string): Promise<void> {
  await db.deleteFrom('replicas').where('id', '=', id).returning(WITHOUT_STANDBY.as('committed')).execute();
}

/** How long a row stays after its last beat or report, as an interval of PostgreSQL. */
const KEPT_FOR = sql`interval '1 hour'`;

/**
 * Removes rows of replicas that are long gone, and reports that nobody has repeated. Takes no transaction id if there is nothing
 * to remove, and waits for no other replica that does the same.
 *
 * @param id the replica that asks, whose own row stays
 */
export async function sweepReplicas(db: Kysely<Registry>, id: string): Promise<void> {
  await sql`with gone as (delete from replicas where id in (
        select id from replicas where seen_at < clock_timestamp() - ${KEPT_FOR} and id <> ${id}
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

/** The time that is as many ms ago as the column says; null if the column is null. */
function before(column: 'running' | 'run' | 'success') {
  return sql`clock_timestamp() - ${sql.ref(column)} * interval '1 millisecond'`;
}
