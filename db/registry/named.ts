// Queries that find which databases and roles the registry names, in any table.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import type { Registry } from './registry-schema.js';

/** The unique constraint that a second adoption of the same database breaks. */
export const ADOPTS_CONSTRAINT = 'tenants_adopts_key';

/**
 * Whether a row names the database: a tenant's, an adoption's, or a standby database's.
 *
 * @param database.place the server's address; if left out, any server matches
 * @param database.otherThan the id of a row to ignore
 */
export async function isNamed(
  db: Kysely<Registry>,
  database: {
    readonly name: string;
    readonly place?: { readonly host: string; readonly port: number };
    readonly otherThan?: string;
  },
): Promise<boolean> {
  const { name, place, otherThan = null } = database;
  const at = (host: string, port: string): RawBuilder<unknown> =>
    place ? sql`and ${sql.ref(host)} = ${place.host} and ${sql.ref(port)} = ${place.port}` : sql``;
  const { rows } = await sql<{ named: boolean }>`
    select exists (
      select from tenants
      where (db_name = ${name} or adopts = ${name}) and id is distinct from ${otherThan}::uuid ${at('db_host', 'db_port')}
    ) or exists (
      select from standby_databases s join clusters c on c.id = s.cluster_id
      where s.db_name = ${name} and s.id is distinct from ${otherThan}::uuid ${at('c.host', 'c.port')}
    ) as named`.execute(db);
  return rows[0]?.named ?? true;
}

/**
 * Which of these names of databases and roles a row has. All tables are read in one snapshot, because a claim moves a name from
 * one table to the other in one statement. One question for each column, because each column has its own index.
 */
export async function knownDatabaseNames(db: Kysely<Registry>, names: readonly string[]): Promise<ReadonlySet<string>> {
  const { rows } = await sql<{ name: string }>`
    select db_name as name from tenants where db_name = any(${names})
    union all select db_user from tenants where db_user = any(${names})
    union all select adopts from tenants where adopts = any(${names})
    union all select db_name from standby_databases where db_name = any(${names})`.execute(db);
  return new Set(rows.map(({ name }) => name));
}
