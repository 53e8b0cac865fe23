// Queries of `tenantry doctor`: the tenants that it looks at, page by page, the row of a tenant whose row was lost, and what waits for
// a person.
import { sql, type Kysely } from 'kysely';
import type { Registry } from '../registry-schema.js';
import { tenantColumns, type TenantRecord } from '../tenant-queries.js';

/**
 * Tenants of one place whose database should exist, in order of the database's name.
 *
 * @param page.after the last database of the page before; '' for the first page
 * @param page.ids only these tenants
 */
export async function listExaminedTenants(
  db: Kysely<Registry>,
  place: { readonly host: string; readonly port: number },
  {
    after,
    limit,
    ids,
  }: { readonly after: string; readonly limit: number; readonly ids?: readonly string[] | undefined },
): Promise<TenantRecord[]> {
  return db
    .selectFrom('tenants')
    .select(tenantColumns)
    .where('status', 'in', ['active', 'suspended', 'deleted'])
    .where('db_host', '=', place.host)
    .where('db_port', '=', place.port)
    .where('db_name', '>', after)
    .$if(ids !== undefined, (query) => query.where(sql<boolean>`id = any(${ids ?? []}::uuid[])`))
    .orderBy('db_name')
    .limit(limit)
    .execute();
}

/** How many tenants each place has whose database should exist. @param ids only these tenants */
export async function countExaminedTenants(
  db: Kysely<Registry>,
  ids?: readonly string[],
): Promise<{ host: string; port: number; tenants: number }[]> {
  const { rows } = await sql<{ host: string; port: number; tenants: number }>`
    select db_host as host, db_port as port, count(*)::int as tenants from tenants
    where status in ('active', 'suspended', 'deleted')
      and ${ids === undefined ? sql`true` : sql`id = any(${ids}::uuid[])`}
    group by 1, 2 order by 1, 2`.execute(db);
  return rows;
}

/** A tenant's row that is known from its database alone. */
export type LostTenant = Pick<
  TenantRecord,
  'id' | 'name' | 'slug' | 'dbHost' | 'dbPort' | 'dbName' | 'dbUser' | 'dbPassword' | 'generation' | 'schemaVersion'
> & { readonly clusterId: string; readonly claim: string };

/** Writes the row of a lost tenant, as suspended. Returns false if its id or slug has a row. */
export async function insertLostTenant(db: Kysely<Registry>, tenant: LostTenant): Promise<boolean> {
  const { rows } = await sql`
    insert into tenants (id, name, slug, status, cluster_id, db_host, db_port, db_name, db_user, db_password, pool_options,
        limits, schema_version, claim, generation)
      values (${tenant.id}::uuid, ${tenant.name}, ${tenant.slug}, 'suspended', ${tenant.clusterId}::uuid, ${tenant.dbHost},
        ${tenant.dbPort}::integer, ${tenant.dbName}, ${tenant.dbUser}, ${tenant.dbPassword}, '{}', '{}',
        ${tenant.schemaVersion}, ${tenant.claim}::uuid, ${tenant.generation}::integer)
      on conflict do nothing returning id`.execute(db);
  return rows.length > 0;
}

/** By how much (ms) this machine's clock is ahead of the registry's, and how long (ms) the question took: half of it is uncertain. */
export async function readRegistryTime(
  db: Kysely<Registry>,
  wallClock: () => number,
): Promise<{ readonly skew: number; readonly took: number }> {
  const before = wallClock();
  const { rows } = await sql<{ now: number }>`
    select (extract(epoch from clock_timestamp()) * 1000)::float8 as now`.execute(db);
  const after = wallClock();
  return { skew: (before + after) / 2 - (rows[0]?.now ?? 0), took: after - before };
}

/** The kinds of operations that wait for a person, and how many of each. */
export async function countWaitingForPerson(
  db: Kysely<Registry>,
): Promise<{ readonly kind: string; readonly count: number }[]> {
  return db
    .selectFrom('operations')
    .select(['kind', sql<number>`count(*)::int`.as('count')])
    .where('ended_at', 'is', null)
    .where('state', '=', 'needs-person')
    .groupBy('kind')
    .orderBy('kind')
    .execute();
}

/** Ends the sessions of all operators. Returns their ids. */
export async function deleteAllSessions(db: Kysely<Registry>): Promise<string[]> {
  const deleted = await db.deleteFrom('sessions').returning('id').execute();
  return deleted.map(({ id }) => id);
}
