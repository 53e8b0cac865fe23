// SQL about roles and databases of a cluster, run as its provisioner: a role that may log in, create databases and create roles,
// and is not a superuser. Each function is one step that can be repeated or undone, so that a saga can use it. The steps follow
// docs/inside/isolation.md.
import { sql, type Kysely } from 'kysely';
import { hasSqlState } from '../driver/database-fault.js';
import { waitForGrants } from '../shared/grant-lock.js';
import { changeMark } from './marks.js';

/** A connection to a cluster as its provisioner, to any of its databases. */
export type ClusterDb = Kysely<unknown>;

/** The database for connections that need no tables, only the cluster. */
export const MAINTENANCE_DATABASE = 'postgres';

const DUPLICATE_DATABASE = '42P04';
const DUPLICATE_OBJECT = '42710';

/**
 * Creates a tenant's runtime role, which inherits nothing and owns nothing. One transaction, so that it never exists without its
 * mark.
 *
 * @param role.verifier a SCRAM verifier, never a password
 * @param role.connectionLimit the most connections of all replicas together
 * @param role.login false for a role that must not log in yet
 * @param role.mark its comment (db/server/marks.ts)
 */
export async function createRuntimeRole(
  cluster: ClusterDb,
  role: { name: string; verifier: string; connectionLimit: number; login?: boolean; mark?: string },
): Promise<void> {
  const login = role.login === false ? sql`nologin` : sql`login`;
  // To end a role's sessions, the provisioner must be a member of it. Since PostgreSQL 16 the membership excludes SET ROLE; 15
  // has no such options, and its CREATEROLE may become any role that is not a superuser anyway.
  await sql`
    create role ${sql.id(role.name)} with ${login} nosuperuser nocreatedb nocreaterole noinherit noreplication nobypassrls
      connection limit ${sql.lit(role.connectionLimit)} password ${sql.lit(role.verifier)};
    do $do$ begin
      execute format('grant %I to current_user', ${sql.lit(role.name)}) ||
        case when current_setting('server_version_num')::int >= 160000 then ' with inherit true, set false' else '' end;
    end $do$;
    ${role.mark === undefined ? sql`` : sql`comment on role ${sql.id(role.name)} is ${sql.lit(role.mark)}`}`.execute(
    cluster,
  );
  await boundRuntimeRoles(cluster, [role.name]);
}

/**
 * Settings with which the sessions of a runtime role begin. A session that is not the service's then waits and idles no longer
 * than the service's sessions. The role may change these settings for itself (docs/inside/isolation.md).
 */
const roleBounds = {
  statement_timeout: '60s',
  lock_timeout: '30s',
  idle_in_transaction_session_timeout: '60s',
} as const;

/** Disk space for the temporary files of a session. The role cannot change it; bootstrap lets the provisioner set it. */
const tempFileLimit = { temp_file_limit: '1GB' } as const;

/** The settings that runtime roles of this cluster must have, and which of these roles lack any. */
async function findUnbounded(
  cluster: ClusterDb,
  names: readonly string[],
): Promise<{ readonly bounds: readonly (readonly [string, string])[]; readonly lacking: readonly string[] }> {
  const { rows: allowed } = await sql`
    select from pg_roles where rolname = current_user
      and (rolsuper or has_parameter_privilege('temp_file_limit', 'set'))`.execute(cluster);
  const bounds = Object.entries({ ...roleBounds, ...(allowed.length > 0 && tempFileLimit) });
  const settings = bounds.map(([name, value]) => `${name}=${value}`);
  const { rows } = await sql<{ name: string }>`
    select rolname as name from pg_roles
    where rolname = any(${names}) and not (coalesce(rolconfig, '{}') @> ${settings})`.execute(cluster);
  return { bounds, lacking: rows.map(({ name }) => name) };
}

/** Which of these runtime roles lack settings that they must have. */
export async function unboundedRoles(cluster: ClusterDb, names: readonly string[]): Promise<ReadonlySet<string>> {
  return new Set((await findUnbounded(cluster, names)).lacking);
}

/** Gives runtime roles of this cluster the settings that they lack. Returns how many roles lacked any. */
export async function boundRuntimeRoles(cluster: ClusterDb, names: readonly string[]): Promise<number> {
  const { bounds, lacking } = await findUnbounded(cluster, names);
  for (const name of lacking) {
    // One packet: the making of a tenant waits for the provisioner.
    const statements = bounds.map(
      ([bound, value]) => sql`alter role ${sql.id(name)} set ${sql.raw(bound)} to ${sql.lit(value)}`,
    );
    await sql.join([waitForGrants(name), ...statements], sql`; `).execute(cluster);
  }
  return lacking.length;
}

/** The CONNECTION LIMIT of each of these roles. A role that does not exist is left out. */
export async function connectionLimitsOf(
  cluster: ClusterDb,
  roles: readonly string[],
): Promise<ReadonlyMap<string, number>> {
  const { rows } = await sql<{ name: string; limit: number }>`
    select rolname as name, rolconnlimit as limit from pg_roles where rolname = any(${roles})`.execute(cluster);
  return new Map(rows.map(({ name, limit }) => [name, limit]));
}

/** Sets the CONNECTION LIMIT of a role. Connections beyond a lower limit stay until they are closed. */
export async function setConnectionLimit(cluster: ClusterDb, role: string, limit: number): Promise<void> {
  await sql`alter role ${sql.id(role)} connection limit ${sql.lit(limit)}`.execute(cluster);
}

/** The size of each of these databases, in bytes. A database that does not exist is left out. */
export async function databaseSizes(
  cluster: ClusterDb,
  databases: readonly string[],
): Promise<ReadonlyMap<string, number>> {
  const { rows } = await sql<{ name: string; bytes: number }>`
    select datname as name, pg_database_size(oid)::float8 as bytes
    from pg_database where datname = any(${databases})`.execute(cluster);
  return new Map(rows.map(({ name, bytes }) => [name, bytes]));
}

/**
 * Creates a database from a template, closed to all roles except its owner, then lets the runtime role connect. CREATE DATABASE
 * grants CONNECT to PUBLIC whatever the template says. So the database is created closed and opened last.
 *
 * @param database.exists whether an earlier call has created it, and was interrupted before it was marked
 */
export async function createTenantDatabase(
  cluster: ClusterDb,
  database: { name: string; template: string; runtimeRole: string; mark?: string; exists?: boolean },
): Promise<void> {
  const name = sql.id(database.name);
  if (database.exists !== true)
    await sql`create database ${name} template ${sql.id(database.template)} allow_connections false`.execute(cluster);
  const also = [
    sql`revoke all on database ${name} from public`,
    sql`grant connect on database ${name} to ${sql.id(database.runtimeRole)}`,
    sql`alter database ${name} allow_connections true`,
  ];
  // Together with the mark: a worker that was paused finds that another worker has decided about the database meanwhile.
  const change = { database: database.name, from: [null], to: database.mark ?? null, also };
  if (!(await changeMark(cluster, change))) throw new Error('the new database carries a mark of another worker');
}

/**
 * Ends the statements about a database or a role of that name that other connections of this role run. A killed process leaves
 * its last statement running, and a CREATE DATABASE that ends after our DROP would leave a database for ever.
 *
 * @throws Error if a statement still runs after two seconds
 */
export async function endStatementsOn(cluster: ClusterDb, name: string): Promise<void> {
  for (let look = 0; look < 40; look += 1) {
    const { rows } = await sql`
      select pg_terminate_backend(pid) from pg_stat_activity
      where usename = current_user and pid <> pg_backend_pid() and state <> 'idle'
        and position(${name}::text in query) > 0`.execute(cluster);
    if (rows.length === 0) return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error('a statement about this database does not end');
}

/** Ends the other sessions of the connected role in a database, so that no statement of a lost connection runs there any more. */
export async function endOwnSessionsIn(cluster: ClusterDb, database: string): Promise<void> {
  await sql`
    select pg_terminate_backend(pid, 2000) from pg_stat_activity
    where datname = ${database} and usename = current_user and pid <> pg_backend_pid()`.execute(cluster);
}

/** Names of the databases that start with `prefix` and belong to the connected role. */
export async function ownDatabases(cluster: ClusterDb, prefix: string): Promise<readonly string[]> {
  const { rows } = await sql<{ name: string }>`
    select datname as name from pg_database
    where starts_with(datname, ${prefix}) and pg_get_userbyid(datdba) = current_user order by datname`.execute(cluster);
  return rows.map((row) => row.name);
}

/**
 * Sessions of any role whose application_name ends in each of these suffixes. A session whose handshake is under way has no name
 * yet.
 */
export async function countSessions(
  cluster: ClusterDb,
  suffixes: readonly string[],
): Promise<ReadonlyMap<string, number>> {
  const { rows } = await sql<{ suffix: string; sessions: number }>`
    select suffix, count(pid)::int as sessions
    from unnest(${suffixes}::text[]) as sought (suffix)
      left join pg_stat_activity on right(application_name, length(suffix)) = suffix
    group by suffix`.execute(cluster);
  return new Map(rows.map(({ suffix, sessions }) => [suffix, sessions]));
}

/** The connected role, its rights, and the databases that are open to every role. */
export interface ClusterCheck {
  readonly role: string;
  readonly superuser: boolean;
  readonly canProvision: boolean;
  /** Databases that every role of the cluster may still connect to. Templates that refuse all connections are left out. */
  readonly openDatabases: readonly string[];
}

/** Reads from the cluster's catalogs what `docs/inside/isolation.md` requires. */
export async function checkCluster(cluster: ClusterDb): Promise<ClusterCheck> {
  const {
    rows: [role],
  } = await sql<{ role: string; superuser: boolean; canProvision: boolean }>`
    select rolname as role, rolsuper as superuser, rolcreatedb and rolcreaterole as "canProvision"
    from pg_roles where rolname = current_user`.execute(cluster);
  if (!role) throw new Error('the connected role has no row in pg_roles');
  const { rows: open } = await sql<{ name: string }>`
    select datname as name from pg_database
    where datallowconn and (datacl is null or exists (
      select from aclexplode(datacl) where grantee = 0 and privilege_type = 'CONNECT'))
    order by datname`.execute(cluster);
  return { ...role, openDatabases: open.map((row) => row.name) };
}

/**
 * Prepares a server once, as its superuser: creates the three roles of the service and the registry's database, and closes every
 * database to PUBLIC. `deploy/bootstrap.sql` does the same for servers of your own.
 */
export async function bootstrapCluster(
  superuser: ClusterDb,
  names: {
    registryOwner: { name: string; verifier: string };
    registryService: { name: string; verifier: string };
    provisioner: { name: string; verifier: string };
    registryDatabase: string;
  },
): Promise<void> {
  const roles = [
    { ...names.registryOwner, rights: sql`nocreatedb nocreaterole` },
    { ...names.registryService, rights: sql`nocreatedb nocreaterole` },
    { ...names.provisioner, rights: sql`createdb createrole` },
  ];
  for (const { name, verifier, rights } of roles) {
    const password = sql.lit(verifier);
    try {
      await sql`create role ${sql.id(name)} with login nosuperuser ${rights} password ${password}`.execute(superuser);
    } catch (error) {
      if (!hasSqlState(error, DUPLICATE_OBJECT)) throw error;
      await sql`alter role ${sql.id(name)} with login nosuperuser ${rights} password ${password}`.execute(superuser);
    }
  }
  try {
    await sql`create database ${sql.id(names.registryDatabase)} owner ${sql.id(names.registryOwner.name)} template template0 encoding 'UTF8'`.execute(
      superuser,
    );
  } catch (error) {
    if (!hasSqlState(error, DUPLICATE_DATABASE)) throw error;
  }
  for (const database of [names.registryDatabase, MAINTENANCE_DATABASE, 'template1']) {
    await sql`revoke all on database ${sql.id(database)} from public`.execute(superuser);
  }
  // Only a superuser may set this parameter, so a tenant's role cannot change it (boundRuntimeRoles).
  await sql`grant set on parameter temp_file_limit to ${sql.id(names.provisioner.name)}`.execute(superuser);
  for (const [database, role] of [
    [names.registryDatabase, names.registryService.name],
    [MAINTENANCE_DATABASE, names.provisioner.name],
  ] as const) {
    await sql`grant connect on database ${sql.id(database)} to ${sql.id(role)}`.execute(superuser);
  }
}
