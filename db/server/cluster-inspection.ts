// The properties of a server that decide whether it can hold tenants' databases: version, rights of its role, clock, limits.
import { sql } from 'kysely';
import { checkCluster, type ClusterCheck, type ClusterDb } from './server-admin.js';

export interface ClusterInspection extends ClusterCheck {
  /** `server_version_num`, such as 180001. */
  readonly versionNumber: number;
  /** As people write it, such as 18.1. */
  readonly version: string;
  /** A standby, or a server that accepts no writes. */
  readonly readOnly: boolean;
  /** The server's clock minus this process's clock, in ms. The error is at most half the round trip. */
  readonly clockSkew: number;
  /** Connections that remain for roles that are not superusers. */
  readonly maxConnections: number;
  /**
   * Databases of the connected role that were made with another version of the collation than the server now has, templates
   * excepted. Their indexes on text may be wrong.
   */
  readonly otherCollations: number;
  /** Databases of the connected role in which only the letters of ASCII are letters, templates excepted. */
  readonly asciiDatabases: number;
  /** Whether the extension pg_trgm can be made, which indexes searches. */
  readonly hasTrigrams: boolean;
}

/** @param cluster a connection as the provisioner. @throws DatabaseFault */
export async function inspectCluster(cluster: ClusterDb): Promise<ClusterInspection> {
  const check = await checkCluster(cluster);
  const before = Date.now();
  const {
    rows: [row],
  } = await sql<Omit<ClusterInspection, keyof ClusterCheck | 'clockSkew'> & { now: number }>`
    select current_setting('server_version_num')::int as "versionNumber",
      split_part(current_setting('server_version'), ' ', 1) as version,
      pg_is_in_recovery() or current_setting('transaction_read_only')::bool as "readOnly",
      (extract(epoch from clock_timestamp()) * 1000)::float8 as now,
      current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int
        -- PostgreSQL 16 and later.
        - coalesce(current_setting('reserved_connections', true)::int, 0) as "maxConnections",
      (select count(*)::int from pg_database
        where pg_get_userbyid(datdba) = current_user and datallowconn and not datistemplate
          and datcollversion <> coalesce(pg_database_collation_actual_version(oid), '')) as "otherCollations",
      (select count(*)::int from pg_database
        where pg_get_userbyid(datdba) = current_user and datallowconn and not datistemplate
          and datctype in ('C', 'POSIX')) as "asciiDatabases",
      exists (select from pg_available_extensions where name = 'pg_trgm') as "hasTrigrams"`.execute(cluster);
  if (!row) throw new Error('the server does not tell what it is');
  const { now, ...rest } = row;
  return { ...check, ...rest, clockSkew: Math.round(now - (before + Date.now()) / 2) };
}

/** Asks the server for nothing: it answers, or the connection fails. @throws DatabaseFault */
export async function pingServer(cluster: ClusterDb): Promise<void> {
  await sql`select`.execute(cluster);
}
