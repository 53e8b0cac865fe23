// What a server knows of tenants' databases and roles, in one statement for many tenants: whether they exist, whose they are, which
// rights they have, and which marks.
import { sql } from 'kysely';
import { markIn } from './marks.js';
import type { ClusterDb } from './server-admin.js';
import { CURRENT_ROLE } from './current-role.js';

/** The names of a tenant's database and role. */
export interface SoughtTenant {
  readonly database: string;
  readonly role: string;
}

export interface DatabaseFacts {
  /** The role that owns it. */
  readonly owner: string;
  /** Whether the connected role owns it. */
  readonly owned: boolean;
  readonly open: boolean;
  /** The mark; null if there is none. */
  readonly text: string | null;
  /** Rights of PUBLIC on it. */
  readonly publicRights: readonly string[];
  /** Whether the tenant's role may connect to it. False without that role. */
  readonly mayConnect: boolean;
}

export interface RoleFacts {
  readonly canLogin: boolean;
  /** Attributes that a tenant's role must not have, such as `SUPERUSER`. */
  readonly excess: readonly string[];
  /** Roles of which it is a member: it must be of none. */
  readonly memberOf: readonly string[];
  readonly connectionLimit: number;
  /** Whether the connected role has its rights, so that it can end its sessions. */
  readonly isMember: boolean;
  /** Whether the connected role may change it. */
  readonly mayAlter: boolean;
}

export interface TenantFacts {
  /** Undefined if there is no database of that name. */
  readonly database: DatabaseFacts | undefined;
  /** Undefined if there is no role of that name. */
  readonly role: RoleFacts | undefined;
}

/** The facts of each of these tenants, by the name of the database. */
export async function findTenantFacts(
  cluster: ClusterDb,
  sought: readonly SoughtTenant[],
): Promise<ReadonlyMap<string, TenantFacts>> {
  const names = sought.map(({ database }) => database);
  const roles = sought.map(({ role }) => role);
  const { rows } = await sql<{ name: string; database: DatabaseFacts | null; role: RoleFacts | null }>`
    select sought.database as name,
      case when d.oid is not null then json_build_object(
        'owner', pg_get_userbyid(d.datdba), 'owned', d.datdba = ${CURRENT_ROLE}, 'open', d.datallowconn,
        'text', ${markIn(sql`shobj_description(d.oid, 'pg_database')`)},
        'publicRights', array(select privilege_type from aclexplode(coalesce(d.datacl, acldefault('d', d.datdba)))
          where grantee = 0),
        -- Not by a right of PUBLIC, which is withdrawn.
        'mayConnect', exists (select from aclexplode(coalesce(d.datacl, acldefault('d', d.datdba)))
          where grantee = r.oid and privilege_type = 'CONNECT')) end as database,
      case when r.oid is not null then json_build_object(
        'canLogin', r.rolcanlogin,
        'excess', array_remove(array[
          case when r.rolsuper then 'SUPERUSER' end, case when r.rolcreatedb then 'CREATEDB' end,
          case when r.rolcreaterole then 'CREATEROLE' end, case when r.rolinherit then 'INHERIT' end,
          case when r.rolreplication then 'REPLICATION' end, case when r.rolbypassrls then 'BYPASSRLS' end], null),
        'memberOf', array(select pg_get_userbyid(roleid) from pg_auth_members where member = r.oid),
        'connectionLimit', r.rolconnlimit,
        'isMember', pg_has_role(r.oid, 'USAGE'),
        'mayAlter', case when current_setting('server_version_num')::int >= 160000
          then pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION') else not r.rolsuper end) end as role
    from unnest(${names}::text[], ${roles}::text[]) as sought (database, role)
      left join pg_database d on d.datname = sought.database::name
      left join pg_roles r on r.rolname = sought.role::name`.execute(cluster);
  return new Map(
    rows.map(({ name, database, role }) => [name, { database: database ?? undefined, role: role ?? undefined }]),
  );
}

/** Takes the right to connect to a database, and all other rights on it, from PUBLIC. */
export async function closeToPublic(cluster: ClusterDb, database: string): Promise<void> {
  await sql`revoke all on database ${sql.id(database)} from public`.execute(cluster);
}

/** Lets a role connect to a database. */
export async function letConnect(cluster: ClusterDb, database: string, role: string): Promise<void> {
  await sql`grant connect on database ${sql.id(database)} to ${sql.id(role)}`.execute(cluster);
}

/** Gives a tenant's role the attributes that it is made with, and the connected role the right to end its sessions. */
export async function renewRole(cluster: ClusterDb, role: string, excess: readonly string[]): Promise<void> {
  const removed = excess.map((attribute) => sql.raw(`no${attribute.toLowerCase()}`));
  await sql`
    alter role ${sql.id(role)} with login ${sql.join(removed, sql` `)};
    do $do$ begin
      execute format('grant %I to current_user', ${sql.lit(role)}) ||
        case when current_setting('server_version_num')::int >= 160000 then ' with inherit true, set false' else '' end;
    end $do$`.execute(cluster);
}
