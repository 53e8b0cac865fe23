// SQL about roles and databases of a cluster, run as its provisioner: a role that may log in, create databases and
// create roles, and is no superuser. Each function is one idempotent or undoable step, so that a saga can be built on
// them. The recipe is the one in docs/isolation.md.
import { setTimeout as delay } from 'node:timers/promises';
import { sql, type Kysely } from 'kysely';
import { hasSqlState } from './errors.js';

const INSUFFICIENT_PRIVILEGE = '42501';

/** A connection to a cluster as its provisioner; which database it is connected to does not matter here. */
export type ClusterDb = Kysely<unknown>;

/** A connection that is only used to reach a cluster, not to ask for tables. */
export const MAINTENANCE_DATABASE = 'postgres';

const DUPLICATE_DATABASE = '42P04';
const DUPLICATE_OBJECT = '42710';
const UNDEFINED_OBJECT = '42704';

/**
 * Creates a tenant's runtime role: it inherits nothing and owns nothing. One transaction: it is never there without its mark.
 *
 * @param role.verifier a SCRAM verifier, never a password
 * @param role.connectionLimit the most connections of all replicas together
 * @param role.login false for one that nobody may enter with yet
 */
export async function createRuntimeRole(
  cluster: ClusterDb,
  role: { name: string; verifier: string; connectionLimit: number; login?: boolean; mark?: Mark },
): Promise<void> {
  const login = role.login === false ? sql`nologin` : sql`login`;
  // Ending a role's sessions takes membership in it. From PostgreSQL 16 on membership comes without the right to SET ROLE;
  // 15 knows no such options, and its CREATEROLE may become any plain role anyway.
  await sql`
    create role ${sql.id(role.name)} with ${login} nosuperuser nocreatedb nocreaterole noinherit noreplication nobypassrls
      connection limit ${sql.lit(role.connectionLimit)} password ${sql.lit(role.verifier)};
    do $do$ begin
      execute format('grant %I to current_user', ${sql.lit(role.name)}) ||
        case when current_setting('server_version_num')::int >= 160000 then ' with inherit true, set false' else '' end;
    end $do$;
    ${role.mark ? sql`comment on role ${sql.id(role.name)} is ${sql.lit(markText(role.mark))}` : sql``}`.execute(
    cluster,
  );
  await boundRuntimeRoles(cluster, [role.name]);
}

/**
 * What the sessions of a runtime role begin with, so that one which is not the service's waits and sits for no longer than
 * those. The role may lift these for itself (docs/isolation.md).
 */
const roleBounds = {
  statement_timeout: '60s',
  lock_timeout: '30s',
  idle_in_transaction_session_timeout: '60s',
} as const;

/** Disk for the temporary files of a session. The role cannot lift it; the provisioner may set it since bootstrap said so. */
const tempFileLimit = { temp_file_limit: '1GB' } as const;

/** Gives runtime roles of this cluster the bounds that they lack. Returns how many lacked any. */
export async function boundRuntimeRoles(cluster: ClusterDb, names: readonly string[]): Promise<number> {
  const { rows: allowed } = await sql`
    select from pg_roles where rolname = current_user
      and (rolsuper or has_parameter_privilege('temp_file_limit', 'set'))`.execute(cluster);
  const bounds = Object.entries({ ...roleBounds, ...(allowed.length > 0 && tempFileLimit) });
  const settings = bounds.map(([name, value]) => `${name}=${value}`);
  const { rows: lacking } = await sql<{ name: string }>`
    select rolname as name from pg_roles
    where rolname = any(${names}) and not (coalesce(rolconfig, '{}') @> ${settings})`.execute(cluster);
  for (const { name } of lacking) {
    // One packet: the provisioner is waited for when a tenant is made.
    const statements = bounds.map(
      ([bound, value]) => sql`alter role ${sql.id(name)} set ${sql.raw(bound)} to ${sql.lit(value)}`,
    );
    await sql.join(statements, sql`; `).execute(cluster);
  }
  return lacking.length;
}

/** The CONNECTION LIMIT of each of these roles; of one that does not exist, nothing. */
export async function connectionLimitsOf(
  cluster: ClusterDb,
  roles: readonly string[],
): Promise<ReadonlyMap<string, number>> {
  const { rows } = await sql<{ name: string; limit: number }>`
    select rolname as name, rolconnlimit as limit from pg_roles where rolname = any(${roles})`.execute(cluster);
  return new Map(rows.map(({ name, limit }) => [name, limit]));
}

/** Bounds the connections of a role. Those beyond a lower bound stay until they are closed. */
export async function setConnectionLimit(cluster: ClusterDb, role: string, limit: number): Promise<void> {
  await sql`alter role ${sql.id(role)} connection limit ${sql.lit(limit)}`.execute(cluster);
}

/** Bytes of each of these databases; of one that does not exist, nothing. */
export async function databaseSizes(
  cluster: ClusterDb,
  databases: readonly string[],
): Promise<ReadonlyMap<string, number>> {
  const { rows } = await sql<{ name: string; bytes: number }>`
    select datname as name, pg_database_size(oid)::float8 as bytes
    from pg_database where datname = any(${databases})`.execute(cluster);
  return new Map(rows.map(({ name, bytes }) => [name, bytes]));
}

/** Drops a runtime role; one that does not exist is fine. Its database must be gone. */
export async function dropRole(cluster: ClusterDb, name: string): Promise<void> {
  // IF EXISTS asks for CREATEROLE before it looks: undoing a CREATE ROLE that was refused would be refused too.
  const { rows } = await sql`select from pg_roles where rolname = ${name}`.execute(cluster);
  if (rows.length === 0) return;
  await sql`drop role if exists ${sql.id(name)}`.execute(cluster);
}

/**
 * Creates a database from a template with no way in for anybody but its owner, then lets the runtime role connect.
 * CREATE DATABASE gives CONNECT to PUBLIC again whatever the template says, hence closed first, opened last.
 */
export async function createTenantDatabase(
  cluster: ClusterDb,
  database: { name: string; template: string; runtimeRole: string; mark?: Mark },
): Promise<void> {
  const name = sql.id(database.name);
  await sql`create database ${name} template ${sql.id(database.template)} allow_connections false`.execute(cluster);
  const mark = database.mark ? sql`comment on database ${name} is ${sql.lit(markText(database.mark))};` : sql``;
  // One statement of several parts is one transaction, and waits for the disk once.
  await sql`
    revoke all on database ${name} from public;
    grant connect on database ${name} to ${sql.id(database.runtimeRole)};
    ${mark}
    alter database ${name} allow_connections true`.execute(cluster);
}

/** Lets nobody connect any more, as a standby database waits. */
export async function closeDatabase(cluster: ClusterDb, name: string): Promise<void> {
  await sql`alter database ${sql.id(name)} allow_connections false`.execute(cluster);
}

/**
 * Opens a standby database and its role, both of one name, to its tenant, in one transaction.
 *
 * @returns false where it does not carry the mark of a standby database: it may have been a tenant's, and stays closed
 */
export async function openStandby(cluster: ClusterDb, name: string, mark: Omit<Mark, 'held'>): Promise<boolean> {
  const held = sql.lit(markText({ ...mark, held: true }));
  try {
    await sql`
      do $do$ begin
        if (select shobj_description(oid, 'pg_database') from pg_database where datname = ${sql.lit(name)})
          is distinct from ${sql.lit(markText({ ...mark, held: false }))}
        then raise exception 'not a standby database' using errcode = ${sql.lit(NOT_A_STANDBY)};
        end if;
      end $do$;
      comment on database ${sql.id(name)} is ${held};
      comment on role ${sql.id(name)} is ${held};
      alter role ${sql.id(name)} login;
      alter database ${sql.id(name)} allow_connections true`.execute(cluster);
    return true;
  } catch (error) {
    if (hasSqlState(error, NOT_A_STANDBY)) return false;
    throw error;
  }
}

/**
 * Ends what other connections of this role run about a database or a role of that name: a process that was killed leaves
 * its last statement running, and a CREATE DATABASE that ends behind our DROP would stay for ever.
 *
 * @throws Error where something still runs after two seconds
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

/** What we make on a cluster carries whose it is, as its comment: nothing else is ever taken for ours. */
export interface Mark {
  /** The registry's own id. */
  readonly installation: string;
  /** The tenant's, or that of the tenant to be. */
  readonly id: string;
  /** Whether it is, or may have been, a tenant's; otherwise nobody ever had data in it. */
  readonly held: boolean;
}

/** A database or a role with its mark. */
export interface Marked extends Mark {
  readonly kind: 'database' | 'role';
  readonly name: string;
}

/** Everything on the cluster that carries the installation's mark, databases first: their roles can only go behind them. */
export async function listMarked(cluster: ClusterDb, installation: string): Promise<readonly Marked[]> {
  const { rows } = await sql<{ kind: Marked['kind']; name: string; mark: string }>`
    select * from (
      select 'database' as kind, datname::text as name, shobj_description(oid, 'pg_database') as mark
        from pg_database where datdba = current_user::regrole
      union all
      select 'role', rolname::text, shobj_description(oid, 'pg_authid') from pg_roles
    ) as things where starts_with(mark, ${`${MARK} ${installation} `}::text) order by kind, name`.execute(cluster);
  return rows.map(({ kind, name, mark }) => {
    const [, , id = '', state] = mark.split(' ');
    return { kind, name, installation, id, held: state !== STANDBY };
  });
}

/** Whether there is a database of that name whose mark says that it is, or may have been, a tenant's. */
export async function mayHaveHeld(cluster: ClusterDb, name: string): Promise<boolean> {
  const { rows } = await sql<{ held: boolean }>`
    select coalesce(shobj_description(oid, 'pg_database') not like ${`${MARK} % ${STANDBY}`}, false) as held
    from pg_database where datname = ${name}`.execute(cluster);
  return rows[0]?.held ?? false;
}

const MARK = 'tenantry';
const STANDBY = 'standby';
const NOT_A_STANDBY = 'TN001';

function markText({ installation, id, held }: Mark): string {
  return [MARK, installation, id, held ? 'tenant' : STANDBY].join(' ');
}

/** Looks for sessions in a database that was closed, and the time (ms) between two. */
const LOOKS = 40;
const LOOK_AGAIN_AFTER = 25;

/** How long (ms) one session's end is waited for. */
const SESSION_END = 200;

/** Sessions that the provisioner may end, and not its own: what is under way there as the owner comes to its end. */
const foreignSessions = sql`usesysid <> current_user::regrole and pg_has_role(usesysid, 'USAGE')`;

/**
 * Closes a tenant's database: nobody can enter it, and the sessions of its role are ended. To be repeated where it failed;
 * one that does not exist is fine.
 *
 * @throws Error where sessions are still there after a while
 */
export async function closeTenantDatabase(
  cluster: ClusterDb,
  { name, runtimeRole }: { name: string; runtimeRole: string },
): Promise<void> {
  try {
    await sql`alter database ${sql.id(name)} allow_connections false`.execute(cluster);
    // The second bolt: the owner can enter for a migration, and the tenant's role still cannot.
    await sql`revoke connect on database ${sql.id(name)} from ${sql.id(runtimeRole)}`.execute(cluster);
  } catch (error) {
    if (isMissingDatabase(error)) return;
    throw error;
  }
  let quiet = 0;
  for (let look = 0; look < LOOKS; look += 1) {
    const { rows } = await sql`
      select pg_terminate_backend(pid, ${SESSION_END}) from pg_stat_activity
      where datname = ${name} and ${foreignSessions}`.execute(cluster);
    // One whose handshake was under way when the door closed shows up a moment later.
    quiet = rows.length === 0 ? quiet + 1 : 0;
    if (quiet === 2) return;
    await delay(LOOK_AGAIN_AFTER);
  }
  throw new Error('sessions in a closed database could not be ended');
}

/** Opens a tenant's database to its role again. To be repeated where it failed. */
export async function openTenantDatabase(
  cluster: ClusterDb,
  { name, runtimeRole }: { name: string; runtimeRole: string },
): Promise<void> {
  await sql`grant connect on database ${sql.id(name)} to ${sql.id(runtimeRole)}`.execute(cluster);
  await sql`alter database ${sql.id(name)} allow_connections true`.execute(cluster);
}

/** Runs `work`, which enters a closed database as its owner. Its role still cannot: it lost CONNECT when it was closed. */
export async function whileOpenToOwner<T>(cluster: ClusterDb, name: string, work: () => Promise<T>): Promise<T> {
  await sql`alter database ${sql.id(name)} allow_connections true`.execute(cluster);
  try {
    return await work();
  } finally {
    await sql`alter database ${sql.id(name)} allow_connections false`.execute(cluster);
  }
}

/**
 * Of the connected role's databases those with these names, and those that are closed and whose name starts with `prefix`:
 * whether each lets somebody in, and whether somebody is in it whose session could be ended.
 */
export async function readDoors(
  cluster: ClusterDb,
  names: readonly string[],
  prefix: string,
): Promise<{ name: string; open: boolean; busy: boolean }[]> {
  const { rows } = await sql<{ name: string; open: boolean; busy: boolean }>`
    select datname as name, datallowconn as open, exists (
      select from pg_stat_activity a where a.datid = d.oid and ${foreignSessions}) as busy
    from pg_database d
    where datdba = current_user::regrole
      and (datname = any(${names}) or (not datallowconn and starts_with(datname, ${prefix})))`.execute(cluster);
  return rows;
}

/** Drops a database and ends the sessions in it; one that does not exist is fine. */
export async function dropDatabase(cluster: ClusterDb, name: string): Promise<void> {
  const drop = sql`drop database if exists ${sql.id(name)}`;
  try {
    await sql`${drop} with (force)`.execute(cluster);
  } catch (error) {
    // A superuser's session, which an autovacuum worker counts as, is not ours to end: left to itself PostgreSQL ends the
    // worker, and waits some seconds for whoever else is there.
    if (!hasSqlState(error, INSUFFICIENT_PRIVILEGE)) throw error;
    await drop.execute(cluster);
  }
}

/**
 * Creates an empty database that nobody but its owner can enter, for a template that is being built.
 *
 * @returns false when there is one of that name already
 */
export async function createClosedDatabase(cluster: ClusterDb, name: string): Promise<boolean> {
  try {
    await sql`create database ${sql.id(name)} template template0 encoding 'UTF8' allow_connections false`.execute(
      cluster,
    );
  } catch (error) {
    if (hasSqlState(error, DUPLICATE_DATABASE)) return false;
    throw error;
  }
  await sql`revoke all on database ${sql.id(name)} from public`.execute(cluster);
  await sql`alter database ${sql.id(name)} allow_connections true`.execute(cluster);
  return true;
}

/** Renames a database and closes it to connections: what a template must be, because CREATE DATABASE fails while anyone is in it. */
export async function sealTemplate(cluster: ClusterDb, from: string, to: string): Promise<void> {
  await sql`alter database ${sql.id(from)} allow_connections false`.execute(cluster);
  await sql`alter database ${sql.id(from)} rename to ${sql.id(to)}`.execute(cluster);
}

/** Names of the databases that start with `prefix` and belong to the connected role. */
export async function ownDatabases(cluster: ClusterDb, prefix: string): Promise<readonly string[]> {
  const { rows } = await sql<{ name: string }>`
    select datname as name from pg_database
    where starts_with(datname, ${prefix}) and pg_get_userbyid(datdba) = current_user order by datname`.execute(cluster);
  return rows.map((row) => row.name);
}

/**
 * Sessions on the cluster, in whatever database and of whatever role, whose application_name ends in `suffix`. One whose
 * handshake is under way has no name yet and is not counted.
 */
export async function countSessions(cluster: ClusterDb, suffix: string): Promise<number> {
  const { rows } = await sql<{ sessions: number }>`
    select count(*)::int as sessions from pg_stat_activity
    where right(application_name, length(${suffix}::text)) = ${suffix}::text`.execute(cluster);
  return rows[0]?.sessions ?? 0;
}

/** The role in use, and the rights and openings that matter for provisioning. */
export interface ClusterCheck {
  readonly role: string;
  readonly superuser: boolean;
  readonly canProvision: boolean;
  /** Databases that every role of the cluster may still connect to; templates are left out where nobody can connect at all. */
  readonly openDatabases: readonly string[];
}

/** What `docs/isolation.md` asks of a cluster, read from its catalogs. */
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
 * One-time preparation of a server, as its superuser: the three roles of the service, the registry's database, and no
 * database left that PUBLIC may enter. `deploy/bootstrap.sql` is the same for servers of your own.
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
  // What only a superuser may set, and a tenant's role can therefore not lift (boundRuntimeRoles).
  await sql`grant set on parameter temp_file_limit to ${sql.id(names.provisioner.name)}`.execute(superuser);
  for (const [database, role] of [
    [names.registryDatabase, names.registryService.name],
    [MAINTENANCE_DATABASE, names.provisioner.name],
  ] as const) {
    await sql`grant connect on database ${sql.id(database)} to ${sql.id(role)}`.execute(superuser);
  }
}

/** Whether `error` says that the template (or another named object) is not there. */
export function isMissingDatabase(error: unknown): boolean {
  return hasSqlState(error, '3D000') || hasSqlState(error, UNDEFINED_OBJECT);
}
