// The numbers of the whole fleet, for operators: counted by the registry, so that no tenant's row is read into the process.
import { sql, type Kysely } from 'kysely';
import type { Registry, TenantStatus } from './registry-schema.js';

export interface TenantCount {
  readonly status: TenantStatus;
  /** The newest migration of the tenants' databases. */
  readonly version: string;
  readonly count: number;
}

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

/** Every kind of work on tenants and databases that can be unfinished. */
export const workKinds = ['making', 'removing', 'restoring', 'purge', 'rotation', 'standby'] as const;
export type WorkKind = (typeof workKinds)[number];

export interface UnfinishedWork {
  readonly kind: WorkKind;
  readonly count: number;
  /** Seconds since the oldest of it began; null if no row has that time, as for `rotation`. */
  readonly oldest: number | null;
  /** How much of it is older than `overdueAfter`. */
  readonly overdue: number;
}

export async function countTenants(db: Kysely<Registry>): Promise<readonly TenantCount[]> {
  return db
    .selectFrom('tenants')
    .select(['status', 'schema_version as version', sql<number>`count(*)::int`.as('count')])
    .groupBy(['status', 'schema_version'])
    .execute();
}

/** @param version the schema version of this build */
export async function countStandby(db: Kysely<Registry>, version: string): Promise<readonly StandbyCount[]> {
  const { rows } = await sql<StandbyCount>`
    select c.host || ':' || c.port as cluster, case when c.accepting then c.standby_target else 0 end as wanted,
      (count(*) filter (where s.ready and s.schema_version = ${version}))::int as ready,
      (count(*) filter (where not s.ready))::int as making,
      (count(*) filter (where s.ready and s.schema_version <> ${version}))::int as outdated
    from clusters c left join standby_databases s on s.cluster_id = c.id
    group by c.id`.execute(db);
  return rows;
}

/**
 * @param grace time (ms) from the deletion of a tenant until its purge
 * @param overdueAfter age (ms) from which work counts as overdue
 */
export async function countUnfinished(
  db: Kysely<Registry>,
  grace: number,
  overdueAfter: number,
): Promise<readonly UnfinishedWork[]> {
  const graceTime = sql`${grace} * interval '1 millisecond'`;
  const { rows } = await sql<UnfinishedWork>`
    select kind, count(*)::int as count, extract(epoch from max(now() - since))::float8 as oldest,
      (count(*) filter (where now() - since > ${overdueAfter} * interval '1 millisecond'))::int as overdue
    from (
      select 'making' as kind, created_at as since from tenants where status = 'provisioning'
      union all select 'removing', updated_at from tenants where status = 'deleting'
      union all select 'restoring', updated_at from tenants where restoring
      union all select 'purge', deleted_at + ${graceTime} from tenants
        where status = 'deleted' and not restoring and deleted_at <= now() - ${graceTime}
      union all select 'rotation', null from tenants where next_db_password is not null and status <> 'deleting'
      union all select 'standby', created_at from standby_databases where not ready
    ) work group by kind`.execute(db);
  return rows;
}
