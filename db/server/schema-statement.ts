// The statement that reads the schema of a database (db/server/database-schema.ts): one row for each object.
import { sql, type RawBuilder } from 'kysely';
import { MIGRATION_SCHEMA } from '../shared/migrator.js';
import { ROLES, type ObjectKind, type SchemaObject, type SchemaReading } from './schema-objects.js';

/** The schemas whose content is compared. Others are only named. */
const OUR_SCHEMAS = ['public', MIGRATION_SCHEMA];

/** The lock table of a former build's migrator, which later builds neither make nor remove. */
const FORMER_TABLE = `${MIGRATION_SCHEMA}.kysely_migration_lock`;

/** The most tables, functions and types of each that are read, beside those that are expected. */
const MOST_UNEXPECTED = 1_000;

/** The statement that reads all objects. Run it at the search path of `readDatabaseSchema`. */
export function schemaStatement({
  runtimeRole,
  expected,
  onlyExpected = false,
}: SchemaReading): RawBuilder<SchemaObject> {
  const isExpected = expected ? sql`name = any(${expected}::text[])` : sql`true`;
  const most = sql.lit(onlyExpected ? 0 : MOST_UNEXPECTED);
  /** The expected ones, and some of the others. */
  const bounded = (from: string): RawBuilder<unknown> => sql`
    select * from ${sql.ref(from)} where ${isExpected}
    union all (select * from ${sql.ref(from)} where not (${isExpected}) order by name limit ${most})`;
  return sql<SchemaObject>`
    with roles as materialized (
      select (select oid from pg_roles where rolname = current_user) as owner,
        (select oid from pg_roles where rolname = ${runtimeRole ?? null}) as runtime
    ),
    schemas as materialized (
      select oid, nspname::text as name, nspowner as owner, nspacl as acl from pg_namespace as n
      where nspname !~ '^pg_' and nspname <> 'information_schema' and ${notDerived('pg_namespace', sql`n.oid`)}
    ),
    all_relations as materialized (
      select c.oid, relkind, relowner as owner, relacl as acl, s.name as schema, ${named(sql`relname`)} as name
      from pg_class c join schemas s on s.oid = relnamespace
      where relkind in ('r', 'p', 'f', 'v', 'm', 'S') and s.name = any(${OUR_SCHEMAS}::text[])
        and ${named(sql`relname`)} <> ${FORMER_TABLE} and ${notDerived('pg_class', sql`c.oid`)}
    ),
    all_functions as materialized (
      select p.oid, prokind, proowner as owner, proacl as acl, s.name as schema,
        ${named(sql`proname`)} || '(' || pg_get_function_identity_arguments(p.oid) || ')' as name
      from pg_proc p join schemas s on s.oid = pronamespace
      where s.name = any(${OUR_SCHEMAS}::text[]) and ${notDerived('pg_proc', sql`p.oid`)}
    ),
    all_types as materialized (
      select t.oid, typtype, typrelid, typowner as owner, typacl as acl, s.name as schema, ${named(sql`typname`)} as name
      from pg_type t join schemas s on s.oid = typnamespace
      where s.name = any(${OUR_SCHEMAS}::text[]) and ${notDerived('pg_type', sql`t.oid`)}
        and (typtype in ('e', 'd', 'r') or typtype = 'c' and exists (
          select from pg_class where oid = typrelid and relkind = 'c'))
    ),
    ours as materialized (select * from all_relations where ${isExpected}),
    relations as materialized (${bounded('all_relations')}),
    functions as materialized (${bounded('all_functions')}),
    types as materialized (${bounded('all_types')})
    ${sql.join([...wholes(), ...parts(), grants(), defaultPrivileges()], sql` union all `)}`;
}

/** One row for each object. `facts` is built with json_build_object, which keeps their order. */
function rows(
  kind: ObjectKind | RawBuilder<unknown>,
  columns: {
    id: RawBuilder<unknown>;
    parent: RawBuilder<unknown>;
    name: RawBuilder<unknown>;
    facts: RawBuilder<unknown>;
  },
  from: RawBuilder<unknown>,
): RawBuilder<unknown> {
  const { id, parent, name, facts } = columns;
  return sql`
    select ${typeof kind === 'string' ? sql.lit(kind) : kind} as kind, ${id} as id, ${parent} as parent, ${name} as name,
      json_build_object(${facts}) as facts
    from ${from}`;
}

/** Objects that are whole by themselves. */
function wholes(): RawBuilder<unknown>[] {
  const ofSchema = sql`'schema ' || schema`;
  const kind = sql`case when r.relkind = 'S' then 'sequence' when r.relkind in ('v', 'm') then 'view' else 'table' end`;
  const sort = sql`case r.relkind when 'r' then 'a table' when 'p' then 'a partitioned table' when 'f' then 'a foreign table'
    when 'v' then 'a view' when 'm' then 'a materialized view' else 'a sequence' end`;
  const definition = sql`case when r.relkind in ('v', 'm')
      then coalesce('with (' || array_to_string(reloptions, ', ') || ') ', '') || pg_get_viewdef(r.oid)
    when r.relkind = 'S' then (select format('as %s start %s increment %s minvalue %s maxvalue %s cache %s%s',
      format_type(seqtypid, null), seqstart, seqincrement, seqmin, seqmax, seqcache, case when seqcycle then ' cycle' else '' end)
      from pg_sequence where seqrelid = r.oid) end`;
  const security = sql`case when not relrowsecurity then 'row security off' when relforcerowsecurity
    then 'row security on, also for the owner' else 'row security on' end`;
  return [
    rows(
      'database',
      {
        id: sql`'database'`,
        parent: sql`null`,
        name: sql`'the database'`,
        facts: sql`'owner', ${roleName(sql`datdba`)}`,
      },
      sql`pg_database where datname = current_database()`,
    ),
    rows(
      'schema',
      { id: sql`'schema ' || name`, parent: sql`null`, name: sql`name`, facts: sql`'owner', ${roleName(sql`owner`)}` },
      sql`schemas`,
    ),
    rows(
      'extension',
      { id: sql`'extension ' || extname`, parent: sql`null`, name: sql`extname`, facts: sql`'sort', 'an extension'` },
      sql`pg_extension`,
    ),
    rows(
      kind,
      {
        id: sql`'relation ' || r.name`,
        parent: ofSchema,
        name: sql`r.name`,
        facts: sql`'sort', ${sort}, 'owner', ${roleName(sql`r.owner`)},
          'persistence', case when relpersistence = 'u' then 'unlogged' else 'logged' end,
          'row security', ${security}, 'definition', ${definition}`,
      },
      sql`relations r join pg_class c on c.oid = r.oid`,
    ),
    rows(
      'function',
      {
        id: sql`'function ' || name`,
        parent: ofSchema,
        name: sql`name`,
        facts: sql`'sort', case prokind when 'p' then 'a procedure' when 'a' then 'an aggregate' else 'a function' end,
          'owner', ${roleName(sql`owner`)}, 'definition', case when prokind <> 'a' then pg_get_functiondef(oid) end`,
      },
      sql`functions`,
    ),
    rows(
      'type',
      {
        id: sql`'type ' || name`,
        parent: ofSchema,
        name: sql`name`,
        facts: sql`'sort', case typtype when 'e' then 'an enum' when 'd' then 'a domain' when 'r' then 'a range'
            else 'a composite type' end,
          'owner', ${roleName(sql`owner`)}, 'definition', ${typeDefinition()}`,
      },
      sql`types`,
    ),
  ];
}

function typeDefinition(): RawBuilder<unknown> {
  return sql`case typtype
    when 'e' then (select string_agg(quote_literal(enumlabel), ', ' order by enumsortorder) from pg_enum
      where enumtypid = types.oid)
    when 'd' then (select format_type(typbasetype, typtypmod) || case when typnotnull then ' not null' else '' end
        || coalesce(' default ' || typdefault, '') || coalesce((
          select string_agg(' ' || pg_get_constraintdef(c.oid), '' order by conname collate "C") from pg_constraint c
          where contypid = t.oid and contype <> 'n'), '')
      from pg_type t where t.oid = types.oid)
    when 'r' then (select format_type(rngsubtype, null) from pg_range where rngtypid = types.oid)
    else (select string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' order by attnum) from pg_attribute
      where attrelid = typrelid and attnum > 0 and not attisdropped) end`;
}

/** Parts of the tables, views and sequences that are expected. */
function parts(): RawBuilder<unknown>[] {
  const part = (kind: ObjectKind, own: RawBuilder<unknown>, facts: RawBuilder<unknown>, from: RawBuilder<unknown>) =>
    rows(
      kind,
      {
        id: sql`${sql.lit(`${kind} `)} || ours.name || '.' || ${own}`,
        parent: sql`'relation ' || ours.name`,
        name: kind === 'index' ? own : sql`ours.name || '.' || ${own}`,
        facts,
      },
      sql`ours join ${from}`,
    );
  const expression = sql`pg_get_expr(adbin, adrelid)`;
  return [
    part(
      'column',
      sql`attname`,
      sql`'type', format_type(atttypid, atttypmod), 'nulls', case when attnotnull then 'not null' else 'nullable' end,
        'default', case when attgenerated = '' then ${expression} end,
        'identity', case attidentity when 'a' then 'always' when 'd' then 'by default' end,
        'generated as', case when attgenerated <> '' then
          ${expression} || case when attgenerated = 's' then ' stored' else ' virtual' end end,
        'collation', case when attcollation <> typcollation then (
          select collname from pg_collation where oid = attcollation) end`,
      sql`pg_attribute a on attrelid = ours.oid and attnum > 0 and not attisdropped and ours.relkind in ('r', 'p', 'f')
        join pg_type t on t.oid = atttypid left join pg_attrdef on adrelid = attrelid and adnum = attnum`,
    ),
    // NOT NULL is a fact of the column. Since PostgreSQL 18 it is also a constraint, with a name that PostgreSQL chose.
    part(
      'constraint',
      sql`conname`,
      sql`'definition', regexp_replace(pg_get_constraintdef(con.oid), ' NOT VALID$', ''),
        'validity', case when convalidated then 'checked for all rows' else 'not checked for earlier rows' end,
        'enabled', case when exists (select from pg_trigger where tgconstraint = con.oid and tgenabled <> 'O')
          then 'its triggers are disabled' else 'enabled' end`,
      sql`pg_constraint con on conrelid = ours.oid and contype in ('c', 'f', 'p', 'u', 'x')`,
    ),
    // The index of a constraint is a part of the constraint.
    part(
      'index',
      sql`i.relname`,
      sql`'definition', pg_get_indexdef(indexrelid),
        'validity', case when indisvalid and indisready then 'valid' else 'not valid' end`,
      sql`pg_index on indrelid = ours.oid join pg_class i on i.oid = indexrelid and not exists (
        select from pg_constraint where conindid = indexrelid and contype in ('p', 'u', 'x'))`,
    ),
    part(
      'trigger',
      sql`tgname`,
      sql`'definition', pg_get_triggerdef(tg.oid),
        'enabled', case tgenabled when 'O' then 'enabled' when 'D' then 'disabled' when 'R' then 'enabled in replication only'
          else 'enabled always' end`,
      sql`pg_trigger tg on tgrelid = ours.oid and not tgisinternal`,
    ),
    part(
      'rule',
      sql`rulename`,
      sql`'definition', pg_get_ruledef(rw.oid),
        'enabled', case ev_enabled when 'D' then 'disabled' else 'enabled' end`,
      sql`pg_rewrite rw on ev_class = ours.oid and rulename <> '_RETURN'`,
    ),
    part(
      'policy',
      sql`polname`,
      sql`'definition', format('%s for %s to %s using (%s) with check (%s)',
        case when polpermissive then 'permissive' else 'restrictive' end,
        case polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete' else 'all' end,
        (select string_agg(name, ', ' order by name collate "C") from (
          select ${roleName(sql`role`)} as name from unnest(polroles) as role) as names),
        pg_get_expr(polqual, polrelid), pg_get_expr(polwithcheck, polrelid))`,
      sql`pg_policy on polrelid = ours.oid`,
    ),
  ];
}

/** Rights, one row for each object and role. The owner's rights are left out: an owner can always give them to itself. */
function grants(): RawBuilder<unknown> {
  return sql`
    select 'grant' as kind, 'grant on ' || object || ' to ' || role as id, object as parent, name,
      json_build_object('role', role, 'rights', string_agg(distinct right_text, ', ' order by right_text)) as facts
    from (
      select object, name, ${roleName(sql`grantee`)} as role,
        (privilege_type || case when is_grantable then ' WITH GRANT OPTION' else '' end) collate "C" as right_text
      from (
        select 'database' as object, 'the database' as name, coalesce(datacl, acldefault('d', datdba)) as acl
          from pg_database where datname = current_database()
        union all select 'schema ' || name, name, coalesce(acl, acldefault('n', owner)) from schemas
        union all select 'relation ' || name, name,
          coalesce(acl, acldefault(case when relkind = 'S' then 's'::"char" else 'r'::"char" end, owner)) from ours
        union all select 'column ' || ours.name || '.' || attname, ours.name || '.' || attname, attacl
          from ours join pg_attribute on attrelid = ours.oid and not attisdropped and attacl is not null
        union all select 'function ' || name, name, coalesce(acl, acldefault('f', owner)) from functions
        union all select 'type ' || name, name, coalesce(acl, acldefault('T', owner)) from types
      ) as objects cross join lateral aclexplode(acl)
    ) as rights
    where role <> ${sql.lit(ROLES.owner)} group by object, name, role`;
}

/** Rights that objects get when they are made. */
function defaultPrivileges(): RawBuilder<unknown> {
  const sort = sql`case defaclobjtype when 'r' then 'tables' when 'S' then 'sequences' when 'f' then 'functions'
    when 'T' then 'types' when 'n' then 'schemas' else 'large objects' end`;
  const name = sql`${sort} || ' that ' || ${roleName(sql`defaclrole`)} || ' makes' || coalesce(' in ' || nspname, '')`;
  return rows(
    'default privilege',
    {
      id: sql`'default privilege ' || ${name}`,
      parent: sql`'schema ' || nspname`,
      name,
      facts: sql`'rights', coalesce((
        select string_agg(role || ': ' || privilege_type, ', ' order by role || privilege_type collate "C") from (
          select ${roleName(sql`grantee`)} as role, privilege_type from aclexplode(defaclacl)) as rights
        where role <> ${sql.lit(ROLES.owner)}), 'no rights for other roles')`,
    },
    sql`pg_default_acl left join pg_namespace n on n.oid = defaclnamespace`,
  );
}

function named(name: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`case when s.name = 'public' then '' else s.name || '.' end || ${name}`;
}

/** Not an object of an extension (`e`), nor one that PostgreSQL made for another (`i`), like the sequence of an identity. */
function notDerived(catalog: string, oid: RawBuilder<unknown>): RawBuilder<unknown> {
  const depends = sql`classid = ${sql.lit(catalog)}::regclass and objid = ${oid} and deptype in ('e', 'i')`;
  return sql`not exists (select from pg_depend where ${depends})`;
}

/** The role's name, or its word. The schema `public` belongs to `pg_database_owner`, which means the owner of the database. */
function roleName(oid: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`case when ${oid} = 0 then 'PUBLIC'
    when ${oid} in ((select owner from roles), 'pg_database_owner'::regrole) then ${sql.lit(ROLES.owner)}
    when ${oid} = (select runtime from roles) then ${sql.lit(ROLES.runtime)} else pg_get_userbyid(${oid})::text end`;
}
