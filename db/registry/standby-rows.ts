// Queries on standby databases, and the first statement of each tenant. It writes the tenant's row, the key of its request and
// its lock together, so that none of them exists without the others.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import type { RequestKey } from './idempotency-keys.js';
import { recorded, recording, type Recorded } from './operations/operation-recording.js';
import type { NewOperation, OperationRecord } from './operations/operation-rows.js';
import type { LimitChanges, PoolOptionChanges, Registry } from './registry-schema.js';
import { merged } from './tenant-queries.js';

export interface StandbyRecord {
  readonly id: string;
  readonly clusterId: string;
  readonly dbName: string;
  readonly dbUser: string;
  /** Ciphertext, as in tenants. */
  readonly dbPassword: string;
  readonly schemaVersion: string;
  readonly ready: boolean;
}

/** The fields of a cluster that the making of standby databases needs. */
export interface StandbyCluster {
  readonly id: string;
  readonly host: string;
  readonly port: number;
  /** How many standby databases to keep; 0 if the cluster accepts no tenants. */
  readonly wanted: number;
}

/** The part of a tenant's row that does not come from its database. */
export interface TenantToBe {
  readonly name: string;
  readonly slug: string;
  readonly clusterId: string;
  readonly dbHost: string;
  readonly dbPort: number;
  readonly poolOptions: PoolOptionChanges;
  readonly limits?: LimitChanges | undefined;
  readonly schemaVersion: string;
  /** The id of this operation. */
  readonly claim: string;
  readonly requestKey?: RequestKey | undefined;
  /** The operation that makes the tenant, in words of its row. */
  readonly operation: Omit<NewOperation, 'subject' | 'tenantId' | 'clusterId' | 'claim'>;
}

/** A tenant's database, and the operation that makes the tenant. */
export interface RegisteredTenant extends Omit<OwnDatabase, 'dbPassword' | 'adopts'> {
  readonly operation: OperationRecord;
}

/** The part of a tenant's row that comes from its database. */
export interface OwnDatabase {
  readonly id: string;
  readonly dbName: string;
  readonly dbUser: string;
  readonly dbPassword: string;
  /** The database that the tenant will adopt. */
  readonly adopts?: string;
}

const columns = [
  'id',
  'cluster_id as clusterId',
  'db_name as dbName',
  'db_user as dbUser',
  'db_password as dbPassword',
  'schema_version as schemaVersion',
  'ready',
] as const;

/**
 * Turns a standby database into a tenant in status `provisioning`. It takes the oldest standby database
 * that is ready and not locked by another claim.
 *
 * @returns undefined if none is ready, or the cluster is no longer at this place
 */
export async function claimStandby(db: Kysely<Registry>, tenant: TenantToBe): Promise<RegisteredTenant | undefined> {
  return register(
    db,
    tenant,
    sql`
      delete from standby_databases where id = (
        select id from standby_databases
        where cluster_id = (select id from place) and schema_version = ${tenant.schemaVersion} and ready
        order by id limit 1 for update skip locked)
      returning id, db_name, db_user, db_password, null::text as adopts`,
  );
}

/**
 * Writes the row of a tenant in status `provisioning`.
 *
 * @returns undefined if the cluster is no longer at this place
 */
export async function registerTenant(
  db: Kysely<Registry>,
  tenant: TenantToBe,
  own: OwnDatabase,
): Promise<RegisteredTenant | undefined> {
  return register(
    db,
    tenant,
    sql`select ${own.id}::uuid as id, ${own.dbName}::text as db_name, ${own.dbUser}::text as db_user,
      ${own.dbPassword}::text as db_password, ${own.adopts ?? null}::text as adopts from place`,
  );
}

async function register(
  db: Kysely<Registry>,
  tenant: TenantToBe,
  database: RawBuilder<unknown>,
): Promise<RegisteredTenant | undefined> {
  const { clusterId, claim, requestKey } = tenant;
  const operation = { ...tenant.operation, clusterId, claim };
  const { rows } = await sql<{ id: string; dbName: string; dbUser: string } & Recorded>`
    with ${stillThere(clusterId, tenant.dbHost, tenant.dbPort)},
    own as (${database}),
    made as (
      insert into tenants (id, name, slug, status, cluster_id, db_host, db_port, db_name, db_user, db_password,
          pool_options, limits, schema_version, claim, generation, adopts)
        select id, ${tenant.name}::text, ${tenant.slug}::text, 'provisioning', ${clusterId}::uuid,
          ${tenant.dbHost}::text, ${tenant.dbPort}::integer, db_name, db_user, db_password,
          ${merged(sql`'{}'::jsonb`, tenant.poolOptions)},
          ${merged(sql`'{}'::jsonb`, tenant.limits ?? {})}, ${tenant.schemaVersion}::text, ${claim}::uuid, 1,
          adopts from own
        returning id, db_name, db_user),
    recorded as (${recording(operation, requestKey)})
    select id, db_name as "dbName", db_user as "dbUser", "operationId", "recordedAt" from made, recorded`.execute(db);
  const [row] = rows;
  if (!row) return undefined;
  const { id, dbName, dbUser, ...made } = row;
  return { id, dbName, dbUser, operation: recorded(operation, id, made) };
}

/**
 * The cluster, if it is still at this place; it stays there until the transaction ends. Otherwise a row would name a server that
 * the registry no longer knows, and could never be removed.
 */
function stillThere(clusterId: string, host: string, port: number): RawBuilder<unknown> {
  return sql`place as materialized (
    select id from clusters where id = ${clusterId}::uuid and host = ${host}::text and port = ${port}::integer
    for key share)`;
}

/**
 * Writes the row of a standby database before the database is made. Returns false if the cluster is no longer at
 * this place.
 */
export async function insertStandby(
  db: Kysely<Registry>,
  { id, clusterId, dbName, dbUser, dbPassword, schemaVersion }: Omit<StandbyRecord, 'ready'>,
  { host, port }: { readonly host: string; readonly port: number },
): Promise<boolean> {
  const { rows } = await sql`
    with ${stillThere(clusterId, host, port)},
    made as (
      insert into standby_databases (id, cluster_id, db_name, db_user, db_password, schema_version)
        select ${id}::uuid, id, ${dbName}::text, ${dbUser}::text, ${dbPassword}::text, ${schemaVersion}::text from place
        returning id)
    select id from made`.execute(db);
  return rows.length === 1;
}

/**
 * Makes a standby database available for claims. Returns whether the row still
 * exists.
 */
export async function readyStandby(db: Kysely<Registry>, id: string): Promise<boolean> {
  const { rows } = await sql`update standby_databases set ready = true where id = ${id} returning id`.execute(db);
  return rows.length === 1;
}

/** Makes a standby database unavailable for claims. Returns false if it was claimed, or is gone. */
export async function retireStandby(db: Kysely<Registry>, id: string): Promise<boolean> {
  const changed = await db
    .updateTable('standby_databases')
    .set({ ready: false })
    .where('id', '=', id)
    .returning('id')
    .executeTakeFirst();
  return changed !== undefined;
}

/**
 * Makes the standby databases of older schemas unavailable for claims. One that a concurrent statement claims belongs to its tenant
 * already.
 */
export async function retireOlderStandby(
  db: Kysely<Registry>,
  schemaVersion: string,
): Promise<{ readonly id: string; readonly clusterId: string }[]> {
  return db
    .updateTable('standby_databases')
    .set({ ready: false })
    .where('ready', '=', true)
    .where('schema_version', '<', schemaVersion)
    .returning(['id', 'cluster_id as clusterId'])
    .execute();
}

/** Tenants and standby databases of older schemas that are being made, and do not wait for a person. */
export async function countOlderInTheMaking(
  db: Kysely<Registry>,
  schemaVersion: string,
): Promise<{ readonly tenants: number; readonly standby: number }> {
  const { rows } = await sql<{ tenants: number; standby: number }>`
    select (select count(*)::int from tenants
        where status = 'provisioning' and schema_version < ${schemaVersion} and not exists (
          select from operations where subject = tenants.id and state = 'needs-person')) as tenants,
      (select count(*)::int from standby_databases s
        where schema_version < ${schemaVersion} and exists (
          select from operations
          where subject = s.id and kind = 'standby' and ended_at is null and state <> 'needs-person')) as standby`.execute(
    db,
  );
  return rows[0] ?? { tenants: 0, standby: 0 };
}

export async function deleteStandby(db: Kysely<Registry>, id: string): Promise<void> {
  await db.deleteFrom('standby_databases').where('id', '=', id).execute();
}

/** Standby databases, oldest first, of one cluster or of all. */
export async function listStandby(
  db: Kysely<Registry>,
  filter: { clusterId?: string; ready?: boolean } = {},
): Promise<StandbyRecord[]> {
  let query = db.selectFrom('standby_databases').select(columns).orderBy('id');
  if (filter.clusterId !== undefined) query = query.where('cluster_id', '=', filter.clusterId);
  if (filter.ready !== undefined) query = query.where('ready', '=', filter.ready);
  return query.execute();
}

export async function findStandby(db: Kysely<Registry>, id: string): Promise<StandbyRecord | undefined> {
  return db.selectFrom('standby_databases').select(columns).where('id', '=', id).executeTakeFirst();
}

/** Locks a cluster until the transaction ends, so that only one worker counts and adds its standby databases. */
export async function lockStandbyCluster(trx: Kysely<Registry>, id: string): Promise<StandbyCluster | undefined> {
  return standbyClusters(trx).where('id', '=', id).forNoKeyUpdate().executeTakeFirst();
}

export async function listStandbyClusters(db: Kysely<Registry>): Promise<StandbyCluster[]> {
  return standbyClusters(db).orderBy('id').execute();
}

function standbyClusters(db: Kysely<Registry>) {
  return db
    .selectFrom('clusters')
    .select(['id', 'host', 'port'])
    .select(sql<number>`case when accepting then standby_target else 0 end`.as('wanted'));
}

/** Sets how many standby databases a cluster keeps, if that number changes. */
export async function setStandbyTarget(db: Kysely<Registry>, clusterId: string, target: number): Promise<void> {
  await db
    .updateTable('clusters')
    .set({ standby_target: target, updated_at: sql<string>`now()` })
    .where('id', '=', clusterId)
    .where('standby_target', '<>', target)
    .execute();
}
