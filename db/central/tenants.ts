// Queries on the registry's tenants.
import {
  sql,
  type Kysely,
  type RawBuilder,
  type SelectQueryBuilder,
  type Selectable,
  type UpdateQueryBuilder,
} from 'kysely';
import { afterPosition, containsPattern, type Keyset, type Position } from '../keyset.js';
import type {
  LimitChanges,
  PoolOptionChanges,
  Registry,
  StoredLimits,
  StoredPoolOptions,
  TenantsTable,
  TenantStatus,
} from './schema.js';

/** A tenant's row. `dbPassword` is ciphertext. */
export interface TenantRecord {
  readonly id: string;
  readonly name: string;
  readonly slug: string;
  readonly status: TenantStatus;
  readonly active: boolean;
  readonly dbHost: string;
  readonly dbPort: number;
  readonly dbName: string;
  readonly dbUser: string;
  readonly dbPassword: string;
  /** Ciphertext of the one that takes its place, while it is being changed. */
  readonly nextDbPassword: string | null;
  readonly poolOptions: StoredPoolOptions;
  readonly limits: StoredLimits;
  readonly clusterId: string | null;
  readonly deletedAt: string | null;
  /** What a restoration brings back; null unless it is deleted. */
  readonly statusBeforeDeletion: 'active' | 'suspended' | null;
  readonly schemaVersion: string;
  readonly epoch: number;
  /** Sessions that began before do not count. */
  readonly sessionsValidFrom: string | null;
  readonly createdAt: string;
  readonly updatedAt: string;
}

const columns = [
  'id',
  'name',
  'slug',
  'status',
  'active',
  'db_host as dbHost',
  'db_port as dbPort',
  'db_name as dbName',
  'db_user as dbUser',
  'db_password as dbPassword',
  'next_db_password as nextDbPassword',
  'pool_options as poolOptions',
  'limits',
  'cluster_id as clusterId',
  'deleted_at as deletedAt',
  'status_before_deletion as statusBeforeDeletion',
  'schema_version as schemaVersion',
  'epoch',
  'sessions_valid_from as sessionsValidFrom',
  'created_at as createdAt',
  'updated_at as updatedAt',
] as const;

/** The sorts that the list of tenants offers. */
export const tenantSorts = {
  createdAt: { column: 'created_at', type: 'timestamptz' },
  name: { column: 'name', type: 'text' },
  slug: { column: 'slug', type: 'text' },
} as const satisfies Record<string, Pick<Keyset<Registry, 'tenants'>, 'column' | 'type'>>;

/** The unique constraint behind a slug that is taken. */
export const TENANT_SLUG_CONSTRAINT = 'tenants_slug_key';

export async function findTenant(db: Kysely<Registry>, id: string): Promise<TenantRecord | undefined> {
  return tenants(db).where('id', '=', id).executeTakeFirst();
}

export async function findTenantBySlug(db: Kysely<Registry>, slug: string): Promise<TenantRecord | undefined> {
  return tenants(db).where('slug', '=', slug).executeTakeFirst();
}

/** One page of tenants; `search` looks into name and slug, whatever the case. */
export async function listTenants(
  db: Kysely<Registry>,
  page: {
    sort: keyof typeof tenantSorts;
    direction: 'asc' | 'desc';
    after?: Position | undefined;
    limit: number;
    search?: string | undefined;
    status?: TenantStatus | undefined;
  },
): Promise<TenantRecord[]> {
  const { search, status } = page;
  let query = tenants(db);
  if (status) query = query.where('status', '=', status);
  if (search) {
    const pattern = containsPattern(search);
    query = query.where((eb) => eb.or([eb('name', 'ilike', pattern), eb('slug', 'ilike', pattern)]));
  }
  return afterPosition(
    query,
    { ...tenantSorts[page.sort], id: 'id', direction: page.direction },
    page.after,
    page.limit,
  ).execute();
}

/** The tenants whose database should exist, oldest first: a deleted one may be restored. */
export async function listProvisionedTenants(db: Kysely<Registry>): Promise<TenantRecord[]> {
  return tenants(db).where('status', 'in', ['active', 'suspended', 'deleted']).orderBy('id').execute();
}

/** The places of all tenants' databases. */
export async function listTenantPlaces(db: Kysely<Registry>): Promise<{ host: string; port: number }[]> {
  return db.selectFrom('tenants').select(['db_host as host', 'db_port as port']).distinct().execute();
}

/** Ids, statuses and database names of the tenants at a place, with one of the statuses or one of the names. */
export async function listTenantDatabases(
  db: Kysely<Registry>,
  place: { readonly host: string; readonly port: number },
  which: { readonly statuses: readonly TenantStatus[] } | { readonly names: readonly string[] },
): Promise<{ id: string; status: TenantStatus; dbName: string }[]> {
  const query = db
    .selectFrom('tenants')
    .select(['id', 'status', 'db_name as dbName'])
    .where('db_host', '=', place.host)
    .where('db_port', '=', place.port);
  return 'statuses' in which
    ? query.where('status', 'in', which.statuses).execute()
    : query.where(sql<boolean>`db_name = any(${which.names})`).execute();
}

/** Ids of deleted tenants whose grace (ms) is over. */
export async function listTenantsToPurge(db: Kysely<Registry>, grace: number, limit: number): Promise<string[]> {
  const rows = await db
    .selectFrom('tenants')
    .select('id')
    .where('status', '=', 'deleted')
    .where('deleted_at', '<=', sql<string>`now() - ${grace} * interval '1 millisecond'`)
    .orderBy('id')
    .limit(limit)
    .execute();
  return rows.map(({ id }) => id);
}

/** What the CONNECTION LIMIT of a tenant's role follows from. */
export type ConnectionLimitRow = Pick<TenantRecord, 'id' | 'dbHost' | 'dbPort' | 'dbUser' | 'limits'>;

/** Tenants whose role should exist, in the order of their ids, behind `after`. */
export async function listConnectionLimits(
  db: Kysely<Registry>,
  after: string | undefined,
  limit: number,
): Promise<ConnectionLimitRow[]> {
  return db
    .selectFrom('tenants')
    .select(['id', 'db_host as dbHost', 'db_port as dbPort', 'db_user as dbUser', 'limits'])
    .where('status', 'in', ['active', 'suspended'])
    .$if(after !== undefined, (query) => query.where('id', '>', after ?? ''))
    .orderBy('id')
    .limit(limit)
    .execute();
}

/** What a tenant's storage is measured by. */
export type StorageLimitRow = Pick<TenantRecord, 'id' | 'dbHost' | 'dbPort' | 'dbName' | 'limits'>;

/**
 * Active tenants with a storage limit of their own, in the order of their ids, behind `after`.
 *
 * @param all also those that have none of their own
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
    .$if(after !== undefined, (query) => query.where('id', '>', after ?? ''))
    .orderBy('id')
    .limit(limit)
    .execute();
}

/** Tenants that are being made or removed, or whose making or removal a crash cut off; oldest first. */
export async function listUnfinishedTenants(db: Kysely<Registry>): Promise<TenantRecord[]> {
  return tenants(db).where('status', 'in', ['provisioning', 'deleting']).orderBy('id').execute();
}

export async function insertTenant(
  db: Kysely<Registry>,
  tenant: Pick<
    TenantRecord,
    'id' | 'name' | 'slug' | 'clusterId' | 'dbHost' | 'dbPort' | 'dbName' | 'dbUser' | 'dbPassword' | 'schemaVersion'
  > & { readonly poolOptions: PoolOptionChanges; readonly limits?: LimitChanges | undefined },
): Promise<void> {
  await db
    .insertInto('tenants')
    .values({
      id: tenant.id,
      name: tenant.name,
      slug: tenant.slug,
      status: 'provisioning',
      cluster_id: tenant.clusterId,
      db_host: tenant.dbHost,
      db_port: tenant.dbPort,
      db_name: tenant.dbName,
      db_user: tenant.dbUser,
      db_password: tenant.dbPassword,
      pool_options: merged(sql`'{}'::jsonb`, tenant.poolOptions),
      ...(tenant.limits && { limits: merged(sql`'{}'::jsonb`, tenant.limits) }),
      schema_version: tenant.schemaVersion,
    })
    .execute();
}

/**
 * Changes what is given and answers the new row. A trigger counts the epoch on where pools are built on what changed, and
 * tells every replica.
 *
 * @param from statuses that the tenant may be in; otherwise nothing changes and the answer is undefined
 */
export async function updateTenant(
  db: Kysely<Registry>,
  id: string,
  changes: {
    name?: string | undefined;
    slug?: string | undefined;
    poolOptions?: PoolOptionChanges | undefined;
    limits?: LimitChanges | undefined;
    status?: TenantStatus | undefined;
    schemaVersion?: string | undefined;
  },
  from: readonly TenantStatus[],
): Promise<TenantRecord | undefined> {
  const { name, slug, poolOptions, limits, status, schemaVersion } = changes;
  return db
    .updateTable('tenants')
    .set({
      ...(name !== undefined && { name }),
      ...(slug !== undefined && { slug }),
      ...(poolOptions !== undefined && { pool_options: merged(sql.ref('pool_options'), poolOptions) }),
      ...(limits !== undefined && { limits: merged(sql.ref('limits'), limits) }),
      ...(status !== undefined && { status }),
      ...(schemaVersion !== undefined && { schema_version: schemaVersion }),
      updated_at: sql<string>`now()`,
    })
    .where('id', '=', id)
    .where('status', 'in', from)
    .returning(columns)
    .executeTakeFirst();
}

/** Gives a tenant the database that it adopted, and makes it active. Returns whether it was being made. */
export async function activateAdopted(db: Kysely<Registry>, id: string, database: string): Promise<boolean> {
  const updated = await db
    .updateTable('tenants')
    .set({ db_name: database, status: 'active', updated_at: sql<string>`now()` })
    .where('id', '=', id)
    .where('status', '=', 'provisioning')
    .returning('id')
    .executeTakeFirst();
  return updated !== undefined;
}

/** Whether a database is a tenant's, or waits for one. */
export async function isTaken(
  db: Kysely<Registry>,
  { host, port, database }: { readonly host: string; readonly port: number; readonly database: string },
): Promise<boolean> {
  const tenant = await db
    .selectFrom('tenants')
    .select('id')
    .where('db_host', '=', host)
    .where('db_port', '=', port)
    .where('db_name', '=', database)
    .executeTakeFirst();
  if (tenant) return true;
  const standby = await db
    .selectFrom('standby_databases')
    .innerJoin('clusters', 'clusters.id', 'standby_databases.cluster_id')
    .select('standby_databases.id')
    .where('clusters.host', '=', host)
    .where('clusters.port', '=', port)
    .where('standby_databases.db_name', '=', database)
    .executeTakeFirst();
  return standby !== undefined;
}

/** Turns a tenant to deleted and notes what it was. Undefined where it is neither active nor suspended. */
export async function markTenantDeleted(db: Kysely<Registry>, id: string): Promise<TenantRecord | undefined> {
  return db
    .updateTable('tenants')
    .set({
      status: 'deleted',
      deleted_at: sql<string>`now()`,
      status_before_deletion: sql<'active' | 'suspended'>`status`,
      updated_at: sql<string>`now()`,
    })
    .where('id', '=', id)
    .where('status', 'in', ['active', 'suspended'])
    .returning(columns)
    .executeTakeFirst();
}

/** Turns a deleted tenant back to what it was. Undefined where it is not deleted, or was something else before. */
export async function unmarkTenantDeleted(
  db: Kysely<Registry>,
  id: string,
  to: 'active' | 'suspended',
): Promise<TenantRecord | undefined> {
  return turnBack(db, id, to)
    .where('status', '=', 'deleted')
    .where('status_before_deletion', '=', to)
    .executeTakeFirst();
}

/** Turns a tenant to deleting, behind which there is no way back. Undefined where it is in none of `from`. */
export async function markTenantDeleting(
  db: Kysely<Registry>,
  id: string,
  from: readonly TenantStatus[],
): Promise<TenantRecord | undefined> {
  return turnBack(db, id, 'deleting').where('status', 'in', from).executeTakeFirst();
}

/** Lets no session of the tenant count that began before now. Returns whether there is such a tenant. */
export async function endTenantSessions(db: Kysely<Registry>, id: string): Promise<boolean> {
  const updated = await db
    .updateTable('tenants')
    .set({ sessions_valid_from: sql<string>`now()` })
    .where('id', '=', id)
    .returning('id')
    .executeTakeFirst();
  return updated !== undefined;
}

export async function deleteTenantRow(db: Kysely<Registry>, id: string): Promise<void> {
  await db.deleteFrom('tenants').where('id', '=', id).execute();
}

/** Answers when the registry does. */
export async function pingRegistry(db: Kysely<Registry>): Promise<void> {
  await sql`select 1`.execute(db);
}

/** Out of deletion, which leaves nothing in the row. */
function turnBack(
  db: Kysely<Registry>,
  id: string,
  status: TenantStatus,
): UpdateQueryBuilder<Registry, 'tenants', 'tenants', TenantRecord> {
  return db
    .updateTable('tenants')
    .set({ status, deleted_at: null, status_before_deletion: null, updated_at: sql<string>`now()` })
    .where('id', '=', id)
    .returning(columns);
}

/** Settings with the changes laid over them; a key that became null is dropped, and has its default again. */
export function merged(settings: RawBuilder<unknown>, changes: PoolOptionChanges | LimitChanges): RawBuilder<string> {
  return sql<string>`jsonb_strip_nulls(${settings} || ${JSON.stringify(changes)}::jsonb)`;
}

function tenants(
  db: Kysely<Registry>,
): SelectQueryBuilder<Registry, 'tenants', TenantRecord & Partial<Selectable<TenantsTable>>> {
  return db.selectFrom('tenants').select(columns);
}
