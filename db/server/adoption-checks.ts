// SQL about databases that existed before they became a tenant's: their properties, their owner, and their release.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import { NOT_AS_EXPECTED } from './marks.js';
import type { ClusterDb } from './server-admin.js';
import { MARKER_QUERY } from '../tenant/marker.js';
import type { TenantDatabase } from '../tenant/tenant-schema.js';

export interface FoundDatabase {
  /** Whether the connected role owns it. */
  readonly owned: boolean;
  readonly isTemplate: boolean;
  readonly allowsConnections: boolean;
  /** Rights of PUBLIC on it. */
  readonly publicRights: readonly string[];
  /** Whether any role except its owner has rights on it. */
  readonly othersHaveRights: boolean;
}

/** A database in the cluster's catalogs; undefined if it does not exist. */
export async function findDatabase(cluster: ClusterDb, name: string): Promise<FoundDatabase | undefined> {
  const { rows } = await sql<FoundDatabase>`
    select pg_get_userbyid(datdba) = current_user as owned, datistemplate as "isTemplate",
      datallowconn as "allowsConnections",
      array(select privilege_type from aclexplode(acl) where grantee = 0) as "publicRights",
      exists (select from aclexplode(acl) where grantee not in (0, datdba)) as "othersHaveRights"
    from pg_database cross join lateral (select coalesce(datacl, acldefault('d', datdba)) as acl) as rights
    where datname = ${name}`.execute(cluster);
  return rows[0];
}

/**
 * Revokes PUBLIC's rights on a database, and lets the runtime role connect, both or neither. A worker that was paused and goes on
 * after the role was dropped changes nothing.
 */
export async function closeToOthers(cluster: ClusterDb, name: string, runtimeRole: string): Promise<void> {
  // One packet is one transaction.
  await sql`
    revoke all on database ${sql.id(name)} from public;
    grant connect on database ${sql.id(name)} to ${sql.id(runtimeRole)}`.execute(cluster);
}

/** The rights that PUBLIC can have on a database. */
export const PUBLIC_RIGHTS = ['CONNECT', 'TEMPORARY', 'CREATE'] as const;

/**
 * Statements that grant PUBLIC its rights again, for `also` of a change of the mark. Without the role the change is refused: an
 * earlier call has done all this, and another adoption may have begun since.
 *
 * @param rights as `findDatabase` returned them
 */
export function reopenToOthers(name: string, rights: readonly string[], runtimeRole: string): RawBuilder<unknown>[] {
  const hasRole = sql`
    do $do$ begin
      if not exists (select from pg_roles where rolname = ${sql.lit(runtimeRole)}) then
        raise exception 'there is no such role' using errcode = ${sql.lit(NOT_AS_EXPECTED)};
      end if;
    end $do$`;
  const granted = PUBLIC_RIGHTS.filter((right) => rights.includes(right));
  return [hasRole, ...granted.map((right) => sql`grant ${sql.raw(right)} on database ${sql.id(name)} to public`)];
}

/** Whether a database is a registry, or carries a tenant's marker, seen from inside the database. */
export async function inspectContent(
  db: Kysely<TenantDatabase>,
): Promise<{ readonly isRegistry: boolean; readonly isMarked: boolean }> {
  const {
    rows: [found],
  } = await sql<{ isRegistry: boolean; hasMarker: boolean }>`
    select to_regclass('public.operators') is not null and to_regclass('public.tenants') is not null as "isRegistry",
      to_regclass('public.tenant_marker') is not null as "hasMarker"`.execute(db);
  const marks = found?.hasMarker ? (await sql.raw(MARKER_QUERY).execute(db)).rows : [];
  return { isRegistry: found?.isRegistry ?? false, isMarked: marks.length > 0 };
}

/** Databases in which or on which a role has rights. */
export async function databasesWithRightsOf(cluster: ClusterDb, role: string): Promise<readonly string[]> {
  const { rows } = await sql<{ name: string }>`
    select distinct datname as name from pg_shdepend as dependency
      join pg_database as database
        on database.oid = dependency.dbid
        or (dependency.classid = 'pg_database'::regclass and database.oid = dependency.objid)
    where dependency.refclassid = 'pg_authid'::regclass
      and dependency.refobjid = (select oid from pg_roles where rolname = ${role})`.execute(cluster);
  return rows.map(({ name }) => name);
}

/**
 * Revokes a runtime role's rights in this database and on it, and removes the tenant's marker if it is there. It can be
 * repeated, also after the role is gone.
 */
export async function letGo(db: Kysely<TenantDatabase>, runtimeRole: string, tenantId: string): Promise<void> {
  const {
    rows: [found],
  } = await sql<{ hasMarker: boolean; hasRole: boolean }>`
    select to_regclass('public.tenant_marker') is not null as "hasMarker",
      exists (select from pg_roles where rolname = ${runtimeRole}) as "hasRole"`.execute(db);
  await db.transaction().execute(async (trx) => {
    if (found?.hasMarker) await trx.deleteFrom('tenant_marker').where('tenant_id', '=', tenantId).execute();
    if (found?.hasRole) await sql`drop owned by ${sql.id(runtimeRole)}`.execute(trx);
  });
}

/**
 * Removes the first admin of an adoption and the tenant's marker, which were written together. Without the marker nothing of them
 * is there, and a table `users` may be another one. An admin who has signed in stays. It can be repeated.
 */
export async function undoFilling(
  db: Kysely<TenantDatabase>,
  tenantId: string,
  adminId: string | undefined,
): Promise<void> {
  const { rows } = await sql<{ hasMarker: boolean }>`
    select to_regclass('public.tenant_marker') is not null as "hasMarker"`.execute(db);
  if (!rows[0]?.hasMarker) return;
  await db.transaction().execute(async (trx) => {
    const { numDeletedRows } = await trx
      .deleteFrom('tenant_marker')
      .where('tenant_id', '=', tenantId)
      .executeTakeFirst();
    if (numDeletedRows === 0n || adminId === undefined) return;
    await sql`
      delete from users where id = ${adminId}
        and not exists (select from sessions where account_id = ${adminId})`.execute(trx);
  });
}
