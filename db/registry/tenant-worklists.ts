// The tenants, and the unfinished rows, that background jobs have to work on.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import { NOW } from './operations/operation-rows.js';
import type { Registry } from './registry-schema.js';
import type { TenantRecord } from './tenant-queries.js';

/** Ids of deleted tenants that are being restored. */
export async function listRestoringTenants(db: Kysely<Registry>): Promise<string[]> {
  const rows = await db.selectFrom('tenants').select('id').where('restoring', '=', true).orderBy('id').execute();
  return rows.map(({ id }) => id);
}

/** Deleted tenants whose grace time (ms) is over, and that no operation removes yet. */
export async function listTenantsToPurge(
  db: Kysely<Registry>,
  grace: number,
  limit: number,
): Promise<Pick<TenantRecord, 'id' | 'clusterId'>[]> {
  return db
    .selectFrom('tenants')
    .select(['id', 'cluster_id as clusterId'])
    .where('status', '=', 'deleted')
    .where('restoring', '=', false)
    .where(graceIsOver(grace))
    .where(
      sql<boolean>`not exists (
        select from operations o where o.subject = tenants.id and o.kind = 'remove' and o.ended_at is null)`,
    )
    .orderBy('deleted_at')
    .limit(limit)
    .execute();
}

/**
 * Lets purges after the grace time try again that wait for a person and have not begun: each hour, because the evidence may be
 * complete by now, and at once if the tenant was restored, because then they end.
 */
export async function retryRefusedPurges(db: Kysely<Registry>): Promise<void> {
  await sql`
    update operations o set state = 'waiting', not_before = ${NOW}, updated_at = now()
    where kind = 'remove' and ended_at is null and state = 'needs-person' and details ? 'grace'
      and coalesce((
        select t.status = 'deleted' and (t.restoring or o.updated_at < now() - interval '1 hour')
          or t.status not in ('deleted', 'deleting')
        from tenants t where t.id = o.subject), true)`.execute(db);
}

/** Whether a deleted tenant's grace time (ms) is over. */
export function graceIsOver(grace: number): RawBuilder<boolean> {
  return sql<boolean>`deleted_at <= now() - ${grace} * interval '1 millisecond'`;
}

/** The columns that decide the CONNECTION LIMIT of a tenant's role. */
export type ConnectionLimitRow = Pick<TenantRecord, 'id' | 'dbHost' | 'dbPort' | 'dbUser' | 'limits'>;

/** Tenants whose role should exist: those with the ids, or one page with ids greater than `after`, in order of id. */
export async function listConnectionLimits(
  db: Kysely<Registry>,
  which: { readonly ids: readonly string[] } | { readonly after: string | undefined; readonly limit: number },
): Promise<ConnectionLimitRow[]> {
  const query = db
    .selectFrom('tenants')
    .select(['id', 'db_host as dbHost', 'db_port as dbPort', 'db_user as dbUser', 'limits'])
    .where('status', 'in', ['active', 'suspended']);
  if ('ids' in which)
    return which.ids.length === 0 ? [] : query.where(sql<boolean>`id = any(${which.ids}::uuid[])`).execute();
  const { after, limit } = which;
  // Always a condition on the id, so that the primary key is read in order.
  return query
    .where('id', '>', after ?? NO_ID)
    .orderBy('id')
    .limit(limit)
    .execute();
}

/** Smaller than every id that is given. */
const NO_ID = '00000000-0000-0000-0000-000000000000';

/** The columns that decide whether a tenant's database is open or closed, and its mark. */
export type DoorRow = Pick<
  TenantRecord,
  | 'id'
  | 'status'
  | 'dbHost'
  | 'dbPort'
  | 'dbName'
  | 'dbUser'
  | 'claim'
  | 'generation'
  | 'restoring'
  | 'statusBeforeDeletion'
  | 'adopts'
>;

/**
 * Tenants whose database must be open or closed: those with the ids, or one page of a place with names of databases greater than
 * `after`, in order of name. `after` is '' for the first page.
 */
export async function listDoorRows(
  db: Kysely<Registry>,
  which:
    | { readonly ids: readonly string[] }
    | {
        readonly place: { readonly host: string; readonly port: number };
        readonly after: string;
        readonly limit: number;
      },
): Promise<DoorRow[]> {
  const query = db
    .selectFrom('tenants')
    .select([
      'id',
      'status',
      'db_host as dbHost',
      'db_port as dbPort',
      'db_name as dbName',
      'db_user as dbUser',
      'claim',
      'generation',
      'restoring',
      'status_before_deletion as statusBeforeDeletion',
      'adopts',
    ])
    .where('status', 'in', ['active', 'suspended', 'deleted']);
  if ('ids' in which)
    return which.ids.length === 0 ? [] : query.where(sql<boolean>`id = any(${which.ids}::uuid[])`).execute();
  const { place, after, limit } = which;
  // The order of the unique index on the place and the name.
  return query
    .where('db_host', '=', place.host)
    .where('db_port', '=', place.port)
    .where('db_name', '>', after)
    .orderBy('db_name')
    .limit(limit)
    .execute();
}

/** The columns that measuring a tenant's storage needs. */
export type StorageLimitRow = Pick<TenantRecord, 'id' | 'dbHost' | 'dbPort' | 'dbName' | 'limits'>;

/**
 * Active tenants with a storage limit of their own, with ids greater than `after`, in order of id.
 *
 * @param all also tenants without a limit of their own
 */
export async function listStorageLimits(
  db: Kysely<Registry>,
  all: boolean,
  after: string | undefined,
  limit: number,
): Promise<StorageLimitRow[]> {
  return db
    .selectFrom('tenants')
    .select(['id', 'db_host as dbHost', 'db_port as dbPort', 'db_name as dbName', 'limits'])
    .where('status', '=', 'active')
    .$if(!all, (query) => query.where(sql<boolean>`limits ? 'storageBytes'`))
    .where('id', '>', after ?? NO_ID)
    .orderBy('id')
    .limit(limit)
    .execute();
}

/** An unfinished row, and the kind of operation that finishes or undoes it. */
export interface Leftover {
  readonly id: string;
  readonly kind: 'create' | 'adopt' | 'remove' | 'open' | 'rotate' | 'withdraw';
  /** Null for a standby database. */
  readonly tenantId: string | null;
  readonly clusterId: string | null;
  readonly claim: string | null;
}

/**
 * Unfinished rows without an operation, those with the lowest ids first: a former build wrote them, or the registry was restored.
 * The query reads partial indexes of unfinished rows, and not the tables.
 *
 * A row whose operation was abandoned since its last change is none: otherwise abandoning would end nothing.
 *
 * @param only one row, if it is still a leftover
 */
export async function listLeftovers(
  db: Kysely<Registry>,
  limit: number,
  only?: Pick<Leftover, 'id' | 'kind'>,
): Promise<Leftover[]> {
  const { rows } = await sql<Leftover>`
    select id, kind, tenant_id as "tenantId", cluster_id as "clusterId", claim from (
      select id, case when status = 'deleting' then 'remove' when adopts is null then 'create' else 'adopt' end as kind,
          id as tenant_id, cluster_id, claim
        from tenants t where status in ('provisioning', 'deleting') and ${hasNone(['create', 'adopt', 'remove'])}
      union all select id, 'open', id, cluster_id, claim
        from tenants t where restoring and ${hasNone(['open', 'close', 'remove'])}
      union all select id, 'rotate', id, cluster_id, claim
        from tenants t where next_db_password is not null and status <> 'deleting' and ${hasNone(['rotate'])}
      union all select id, 'withdraw', null, cluster_id, null
        from standby_databases t where not ready and not exists (
          select from operations o where o.subject = t.id and o.kind in ('standby', 'withdraw') and o.ended_at is null)
    ) leftover
    where ${only ? sql`id = ${only.id}::uuid and kind = ${only.kind}` : sql`true`}
    order by id limit ${limit}`.execute(db);
  return rows;
}

/** No operation of these kinds works on the tenant `t`, and none was abandoned since the row changed. */
function hasNone(kinds: readonly string[]): RawBuilder<boolean> {
  return sql<boolean>`not exists (
    select from operations o where o.subject = t.id and o.kind = any(${kinds}) and o.ended_at is null
  ) and not exists (
    select from operations o where o.tenant_id = t.id and o.kind = any(${kinds}) and o.state = 'abandoned'
      and o.ended_at >= t.updated_at)`;
}
