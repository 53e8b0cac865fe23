// SQL about roles and databases of a cluster, run as its provisioner: a role that may log in, create databases and
// create roles, and is no superuser. Each function is one idempotent or undoable step, so that a saga can be built on
// them. The recipe is the one in docs/isolation.md.
import { sql, type Kysely } from 'kysely';
import { hasSqlState } from './errors.js';

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

/** Drops a database and ends the sessions in it; one that does not exist is fine. */
export async function dropDatabase(cluster: ClusterDb, name: string): Promise<void> {
  await sql`drop database if exists ${sql.id(name)} with (force)`.execute(cluster);
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
