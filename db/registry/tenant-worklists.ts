// The tenants that background jobs have to work on.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import type { Registry } from './registry-schema.js';
import { tenantColumns, type TenantRecord } from './tenant-queries.js';

/** Ids of deleted tenants that are being restored. */
export async function listRestoringTenants(db: Kysely<Registry>): Promise<string[]> {
  const rows = await db.selectFrom('tenants').select('id').where('restoring', '=', true).orderBy('id').execute();
  return rows.map(({ id }) => id);
}

/** Ids of deleted tenants whose grace time (ms) is over. */
export async function listTenantsToPurge(db: Kysely<Registry>, grace: number, limit: number): Promise<string[]> {
  const rows = await db
    .selectFrom('tenants')
    .select('id')
    .where('status', '=', 'deleted')
    .where('restoring', '=', false)
    .where(graceIsOver(grace))
    // In random order, so that tenants that cannot be purged do not hold up the others.
    .orderBy(sql`random()`)
    .limit(limit)
    .execute();
  return rows.map(({ id }) => id);
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

/** Tenants that are being made or removed, or whose making or removal a crash interrupted; oldest first. */
export async function listUnfinishedTenants(db: Kysely<Registry>): Promise<TenantRecord[]> {
  return db
    .selectFrom('tenants')
    .select(tenantColumns)
    .where('status', 'in', ['provisioning', 'deleting'])
    .orderBy('id')
    .execute();
}
