// Queries on the jobs of the fleet. Only the registry's clock decides when a job is due. No standby has to confirm these writes:
// after a failover a job may run a little earlier.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import { ALIVE_FOR } from './replica-rows.js';
import { WITHOUT_STANDBY } from '../shared/synchronous-commit.js';
import type { Registry } from './registry-schema.js';

/** A job with its last run on any replica. Times are in ms before now. */
export interface JobRow {
  readonly name: string;
  readonly every: number;
  /** The live replica that runs it. */
  readonly runningOn: string | null;
  readonly runningFor: number | null;
  readonly lastRunAgo: number | null;
  readonly lastRunOn: string | null;
  readonly lastDuration: number | null;
  readonly lastSuccessAgo: number | null;
  /** In seconds since 1970. */
  readonly lastSuccessAt: number | null;
  readonly failuresInARow: number;
  readonly lastError: string | null;
}

/** How a run ended. */
export interface EndedRun {
  /** ms. */
  readonly duration: number;
  /** In plain words; undefined if it succeeded. */
  readonly error: string | undefined;
}

/**
 * The time (ms) until a job is due: `every` after the end of its last run in the fleet. A time that lies in the future was written
 * by a server with another clock, and does not count.
 */
export async function jobDueIn(db: Kysely<Registry>, name: string, every: number): Promise<number> {
  const row = await db
    .selectFrom('jobs')
    .select(sql<number>`greatest(0, ${every}::float8 - ${since('last_run_at')})`.as('due'))
    .where('name', '=', name)
    .where(ranLately(every))
    .executeTakeFirst();
  return row?.due ?? 0;
}

/**
 * Records that a replica runs a job. The replica holds the job's lock.
 *
 * @param always also if the job is not due
 * @returns when the run began, for `endJob`; undefined if the job is not due
 */
export async function beginJob(
  db: Kysely<Registry>,
  { name, every, replicaId }: { readonly name: string; readonly every: number; readonly replicaId: string },
  always: boolean,
): Promise<string | undefined> {
  const begun = await db
    .insertInto('jobs')
    .values({
      name,
      every: Math.round(every),
      running_on: replicaId,
      running_since: sql<string>`clock_timestamp()`,
    })
    .onConflict((conflict) =>
      conflict
        .column('name')
        .doUpdateSet({
          every: sql<number>`excluded.every`,
          running_on: sql<string>`excluded.running_on`,
          running_since: sql<string>`excluded.running_since`,
        })
        .where(always ? sql<boolean>`true` : sql<boolean>`(${ranLately(every, 'jobs.last_run_at')}) is not true`),
    )
    .returning(['running_since as since', WITHOUT_STANDBY.as('committed')])
    .executeTakeFirst();
  return begun?.since ?? undefined;
}

/** Records the end of a run, unless another replica has begun one since. */
export async function endJob(
  db: Kysely<Registry>,
  { name, replicaId, since: began }: { readonly name: string; readonly replicaId: string; readonly since: string },
  { duration, error }: EndedRun,
): Promise<void> {
  await db
    .updateTable('jobs')
    .set({
      running_on: null,
      running_since: null,
      last_run_at: sql<string>`clock_timestamp()`,
      last_run_on: replicaId,
      last_duration: Math.round(duration),
      last_error: error === undefined ? null : sql<string>`left(${error}::text, 200)`,
      failures_in_a_row: error === undefined ? 0 : sql<number>`failures_in_a_row + 1`,
      ...(error === undefined && { last_success_at: sql<string>`clock_timestamp()` }),
    })
    .where('name', '=', name)
    .where('running_on', '=', replicaId)
    .where('running_since', '=', began)
    .returning(WITHOUT_STANDBY.as('committed'))
    .execute();
}

/** Records that a run was broken off, which says nothing about the job: it is due as before. */
export async function leaveJob(
  db: Kysely<Registry>,
  { name, replicaId, since: began }: { readonly name: string; readonly replicaId: string; readonly since: string },
): Promise<void> {
  await db
    .updateTable('jobs')
    .set({ running_on: null, running_since: null })
    .where('name', '=', name)
    .where('running_on', '=', replicaId)
    .where('running_since', '=', began)
    .returning(WITHOUT_STANDBY.as('committed'))
    .execute();
}

/** Every job. A run of a replica that is silent is not shown: the job is due as before that run. */
export async function listJobs(db: Kysely<Registry>, limit: number): Promise<JobRow[]> {
  const { rows } = await sql<JobRow>`
    select j.name, j.every::float8 as every, r.id as "runningOn",
      case when r.id is not null then ${since('j.running_since')} end as "runningFor",
      ${since('j.last_run_at')} as "lastRunAgo", j.last_run_on as "lastRunOn", j.last_duration::float8 as "lastDuration",
      ${since('j.last_success_at')} as "lastSuccessAgo",
      extract(epoch from j.last_success_at)::float8 as "lastSuccessAt",
      j.failures_in_a_row as "failuresInARow", j.last_error as "lastError"
    from jobs j left join replicas r on r.id = j.running_on and r.seen_at > clock_timestamp() - ${ALIVE_FOR}
    order by j.name limit ${limit}`.execute(db);
  return rows;
}

function ranLately(every: number, column = 'last_run_at'): RawBuilder<boolean> {
  const at = sql.ref(column);
  return sql<boolean>`${at} > clock_timestamp() - ${every}::float8 * interval '1 millisecond'
    and ${at} < clock_timestamp() + interval '1 minute'`;
}

/** ms since the time in the column. */
function since(column: string): RawBuilder<number> {
  return sql<number>`(extract(epoch from clock_timestamp() - ${sql.ref(column)}) * 1000)::float8`;
}
