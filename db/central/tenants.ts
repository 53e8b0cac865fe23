// Queries on the registry's tenants.
import { sql, type Kysely, type RawBuilder, type SelectQueryBuilder, type Selectable } from 'kysely';
import { afterPosition, containsPattern, type Keyset, type Position } from '../keyset.js';
import type {
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

/** Ids of the tenants whose database should exist, oldest first. */
export async function listProvisionedTenants(db: Kysely<Registry>): Promise<TenantRecord[]> {
  return tenants(db).where('status', 'in', ['active', 'suspended']).orderBy('id').execute();
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
  > & { readonly poolOptions: PoolOptionChanges },
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
      pool_options: mergedOptions(sql`'{}'::jsonb`, tenant.poolOptions),
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
    status?: TenantStatus | undefined;
    schemaVersion?: string | undefined;
  },
  from: readonly TenantStatus[],
): Promise<TenantRecord | undefined> {
  const { name, slug, poolOptions, status, schemaVersion } = changes;
  return db
    .updateTable('tenants')
    .set({
      ...(name !== undefined && { name }),
      ...(slug !== undefined && { slug }),
      ...(poolOptions !== undefined && { pool_options: mergedOptions(sql.ref('pool_options'), poolOptions) }),
      ...(status !== undefined && { status }),
      ...(schemaVersion !== undefined && { schema_version: schemaVersion }),
      updated_at: sql<string>`now()`,
    })
    .where('id', '=', id)
    .where('status', 'in', from)
    .returning(columns)
    .executeTakeFirst();
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

/** The options with the changes laid over them; a key that became null is dropped, and has its default again. */
export function mergedOptions(options: RawBuilder<unknown>, changes: PoolOptionChanges): RawBuilder<string> {
  return sql<string>`jsonb_strip_nulls(${options} || ${JSON.stringify(changes)}::jsonb)`;
}

function tenants(
  db: Kysely<Registry>,
): SelectQueryBuilder<Registry, 'tenants', TenantRecord & Partial<Selectable<TenantsTable>>> {
  return db.selectFrom('tenants').select(columns);
}
