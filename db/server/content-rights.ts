// Who owns what is in a tenant's database, and which rights the tenant's role has there, read from the catalogs: a dump that was
// restored without owners and rights is found by it.
import { sql, type Kysely } from 'kysely';
import { MIGRATION_SCHEMA } from '../shared/migrator.js';
import type { Marker } from '../tenant/marker.js';
import { runtimeRightsOn } from '../tenant/tenant-grants.js';
import type { TenantDatabase } from '../tenant/tenant-schema.js';
import { CURRENT_ROLE } from './current-role.js';

/** An object that belongs to another role than the connected one. */
export interface ForeignObject {
  /** For `ALTER … OWNER TO`, with its kind and its quoted name: `TABLE public.products`. */
  readonly name: string;
  readonly owner: string;
  /** Whether the connected role has the owner's rights, so that it can take the object. */
  readonly mayTake: boolean;
}

/** Objects of an extension belong to the role that made the extension. */
const notOfExtension = (catalog: string, oid: string): ReturnType<typeof sql> => sql`not exists (
  select from pg_depend where classid = ${sql.lit(catalog)}::regclass and objid = ${sql.ref(oid)} and deptype = 'e')`;

/** The objects of the schemas `public` and `migration` that the connected role does not own, and these schemas. */
export async function listForeignObjects(db: Kysely<TenantDatabase>): Promise<ForeignObject[]> {
  const { rows } = await sql<ForeignObject>`
    with ours as (select oid, nspname, nspowner from pg_namespace where nspname in ('public', ${MIGRATION_SCHEMA})),
    found as (
      select 'SCHEMA' as kind, quote_ident(nspname) as name, nspowner as owner from ours
      union all
      select case relkind when 'v' then 'VIEW' when 'm' then 'MATERIALIZED VIEW' when 'S' then 'SEQUENCE' else 'TABLE' end,
        c.oid::regclass::text, relowner
        from pg_class c join ours on ours.oid = relnamespace
        where relkind in ('r', 'p', 'v', 'm', 'S') and ${notOfExtension('pg_class', 'c.oid')}
          -- The owner of a sequence of a column follows the table's.
          and not exists (select from pg_depend where classid = 'pg_class'::regclass and objid = c.oid
            and refclassid = 'pg_class'::regclass and deptype in ('a', 'i'))
      union all
      select case prokind when 'p' then 'PROCEDURE' when 'a' then 'AGGREGATE' else 'FUNCTION' end,
        p.oid::regprocedure::text, proowner
        from pg_proc p join ours on ours.oid = pronamespace where ${notOfExtension('pg_proc', 'p.oid')}
      union all
      select case typtype when 'd' then 'DOMAIN' else 'TYPE' end, t.oid::regtype::text, typowner
        from pg_type t join ours on ours.oid = typnamespace
        where ${notOfExtension('pg_type', 't.oid')} and (typtype in ('e', 'd', 'r') or typtype = 'c' and exists (
          select from pg_class where oid = typrelid and relkind = 'c'))
    )
    select kind || ' ' || name as name, pg_get_userbyid(owner) as owner, pg_has_role(owner, 'USAGE') as "mayTake"
    from found where owner <> ${CURRENT_ROLE}
      -- PostgreSQL’s role for the owner of the database.
      and not (kind = 'SCHEMA' and pg_get_userbyid(owner) = 'pg_database_owner')
    order by 1`.execute(db);
  return rows;
}

/** Makes the connected role the owner, of all objects or of none. @param objects as `listForeignObjects` named them */
export async function takeObjects(db: Kysely<TenantDatabase>, objects: readonly ForeignObject[]): Promise<void> {
  const statements = objects.map(({ name }) => sql`alter ${sql.raw(name)} owner to current_user`);
  if (statements.length > 0) await sql.join(statements, sql`; `).execute(db);
}

/**
 * The tables and views of the schema `public` on which a tenant's role has other rights than it should, and `the schema public` if it
 * may not use that. Unlike a GRANT, it writes nothing.
 *
 * @param role a role that exists
 */
export async function listWrongRights(db: Kysely<TenantDatabase>, role: string): Promise<string[]> {
  const {
    rows: [found],
  } = await sql<{ usage: boolean; tables: readonly { readonly table: string; readonly rights: readonly string[] }[] }>`
    select has_schema_privilege(${role}::name, 'public', 'USAGE') as usage,
      coalesce((select json_agg(json_build_object('table', relname, 'rights', array(
          select r from unnest(array['DELETE', 'INSERT', 'SELECT', 'UPDATE']) r
          where has_table_privilege(${role}::name, c.oid, r))) order by relname)
        from pg_class c where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')
          and ${notOfExtension('pg_class', 'c.oid')}), '[]') as tables`.execute(db);
  if (!found) throw new Error('the rights of a role could not be read');
  const wrong = found.tables.filter(({ table, rights }) => rights.join() !== runtimeRightsOn(table).join());
  return [...(found.usage ? [] : ['the schema public']), ...wrong.map(({ table }) => table)];
}

/** A migrated database, looked at in one statement, with the fewest catalogs: a new session reads each of them for the first time. */
export interface Glance {
  /** False if `listWrongRights` may name something. It also knows rights by membership, and those that another role gave. */
  readonly rightsAreRight: boolean;
  readonly marker: Marker | undefined;
}

/** @param role a role that exists */
export async function glanceAt(db: Kysely<TenantDatabase>, role: string): Promise<Glance> {
  const {
    rows: [seen],
  } = await sql<{
    schema: string | null;
    tables: readonly (readonly [string, string | null])[];
    marker: Marker | null;
  }>`
    select (select nspacl::text from pg_namespace where nspname = 'public') as schema,
      (select json_agg(json_build_array(relname, relacl::text)) from pg_class
        where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')
          and ${notOfExtension('pg_class', 'pg_class.oid')}) as tables,
      (select json_build_object('tenantId', tenant_id, 'claim', claim) from tenant_marker) as marker`.execute(db);
  if (!seen) throw new Error('the rights of a role could not be read');
  const { schema, tables, marker } = seen;
  const rightsAreRight =
    PLAIN_NAME.test(role) &&
    isIn(schema, [`${role}=U/`, '=U/']) &&
    tables.every(([table, acl]) => !isIn(acl, ['=']) && isIn(acl, [`${role}=${lettersOf(runtimeRightsOn(table))}/`]));
  return { rightsAreRight, marker: marker ?? undefined };
}

/** A name that PostgreSQL shows in an ACL without quotes. */
const PLAIN_NAME = /^[a-z_][a-z0-9_]*$/;

/** Whether an ACL such as `{owner=arwdDxt/owner,tn_1=arwd/owner}` has an entry that begins so. */
function isIn(acl: string | null, beginnings: readonly string[]): boolean {
  const entries = (acl ?? '').replace(/^\{|\}$/g, '').split(',');
  return entries.some((entry) => beginnings.some((beginning) => entry.startsWith(beginning)));
}

/** PostgreSQL's letters for rights on a table, in its order. */
const LETTERS = { INSERT: 'a', SELECT: 'r', UPDATE: 'w', DELETE: 'd' } as const;

function lettersOf(rights: readonly string[]): string {
  return Object.entries(LETTERS)
    .filter(([right]) => rights.includes(right))
    .map(([, letter]) => letter)
    .join('');
}

/** Names of indexes that an interrupted statement left, and that no query uses. */
export async function listInvalidIndexes(db: Kysely<TenantDatabase>): Promise<string[]> {
  const { rows } = await sql<{ name: string }>`
    select indexrelid::regclass::text as name from pg_index where not indisvalid order by 1`.execute(db);
  return rows.map(({ name }) => name);
}
