// Queries for GET /status: the fleet in numbers. Each counts in PostgreSQL and returns a bounded number of rows, however many
// tenants there are. Ages are in ms, by the registry's clock.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import { ALIVE_FOR, REPORT_COUNTS_FOR } from './replica-rows.js';
import { operationStates, type OperationState } from './operations/operations-table.js';
import type { ReportKind } from './fleet/fleet-tables.js';
import type { Registry, TenantStatus } from './registry-schema.js';

/** Tenants of one status whose databases have one schema version. */
export interface TenantCount {
  readonly status: TenantStatus;
  readonly schemaVersion: string;
  readonly tenants: number;
}

export async function countTenants(db: Kysely<Registry>): Promise<TenantCount[]> {
  return db
    .selectFrom('tenants')
    .select(['status', 'schema_version as schemaVersion', sql<number>`count(*)::int`.as('tenants')])
    .groupBy(['status', 'schema_version'])
    .orderBy('schema_version')
    .execute();
}

/** Deleted tenants whose grace time is over, and whose removal has not begun: work that is due, and no operation yet. */
export const PURGE = 'purge';

/** Work of one kind that has not ended. */
export interface UnfinishedWork {
  /** The kind of the operations, or `PURGE`. */
  readonly kind: string;
  readonly count: number;
  /** Operations by state. */
  readonly states: Readonly<Partial<Record<OperationState, number>>>;
  /** The age of the oldest. */
  readonly oldestFor: number;
  /** How many are older than `lateAfter`, or need a person. */
  readonly late: number;
  /** How many are older than `overdueAfter`, or wait for a person. */
  readonly needsPerson: number;
  /** Ids of operations, those that wait for a person first, then the oldest; of tenants if the kind is `PURGE`. */
  readonly oldest: readonly string[];
}

/** How many ids a kind of work shows. */
const SHOWN_IDS = 5;

/**
 * Reads unfinished operations, and no others: they are in indexes of their own.
 *
 * @param grace the grace time of deleted tenants
 * @param lateAfter the age from which work counts as late
 * @param overdueAfter the age from which work needs a person
 */
export async function countUnfinished(
  db: Kysely<Registry>,
  {
    grace,
    lateAfter,
    overdueAfter,
  }: { readonly grace: number; readonly lateAfter: number; readonly overdueAfter: number },
): Promise<UnfinishedWork[]> {
  const graceTime = sql`${grace}::float8 * interval '1 millisecond'`;
  const { rows } = await sql<UnfinishedWork>`
    select kind, count(*)::int as count,
      json_strip_nulls(json_build_object(${sql.join(
        operationStates.map((state) => sql`${sql.lit(state)}, nullif(count(*) filter (where state = ${state}), 0)`),
      )})) as states,
      max(age) as "oldestFor",
      (count(*) filter (where asks or age > ${lateAfter}::float8))::int as late,
      (count(*) filter (where asks or age > ${overdueAfter}::float8))::int as "needsPerson",
      (array_agg(id::text order by asks desc, age desc, id))[1:${sql.lit(SHOWN_IDS)}] as oldest
    from (
      select id, kind, state, coalesce(state = 'needs-person', false) as asks, greatest(0, ${msSince('since')}) as age
      from (
        select id, kind, state, created_at as since from operations where ended_at is null
        union all select t.id, ${PURGE}::text, null, t.deleted_at + ${graceTime} from tenants t
          where t.deleted_at <= now() - ${graceTime} and t.status = 'deleted' and not t.restoring
            and not exists (select from operations o where o.subject = t.id and o.kind = 'remove' and o.ended_at is null)
      ) work
    ) aged
    group by kind order by kind`.execute(db);
  return rows;
}

/** Tenants whose database password is older than `age` (ms) and is not being changed yet. */
export async function countDueRotations(db: Kysely<Registry>, age: number): Promise<number> {
  const { due } = await db
    .selectFrom('tenants')
    .select(sql<number>`count(*)::int`.as('due'))
    .where('next_db_password', 'is', null)
    .where('status', 'in', ['active', 'suspended'])
    .where('password_rotated_at', '<', sql<string>`now() - ${age} * interval '1 millisecond'`)
    .executeTakeFirstOrThrow();
  return due;
}

/** A database that was left as it is, because only a person may decide. */
export interface Report {
  readonly kind: ReportKind;
  readonly tenantId: string | null;
  readonly database: string;
  readonly why: string;
  readonly reportedFor: number;
}

/** The oldest reports that still count, and how many there are of each kind. */
export async function listReports(
  db: Kysely<Registry>,
  limit: number,
): Promise<{ readonly counts: ReadonlyMap<ReportKind, number>; readonly oldest: Report[] }> {
  // After a person's act the tenant's row has a higher generation, or is gone.
  const { rows } = await sql<Report & { readonly total: number; readonly place: number }>`
    select kind, tenant_id as "tenantId", database, why, age as "reportedFor", total, place from (
      select r.kind, r.tenant_id, r.database, r.why, ${msSince('r.first_at')} as age,
        count(*) over (partition by r.kind)::int as total, row_number() over (order by r.first_at, r.subject)::int as place,
        row_number() over (partition by r.kind order by r.first_at, r.subject)::int as of_kind
      from reports r left join tenants t on t.id = r.tenant_id
      where r.seen_at > clock_timestamp() - ${REPORT_COUNTS_FOR}
        and (r.kind = 'orphan' or t.generation = r.generation)
    ) counted
    where place <= ${limit} or of_kind = 1
    order by place`.execute(db);
  return {
    counts: new Map(rows.map(({ kind, total }) => [kind, total])),
    oldest: rows
      .slice(0, limit)
      .map(({ kind, tenantId, database, why, reportedFor }) => ({ kind, tenantId, database, why, reportedFor })),
  };
}

/** A cluster with the databases on it and the connections that all replicas lease on it. */
export interface ClusterCounts {
  readonly id: string;
  readonly name: string;
  readonly host: string;
  readonly port: number;
  readonly region: string | null;
  readonly accepting: boolean;
  readonly connectionBudget: number;
  readonly connectionReserve: number;
  readonly tenants: number;
  readonly standbyReady: number;
  readonly standbyMaking: number;
  readonly standbyWanted: number;
  readonly leasedTenants: number;
  readonly leasedReserve: number;
  readonly usedTenants: number;
  readonly usedReserve: number;
  readonly wantedTenants: number;
  readonly wantedReserve: number;
}

/** @param version the schema version of this build: standby databases of another version are not ready for its tenants */
export async function countClusters(db: Kysely<Registry>, version: string): Promise<ClusterCounts[]> {
  const { rows } = await sql<ClusterCounts>`
    with held as (
      select cluster, kind, sum(slots)::int as leased, sum(wanted)::int as wanted from slot_leases group by cluster, kind
    ),
    used as (
      select key, sum(value::int)::int as used from replicas, jsonb_each_text(slots_used)
      where seen_at > clock_timestamp() - ${ALIVE_FOR} group by key
    ),
    on_cluster as (select cluster_id, count(*)::int as tenants from tenants group by cluster_id),
    standby as (
      select cluster_id, (count(*) filter (where ready and schema_version = ${version}))::int as ready,
        (count(*) filter (where not ready))::int as making
      from standby_databases group by cluster_id
    )
    select c.id, c.name, c.host, c.port, c.region, c.accepting, c.connection_budget as "connectionBudget",
      c.connection_reserve as "connectionReserve", coalesce(o.tenants, 0) as tenants,
      coalesce(s.ready, 0) as "standbyReady", coalesce(s.making, 0) as "standbyMaking",
      case when c.accepting then c.standby_target else 0 end as "standbyWanted",
      ${slots('leased', 'tenants')} as "leasedTenants", ${slots('leased', 'reserve')} as "leasedReserve",
      ${slots('wanted', 'tenants')} as "wantedTenants", ${slots('wanted', 'reserve')} as "wantedReserve",
      ${slots('used', 'tenants')} as "usedTenants", ${slots('used', 'reserve')} as "usedReserve"
    from clusters c
      left join on_cluster o on o.cluster_id = c.id
      left join standby s on s.cluster_id = c.id
    order by c.name`.execute(db);
  return rows;
}

/** The standby databases of a cluster. */
export interface StandbyCount {
  /** `host:port`. */
  readonly cluster: string;
  /** How many standby databases to keep; 0 if the cluster accepts no tenants. */
  readonly wanted: number;
  readonly ready: number;
  /** Standby databases that are being made or dropped. */
  readonly making: number;
  /** Complete standby databases of another schema version, which no tenant gets. */
  readonly outdated: number;
}

/** @param version the schema version of this build */
export async function countStandby(db: Kysely<Registry>, version: string): Promise<StandbyCount[]> {
  const { rows } = await sql<StandbyCount>`
    select c.host || ':' || c.port as cluster, case when c.accepting then c.standby_target else 0 end as wanted,
      (count(*) filter (where s.ready and s.schema_version = ${version}))::int as ready,
      (count(*) filter (where not s.ready))::int as making,
      (count(*) filter (where s.ready and s.schema_version <> ${version}))::int as outdated
    from clusters c left join standby_databases s on s.cluster_id = c.id
    group by c.id`.execute(db);
  return rows;
}

/** A replica that serves, or that has been silent for less than an hour. */
export interface ReplicaRow {
  readonly id: string;
  readonly version: string;
  readonly node: string;
  readonly host: string;
  readonly startedAt: string;
  readonly seenAt: string;
  readonly silentFor: number;
  readonly clockSkew: number | null;
  readonly notReady: string | null;
}

const SILENT_SHOWN_FOR = sql`interval '1 hour'`;

/** The replicas that wrote last come first. */
export async function listReplicas(db: Kysely<Registry>, limit: number): Promise<ReplicaRow[]> {
  return db
    .selectFrom('replicas')
    .select(['id', 'version', 'node', 'host', 'started_at as startedAt', 'seen_at as seenAt'])
    .select(['clock_skew as clockSkew', 'not_ready as notReady', msSince('seen_at').as('silentFor')])
    .where('seen_at', '>', sql<string>`clock_timestamp() - ${SILENT_SHOWN_FOR}`)
    .orderBy('seen_at', 'desc')
    .limit(limit)
    .execute();
}

function msSince(column: string): RawBuilder<number> {
  return sql<number>`(extract(epoch from clock_timestamp() - ${sql.ref(column)}) * 1000)::float8`;
}

/** Slots of the cluster `c`, of all replicas together. */
function slots(what: 'leased' | 'wanted' | 'used', kind: 'tenants' | 'reserve'): RawBuilder<number> {
  const place = sql`c.host || ':' || c.port`;
  return what === 'used'
    ? sql<number>`coalesce((select used from used where key = ${sql.lit(kind)} || ' ' || ${place}), 0)`
    : sql<number>`coalesce((select ${sql.ref(what)} from held where held.cluster = ${place} and kind = ${sql.lit(kind)}), 0)`;
}
