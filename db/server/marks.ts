// Marks: the comment on a database and on its role says whose it is and in which state. So the database itself carries the
// evidence that decides whether it may be opened, closed or dropped (docs/inside/provisioning.md).
import { sql, type Kysely, type RawBuilder } from 'kysely';
import { hasSqlState } from '../driver/database-fault.js';
import { CURRENT_ROLE } from './current-role.js';

/**
 * - `standby`: waits for a tenant; no user data was ever in it.
 * - `making`: a tenant is being made from it; it has never served a request.
 * - `tenant`, `adopted`, `suspended`: holds a tenant's data.
 * - `deleted`: its tenant was deleted, and may still be restored.
 * - `dropping`: the decision to drop it is made. No other state follows.
 */
export type MarkState = 'standby' | 'making' | 'tenant' | 'adopted' | 'suspended' | 'deleted' | 'dropping';

/** The mark of a tenant's database, or of a standby database. */
export interface Mark {
  /** The registry's own id. */
  readonly installation: string;
  /** The id of the tenant; in a standby database, of the future tenant. */
  readonly id: string;
  readonly state: MarkState;
  /** The id of the operation that made the tenant. Null in a standby database, and in a database that a former build made. */
  readonly claim: string | null;
  /** Counts the changes of the tenant's status, also in the registry's row; 0 without a claim. */
  readonly generation: number;
}

/** The mark of a template, finished or being built. */
export interface TemplateMark {
  readonly installation: string;
  readonly state: 'template' | 'building';
  /** The newest migration that the template has run, or will run. */
  readonly version: string;
}

/** A database or a role, and its mark. */
export interface Marked {
  readonly name: string;
  /** The first line of the comment, if it is a mark of any installation. */
  readonly text: string | null;
}

/** Begins every mark. The installation's id follows. */
export const PREFIX = 'tenantry';
const STATES: readonly string[] = ['standby', 'making', 'tenant', 'adopted', 'suspended', 'deleted', 'dropping'];
const UUID = '[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}';
const TENANT_MARK = new RegExp(`^${PREFIX} (${UUID}) (${UUID}) (${STATES.join('|')})(?: (${UUID}) (\\d{1,9}))?$`);
const TEMPLATE_MARK = new RegExp(`^${PREFIX} (${UUID}) (template|building) ([\\w-]{1,100})$`);

/** `tenantry <installation> <tenant> <state> [<claim> <generation>]` */
export function markText({ installation, id, state, claim, generation }: Mark): string {
  return [PREFIX, installation, id, state, ...(claim === null ? [] : [claim, String(generation)])].join(' ');
}

/** `tenantry <installation> template|building <version>` */
export function templateMarkText({ installation, state, version }: TemplateMark): string {
  return [PREFIX, installation, state, version].join(' ');
}

export function parseMark(text: string | null): Mark | undefined {
  const [, installation, id, state, claim = null, generation = '0'] = TENANT_MARK.exec(text ?? '') ?? [];
  if (installation === undefined || id === undefined) return undefined;
  return { installation, id, state: state as MarkState, claim, generation: Number(generation) };
}

export function parseTemplateMark(text: string | null): TemplateMark | undefined {
  const [, installation, state, version] = TEMPLATE_MARK.exec(text ?? '') ?? [];
  if (installation === undefined || version === undefined) return undefined;
  return { installation, state: state as TemplateMark['state'], version };
}

/** SQL for the first line of a comment, if it has the form of a mark; text or null. */
export function markIn(comment: RawBuilder<unknown>): RawBuilder<string | null> {
  return sql`(case when starts_with(${comment}, ${sql.lit(`${PREFIX} `)}) then split_part(${comment}, e'\n', 1) end)`;
}

/** The SQLSTATE of a change whose condition does not hold: nothing changed. */
export const NOT_AS_EXPECTED = 'TN001';

/** Differs from every mark, and from an empty list of marks. */
const NO_MARK = '-';

/** A change of a mark by compare-and-set. */
export interface MarkChange {
  readonly database: string;
  /** The marks that the database may carry; null means no mark. */
  readonly from: readonly (string | null)[];
  /** Null removes the mark. */
  readonly to: string | null;
  /** The database's role. It gets the same comment if it exists. */
  readonly role?: string | undefined;
  /** Statements that run in the same transaction. */
  readonly also?: readonly RawBuilder<unknown>[];
}

/**
 * Changes a mark in one transaction of the maintenance database: takes the advisory lock of the name, reads the mark, compares,
 * and writes. The rest of the comment, which an adopted database may have, stays. The lock puts concurrent changes in order. A
 * change whose answer was lost can be sent again, with its own result in `from`.
 *
 * @returns false if the database carries another mark: then nothing changed
 * @throws if there is no such database (3D000)
 */
export async function changeMark(cluster: Kysely<unknown>, change: MarkChange): Promise<boolean> {
  const given = (name: string, value: string): RawBuilder<unknown> =>
    sql`select set_config(${sql.lit(`tenantry.${name}`)}, ${sql.lit(value)}, true)`;
  const parts = [
    // Passed as settings: a name of the server may contain any character, also the end of the quoted block.
    given('database', change.database),
    given('role', change.role ?? ''),
    given('from', change.from.map((text) => text ?? NO_MARK).join('\n')),
    given('to', change.to ?? ''),
    CHANGE,
    ...(change.also ?? []),
  ];
  try {
    // One packet without BEGIN is one transaction.
    await sql.join(parts, sql`; `).execute(cluster);
    return true;
  } catch (error) {
    if (hasSqlState(error, NOT_AS_EXPECTED)) return false;
    throw error;
  }
}

const CHANGE = sql`
  do $do$
  declare
    name text := current_setting('tenantry.database');
    role text := current_setting('tenantry.role');
    next text := current_setting('tenantry.to');
    said text;
    mark text := ${sql.lit(NO_MARK)};
    rest text;
  begin
    perform pg_advisory_xact_lock(hashtextextended('tenantry mark ' || name, 0));
    select shobj_description(oid, 'pg_database') into said from pg_database where datname = name;
    if not found then
      raise exception 'there is no such database' using errcode = '3D000';
    end if;
    rest := coalesce(said, '');
    if starts_with(rest, ${sql.lit(`${PREFIX} `)}) then
      mark := split_part(rest, e'\n', 1);
      rest := substr(rest, length(mark) + 2);
    end if;
    if mark <> all (string_to_array(current_setting('tenantry.from'), e'\n')) then
      raise exception 'the mark is another one' using errcode = ${sql.lit(NOT_AS_EXPECTED)};
    end if;
    execute format('comment on database %I is %L', name, nullif(concat_ws(e'\n', nullif(next, ''), nullif(rest, '')), ''));
    if exists (select from pg_roles where rolname = role) then
      begin
        execute format('comment on role %I is %L', role, nullif(next, ''));
      exception when insufficient_privilege then
        -- A role that was made again by hand: the database's own mark decides.
        null;
      end;
    end if;
  end $do$`;

/** A database, with the fields that decisions on its mark need. */
export interface MarkedDatabase extends Marked {
  /** Whether the connected role owns it. */
  readonly owned: boolean;
  readonly open: boolean;
  /** The mark of the role of the same name. */
  readonly roleText: string | null;
}

/** The databases with these names that exist, with their marks. */
export async function findMarks(cluster: Kysely<unknown>, names: readonly string[]): Promise<MarkedDatabase[]> {
  const { rows } = await sql<MarkedDatabase>`
    select d.datname as name, d.datdba = ${CURRENT_ROLE} as owned, d.datallowconn as open, ${markIn(sql`shobj_description(d.oid, 'pg_database')`)} as text,
      ${markIn(sql`shobj_description(r.oid, 'pg_authid')`)} as "roleText"
    from pg_database d left join pg_roles r on r.rolname = d.datname
    where d.datname = any(${names})`.execute(cluster);
  return rows;
}

/** The mark of each of these roles. A role that does not exist is left out. */
export async function findRoleMarks(cluster: Kysely<unknown>, names: readonly string[]): Promise<Marked[]> {
  const { rows } = await sql<Marked>`
    select rolname as name, ${markIn(sql`shobj_description(oid, 'pg_authid')`)} as text
    from pg_roles where rolname = any(${names})`.execute(cluster);
  return rows;
}

/** All databases of the connected role, and all roles, with a mark of the installation. Databases come first. */
export async function listMarked(
  cluster: Kysely<unknown>,
  installation: string,
): Promise<(Marked & { readonly kind: 'database' | 'role'; readonly text: string })[]> {
  const mark = markIn(sql`description`);
  const { rows } = await sql<Marked & { kind: 'database' | 'role'; text: string }>`
    select kind, name, ${mark} as text from (
      select 'database' as kind, datname::text as name, shobj_description(oid, 'pg_database') as description
        from pg_database where datdba = ${CURRENT_ROLE}
      union all
      select 'role', rolname::text, shobj_description(oid, 'pg_authid') from pg_roles
    ) as things where starts_with(description, ${`${PREFIX} ${installation} `}::text) order by kind, name`.execute(
    cluster,
  );
  return rows;
}

/** A database or a role with a mark of the installation, and no row if it is an orphan. */
export interface MarkedThing extends Marked {
  readonly kind: 'database' | 'role';
  readonly text: string;
}

/** How many names of the server one page looks through. */
const LOOKED_THROUGH = 5_000;

/**
 * One page of the databases of the connected role, or of the roles, with a mark of the installation, in order of name. A role is
 * left out if a database of its name carries such a mark.
 *
 * @param after the last name of the page before; '' for the first page
 * @param limit how many marked things the page has at most
 * @returns the last name that was looked at; undefined at the end
 */
export async function listMarkedPage(
  cluster: Kysely<unknown>,
  installation: string,
  kind: MarkedThing['kind'],
  after: string,
  limit: number,
): Promise<{ readonly things: readonly MarkedThing[]; readonly last: string | undefined }> {
  const marked = (oid: string, catalog: string): RawBuilder<unknown> =>
    sql`objoid = ${sql.ref(oid)} and classoid = ${sql.lit(catalog)}::regclass
      and starts_with(description, ${`${PREFIX} ${installation} `}::text)`;
  const names =
    kind === 'database'
      ? sql`select datname as name, oid from pg_database
          where datdba = ${CURRENT_ROLE} and datname > ${after}::name order by datname limit ${LOOKED_THROUGH}`
      : sql`select rolname as name, oid from pg_roles where rolname > ${after}::name order by rolname limit ${LOOKED_THROUGH}`;
  const found =
    kind === 'database'
      ? sql`select name, description from looked join pg_shdescription on ${marked('looked.oid', 'pg_database')}`
      : sql`select name, description from looked join pg_shdescription on ${marked('looked.oid', 'pg_authid')}
          where not exists (select from pg_database d join pg_shdescription on ${marked('d.oid', 'pg_database')}
            where d.datname = looked.name and d.datdba = ${CURRENT_ROLE})`;
  const { rows } = await sql<{ name: string | null; text: string; last: string | null; more: boolean }>`
    with looked as materialized (${names})
    select ${kind}::text as kind, found.name::text, ${markIn(sql`description`)} as text, all_looked.last, all_looked.more
    from (select max(name::text collate "C") as last, count(*) = ${LOOKED_THROUGH} as more from looked) all_looked
      left join (${found} order by name limit ${limit}) found on true
    order by found.name`.execute(cluster);
  const things = rows.flatMap(({ name, text }) => (name === null ? [] : [{ kind, name, text }]));
  const last = things.length === limit ? things.at(-1)?.name : rows[0]?.more ? rows[0].last : undefined;
  return { things, last: last ?? undefined };
}
