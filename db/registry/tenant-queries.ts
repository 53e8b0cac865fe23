// Queries on the registry's tenants. The queries with which jobs find their work are in db/registry/tenant-worklists.ts.
import { sql, type Kysely, type RawBuilder, type SelectQueryBuilder, type Selectable } from 'kysely';
import { afterPosition, containsPattern, type Keyset, type Position } from '../shared/keyset.js';
import { hasVersion, rowVersion, type ExpectedVersions, type Versioned } from '../shared/row-version.js';
import { refuseReadOnly, SERVER_STATE } from '../driver/proof.js';
import { wantTenantCache } from './fleet/read-cache-rows.js';
import type {
  LimitChanges,
  PoolOptionChanges,
  Registry,
  StoredLimits,
  StoredPoolOptions,
  TenantsTable,
  TenantStatus,
} from './registry-schema.js';

/** A tenant's row. `dbPassword` is ciphertext. */
export interface TenantRecord extends Versioned {
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
  /** Ciphertext of the next password; set while the password is being changed. */
  readonly nextDbPassword: string | null;
  readonly poolOptions: StoredPoolOptions;
  readonly limits: StoredLimits;
  readonly clusterId: string | null;
  readonly deletedAt: string | null;
  /** The status that a restoration brings back; null unless the tenant is deleted. */
  readonly statusBeforeDeletion: 'active' | 'suspended' | null;
  /** The id of the operation that made the tenant; null if a former build made it. */
  readonly claim: string | null;
  /** How often its status has changed. */
  readonly generation: number;
  /** Whether the tenant is deleted and being restored. */
  readonly restoring: boolean;
  /** The database that the tenant will adopt; set while it is being made. */
  readonly adopts: string | null;
  /** What happens to the database of a tenant that is being removed; null means the default of its kind. */
  readonly onPurge: 'drop' | 'keep' | null;
  readonly schemaVersion: string;
  readonly epoch: number;
  /** Sessions with a smaller generation are not valid. Milliseconds since 1970, or 0, so that a double holds it exactly. */
  readonly sessionsGeneration: number;
  /** For sessions without a generation, which a former build began: sessions from before this time are not valid. */
  readonly sessionsValidFrom: string | null;
  /** Whether an operator allows its answers to be cached. */
  readonly readCache: boolean;
  readonly createdAt: string;
  readonly updatedAt: string;
}

export const tenantColumns = [
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
  'claim',
  'generation',
  'restoring',
  'adopts',
  'on_purge as onPurge',
  'schema_version as schemaVersion',
  'epoch',
  // pg returns a bigint as text.
  sql<number>`sessions_generation::float8`.as('sessionsGeneration'),
  'sessions_valid_from as sessionsValidFrom',
  sql<boolean>`coalesce((select wanted from tenant_caches c where c.id = tenants.id), true)`.as('readCache'),
  'created_at as createdAt',
  'updated_at as updatedAt',
  rowVersion('tenants'),
] as const;

/** The sorts that the list of tenants offers. */
export const tenantSorts = {
  createdAt: { column: 'created_at', type: 'timestamptz' },
  name: { column: 'name', type: 'text' },
  slug: { column: 'slug', type: 'text' },
} as const satisfies Record<string, Pick<Keyset<Registry, 'tenants'>, 'column' | 'type'>>;

/** The unique constraint that a slug breaks if it is taken. */
export const TENANT_SLUG_CONSTRAINT = 'tenants_slug_key';

export async function findTenant(db: Kysely<Registry>, id: string): Promise<TenantRecord | undefined> {
  return tenants(db).where('id', '=', id).executeTakeFirst();
}

export async function findTenantBySlug(db: Kysely<Registry>, slug: string): Promise<TenantRecord | undefined> {
  return tenants(db).where('slug', '=', slug).executeTakeFirst();
}

/** One page of tenants; `search` matches the name and the slug, ignoring case. */
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

/** The tenants whose database should exist, oldest first. A deleted tenant may be restored. */
export async function listProvisionedTenants(db: Kysely<Registry>): Promise<TenantRecord[]> {
  return tenants(db).where('status', 'in', ['active', 'suspended', 'deleted']).orderBy('id').execute();
}

/** Those of the tenants whose database should exist. */
export async function listProvisionedAmong(db: Kysely<Registry>, ids: readonly string[]): Promise<TenantRecord[]> {
  return tenants(db)
    .where('status', 'in', ['active', 'suspended', 'deleted'])
    .where(sql<boolean>`id = any(${ids}::uuid[])`)
    .execute();
}

/** The places of all tenants' databases. Jumps from place to place in the unique index, and does not read all tenants. */
export async function listTenantPlaces(db: Kysely<Registry>): Promise<{ host: string; port: number }[]> {
  const { rows } = await sql<{ host: string; port: number }>`
    with recursive place as (
      (select db_host as host, db_port as port from tenants order by db_host, db_port limit 1)
      union all
      select next.host, next.port from place cross join lateral (
        select db_host as host, db_port as port from tenants where (db_host, db_port) > (place.host, place.port)
        order by db_host, db_port limit 1) next
    )
    select host, port from place`.execute(db);
  return rows;
}

/** The tenants at a place with one of the database names. */
export async function listTenantsAt(
  db: Kysely<Registry>,
  place: { readonly host: string; readonly port: number },
  names: readonly string[],
): Promise<TenantRecord[]> {
  return tenants(db)
    .where('db_host', '=', place.host)
    .where('db_port', '=', place.port)
    .where(sql<boolean>`db_name = any(${names})`)
    .execute();
}

/**
 * Changes the given columns and returns the new row. A trigger increases the epoch if pools depend on a changed column, and
 * notifies every replica.
 *
 * @param from statuses that the tenant may be in; otherwise nothing changes and the result is undefined
 * @param expected versions that the row may have; otherwise the same
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
    readCache?: boolean | undefined;
  },
  from: readonly TenantStatus[],
  expected?: ExpectedVersions,
): Promise<TenantRecord | undefined> {
  const { name, slug, poolOptions, limits, status, readCache } = changes;
  const updated = await db
    .updateTable('tenants')
    .set({
      ...(name !== undefined && { name }),
      ...(slug !== undefined && { slug }),
      ...(poolOptions !== undefined && { pool_options: merged(sql.ref('pool_options'), poolOptions) }),
      ...(limits !== undefined && { limits: merged(sql.ref('limits'), limits) }),
      ...(status !== undefined && { status }),
      updated_at: sql<string>`now()`,
    })
    .where('id', '=', id)
    .where('status', 'in', from)
    .where(hasVersion('tenants', expected))
    .returning(tenantColumns)
    .executeTakeFirst();
  if (!updated || readCache === undefined) return updated;
  await wantTenantCache(db, id, readCache);
  return { ...updated, readCache };
}

/** Locks a tenant's row for a change in the same transaction, and returns it as it was before. */
export async function lockTenant(trx: Kysely<Registry>, id: string): Promise<TenantRecord | undefined> {
  return trx.selectFrom('tenants').select(tenantColumns).where('id', '=', id).forNoKeyUpdate().executeTakeFirst();
}

/**
 * Records that a tenant's database was migrated. A row that a newer build has written stays.
 *
 * @param renews whether connections that are open must prove again that their build serves the schema: it raises the epoch
 */
export async function recordSchema(
  db: Kysely<Registry>,
  id: string,
  { version, renews }: { readonly version: string; readonly renews: boolean },
): Promise<void> {
  await db
    .updateTable('tenants')
    .set({ schema_version: version, ...(renews && { epoch: sql<number>`epoch + 1` }), updated_at: sql<string>`now()` })
    .where('id', '=', id)
    .where('status', 'in', ['active', 'suspended', 'deleted'])
    .where('schema_version', '<=', version)
    .execute();
}

/** Records that a tenant's database has an older schema than its row says: it was restored from a backup. */
export async function recordOlderSchema(db: Kysely<Registry>, id: string, found: string): Promise<void> {
  await db
    .updateTable('tenants')
    .set({ schema_version: found })
    .where('id', '=', id)
    .where('schema_version', '>', found)
    .execute();
}

/**
 * Ends all sessions of a tenant by raising its generation. Returns whether the tenant exists.
 *
 * The generation is at least the registry's time in ms. A registry that was restored to an earlier moment has a smaller
 * generation than some sessions, and must not count up to theirs.
 */
export async function endTenantSessions(db: Kysely<Registry>, id: string): Promise<boolean> {
  const updated = await db
    .updateTable('tenants')
    .set({
      sessions_generation: sql<number>`
        greatest(sessions_generation + 1, (extract(epoch from clock_timestamp()) * 1000)::bigint)`,
      sessions_valid_from: sql<string>`now()`,
    })
    .where('id', '=', id)
    .returning('id')
    .executeTakeFirst();
  return updated !== undefined;
}

/** Resolves when the registry answers. @throws DatabaseFault, `in recovery` or `read-only` if it accepts no writes */
export async function pingRegistry(db: Kysely<Registry>): Promise<void> {
  const { rows } = await sql<Record<string, unknown>>`select ${sql.raw(SERVER_STATE)}`.execute(db);
  refuseReadOnly(rows[0]);
}

/** Settings with changes to some keys. A key that became null is removed, and has its default again. */
export function merged(settings: RawBuilder<unknown>, changes: PoolOptionChanges | LimitChanges): RawBuilder<string> {
  return sql<string>`jsonb_strip_nulls(${settings} || ${JSON.stringify(changes)}::jsonb)`;
}

function tenants(
  db: Kysely<Registry>,
): SelectQueryBuilder<Registry, 'tenants', TenantRecord & Partial<Selectable<TenantsTable>>> {
  return db.selectFrom('tenants').select(tenantColumns);
}
