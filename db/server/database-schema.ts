// A database's schema as data, read from PostgreSQL's catalogs, so that two databases can be compared. The names of roles that differ
// from tenant to tenant are replaced (ROLES), and definitions are printed at one search path. Objects of extensions are left out.
//
//     database ── schema ── table, view, sequence ── column, constraint, index, trigger, rule, policy
//                      ├─── function
//                      └─── type
//
// Each of them, parts apart, can have grants.
import { sql, type Kysely } from 'kysely';
import type { DatabaseSchema, SchemaReading } from './schema-objects.js';
import { schemaStatement } from './schema-statement.js';

/** Longest time (ms) of the reading statement: it waits behind a migration that has locked a table. */
const STATEMENT_TIMEOUT = 10_000;

/**
 * Reads the schema of the connected database, in one statement. Run it as the provisioner.
 *
 * @returns the objects in no particular order
 */
export async function readDatabaseSchema<DB>(db: Kysely<DB>, reading: SchemaReading = {}): Promise<DatabaseSchema> {
  return db.transaction().execute(async (trx) => {
    // Names are printed without their schema if they are found in the search path. So an extension in another schema than the
    // template's makes no difference.
    await sql`
      select set_config('search_path', (
          select string_agg(quote_ident(name), ', ' order by place, name) from (
            select 'pg_catalog' as name, 1 as place union select 'public', 2
            union select nspname, 3 from pg_catalog.pg_extension join pg_catalog.pg_namespace n on n.oid = extnamespace
              where nspname not in ('pg_catalog', 'public')) as names), true),
        set_config('statement_timeout', ${String(STATEMENT_TIMEOUT)}, true)`.execute(trx);
    const { rows } = await schemaStatement(reading).execute(trx);
    return rows;
  });
}
