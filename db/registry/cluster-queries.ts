// Queries on the registry's clusters.
import { sql, type Kysely } from 'kysely';
import { newId } from '../shared/ids.js';
import { afterPosition, type Keyset, type Position } from '../shared/keyset.js';
import { rowVersion, type Versioned } from '../shared/row-version.js';
import type { ClustersTable, Registry } from './registry-schema.js';

type NewCluster = Pick<
  ClustersTable,
  | 'name'
  | 'host'
  | 'port'
  | 'provisioner_user'
  | 'provisioner_password'
  | 'tls'
  | 'tls_ca'
  | 'connection_budget'
  | 'connection_reserve'
>;

/** A cluster's row. `provisionerPassword` is ciphertext. */
export interface ClusterRecord extends Versioned {
  readonly id: string;
  readonly name: string;
  readonly host: string;
  readonly port: number;
  readonly region: string | null;
  readonly provisionerUser: string;
  readonly provisionerPassword: string;
  readonly tls: ClustersTable['tls'];
  readonly tlsCa: string | null;
  readonly connectionBudget: number;
  readonly connectionReserve: number;
  readonly weight: number;
  readonly accepting: boolean;
  readonly standbyTarget: number;
  readonly createdAt: string;
  readonly updatedAt: string;
}

/** How many databases a cluster holds. */
export interface ClusterLoad {
  /** Tenants of any status. */
  readonly tenants: number;
  readonly standbyDatabases: number;
}

const columns = [
  'id',
  'name',
  'host',
  'port',
  'region',
  'provisioner_user as provisionerUser',
  'provisioner_password as provisionerPassword',
  'tls',
  'tls_ca as tlsCa',
  'connection_budget as connectionBudget',
  'connection_reserve as connectionReserve',
  'weight',
  'accepting',
  'standby_target as standbyTarget',
  'created_at as createdAt',
  'updated_at as updatedAt',
  rowVersion('clusters'),
] as const;

/** The sorts that the list of clusters offers. */
export const clusterSorts = {
  createdAt: { column: 'created_at', type: 'timestamptz' },
} as const satisfies Record<string, Pick<Keyset<Registry, 'clusters'>, 'column' | 'type'>>;

/** The unique constraints that a cluster breaks if its name, or its host and port, are taken. */
export const CLUSTER_NAME_CONSTRAINT = 'clusters_name_key';
export const CLUSTER_PLACE_CONSTRAINT = 'clusters_place_key';

/** The cluster at a host and port. */
export async function findClusterAt(
  db: Kysely<Registry>,
  host: string,
  port: number,
): Promise<ClusterRecord | undefined> {
  return db.selectFrom('clusters').select(columns).where('host', '=', host).where('port', '=', port).executeTakeFirst();
}

export async function findCluster(db: Kysely<Registry>, id: string): Promise<ClusterRecord | undefined> {
  return db.selectFrom('clusters').select(columns).where('id', '=', id).executeTakeFirst();
}

/** Every cluster. The result is small: one row for each server. */
export async function listAllClusters(db: Kysely<Registry>): Promise<ClusterRecord[]> {
  return db.selectFrom('clusters').select(columns).orderBy('id').execute();
}

export async function listClusters(
  db: Kysely<Registry>,
  page: {
    sort: keyof typeof clusterSorts;
    direction: 'asc' | 'desc';
    after?: Position | undefined;
    limit: number;
    region?: string | undefined;
    accepting?: boolean | undefined;
  },
): Promise<ClusterRecord[]> {
  const { region, accepting } = page;
  let query = db.selectFrom('clusters').select(columns);
  if (region !== undefined) query = query.where('region', '=', region);
  if (accepting !== undefined) query = query.where('accepting', '=', accepting);
  const keyset = { ...clusterSorts[page.sort], id: 'id' as const, direction: page.direction };
  return afterPosition(query, keyset, page.after, page.limit).execute();
}

/**
 * Registers a cluster. If a cluster at the same place exists, nothing changes.
 *
 * @param cluster makes the row for the id that it gets: the row's ciphertext is bound to that id
 */
export async function insertCluster(db: Kysely<Registry>, cluster: (id: string) => NewCluster): Promise<void> {
  const id = newId();
  await db
    .insertInto('clusters')
    .values({ id, ...cluster(id), region: null })
    .onConflict((conflict) => conflict.columns(['host', 'port']).doNothing())
    .execute();
}

/** The values of a cluster that an operator sets. */
export type ClusterValues = Pick<
  ClusterRecord,
  | 'name'
  | 'host'
  | 'port'
  | 'region'
  | 'provisionerUser'
  | 'provisionerPassword'
  | 'tls'
  | 'tlsCa'
  | 'connectionBudget'
  | 'connectionReserve'
  | 'weight'
  | 'accepting'
  | 'standbyTarget'
>;

const columnOf: Readonly<Record<keyof ClusterValues, keyof ClustersTable>> = {
  name: 'name',
  host: 'host',
  port: 'port',
  region: 'region',
  provisionerUser: 'provisioner_user',
  provisionerPassword: 'provisioner_password',
  tls: 'tls',
  tlsCa: 'tls_ca',
  connectionBudget: 'connection_budget',
  connectionReserve: 'connection_reserve',
  weight: 'weight',
  accepting: 'accepting',
  standbyTarget: 'standby_target',
};

/** Registers a cluster. @param id the cluster's id, to which its ciphertext is bound */
export async function registerCluster(db: Kysely<Registry>, id: string, values: ClusterValues): Promise<ClusterRecord> {
  return db
    .insertInto('clusters')
    .values({ id, ...rowOf(values) } as NewCluster & { id: string; region: string | null })
    .returning(columns)
    .executeTakeFirstOrThrow();
}

/**
 * Changes the given values and returns the new row. A trigger notifies every replica.
 *
 * @param was the ciphertext that the caller read. If it has changed, nothing is updated: a new ciphertext is bound to the place
 *   and the user that were read with the old one
 */
export async function updateCluster(
  db: Kysely<Registry>,
  id: string,
  changes: { readonly [Key in keyof ClusterValues]?: ClusterValues[Key] | undefined },
  was?: string,
): Promise<ClusterRecord | undefined> {
  let update = db
    .updateTable('clusters')
    .set({ ...rowOf(changes), updated_at: sql<string>`now()` })
    .where('id', '=', id);
  if (was !== undefined) update = update.where('provisioner_password', '=', was);
  return update.returning(columns).executeTakeFirst();
}

/** Locks the cluster's row. Until the transaction ends, no other transaction changes the cluster or puts a tenant on it. */
export async function lockCluster(trx: Kysely<Registry>, id: string): Promise<ClusterRecord | undefined> {
  return trx.selectFrom('clusters').select(columns).where('id', '=', id).forUpdate().executeTakeFirst();
}

/** Removes a cluster and the leases of connections to it. A foreign key prevents this while any database is on the cluster. */
export async function deleteCluster(trx: Kysely<Registry>, { id, host, port }: ClusterRecord): Promise<void> {
  await trx.deleteFrom('clusters').where('id', '=', id).execute();
  await trx.deleteFrom('slot_leases').where('cluster', '=', `${host}:${port}`).execute();
}

/** How many databases each of these clusters holds. */
export async function loadOfClusters(
  db: Kysely<Registry>,
  ids: readonly string[],
): Promise<ReadonlyMap<string, ClusterLoad>> {
  if (ids.length === 0) return new Map();
  const rows = await db
    .selectFrom('clusters')
    .select((eb) => [
      'id',
      eb
        .selectFrom('tenants')
        .select(sql<number>`count(*)::int`.as('count'))
        .whereRef('tenants.cluster_id', '=', 'clusters.id')
        .as('tenants'),
      eb
        .selectFrom('standby_databases')
        .select(sql<number>`count(*)::int`.as('count'))
        .whereRef('standby_databases.cluster_id', '=', 'clusters.id')
        .as('standbyDatabases'),
    ])
    .where('id', 'in', ids)
    .execute();
  return new Map(
    rows.map(({ id, tenants, standbyDatabases }) => [
      id,
      { tenants: tenants ?? 0, standbyDatabases: standbyDatabases ?? 0 },
    ]),
  );
}

/** Clusters that accept new tenants, the least loaded for its weight first. */
export async function listPlacements(
  db: Kysely<Registry>,
  wish: { readonly region?: string | undefined; readonly clusterId?: string | undefined },
): Promise<{ id: string; host: string; port: number }[]> {
  let query = db
    .selectFrom('clusters')
    .select(['clusters.id', 'clusters.host', 'clusters.port'])
    .where('accepting', '=', true);
  if (wish.region !== undefined) query = query.where('region', '=', wish.region);
  if (wish.clusterId !== undefined) query = query.where('clusters.id', '=', wish.clusterId);
  return query
    .orderBy(sql`((select count(*) from tenants where tenants.cluster_id = clusters.id) + 1)::float8 / clusters.weight`)
    .orderBy('clusters.id')
    .execute();
}

/** Assigns the cluster to tenants at its place that have none: they are older than the table of clusters. */
export async function claimTenantsAt(db: Kysely<Registry>, id: string, host: string, port: number): Promise<void> {
  await db
    .updateTable('tenants')
    .set({ cluster_id: id })
    .where('cluster_id', 'is', null)
    .where('db_host', '=', host)
    .where('db_port', '=', port)
    .execute();
}

/**
 * Makes a cluster's standby databases unavailable for claims, and returns their ids. A standby database that a concurrent statement
 * claims belongs to its tenant already, and is not returned.
 */
export async function withdrawStandbyDatabases(db: Kysely<Registry>, clusterId: string): Promise<string[]> {
  const rows = await db
    .updateTable('standby_databases')
    .set({ ready: false })
    .where('cluster_id', '=', clusterId)
    .returning('id')
    .execute();
  return rows.map(({ id }) => id);
}

function rowOf(values: {
  readonly [Key in keyof ClusterValues]?: ClusterValues[Key] | undefined;
}): Partial<NewCluster> {
  return Object.fromEntries(
    Object.entries(values).flatMap(([name, value]) =>
      value === undefined ? [] : [[columnOf[name as keyof ClusterValues], value]],
    ),
  );
}
