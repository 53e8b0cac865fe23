// Takes a backup of the registry's rows about tenants, and restores it later. The result is that of a restored backup, or of a
// failover to a standby that has not received the last transactions.
import { sql, type Kysely } from 'kysely';

const TABLES = ['tenants', 'standby_databases', 'idempotency_keys'] as const;

/** The rows of each table, as JSON. Equal backups are equal texts. */
export type RegistryBackup = string;

/** @param registry as the superuser */
export async function takeBackup(registry: Kysely<unknown>): Promise<RegistryBackup> {
  // One statement, so that all tables are of one moment.
  const tables = TABLES.map(
    (table) => sql`${sql.lit(table)}, (
      select coalesce(jsonb_agg(to_jsonb(t) order by to_jsonb(t)::text), '[]') from ${sql.table(table)} as t)`,
  );
  const { rows } = await sql<{ backup: string }>`
    select jsonb_build_object(${sql.join(tables)})::text as backup`.execute(registry);
  return rows[0]?.backup ?? '';
}

/** Restores the rows, and removes newer ones. No trigger runs. @param registry as the superuser */
export async function putBack(registry: Kysely<unknown>, backup: RegistryBackup): Promise<void> {
  await registry.transaction().execute(async (trx) => {
    await sql`set local session_replication_role = replica`.execute(trx);
    for (const table of TABLES) {
      await sql`delete from ${sql.table(table)}`.execute(trx);
      // A generated column takes no value.
      const { rows } = await sql<{ name: string }>`
        select attname as name from pg_attribute
        where attrelid = ${table}::regclass and attnum > 0 and not attisdropped and attgenerated = ''`.execute(trx);
      const columns = sql.join(rows.map(({ name }) => sql.ref(name)));
      await sql`
        insert into ${sql.table(table)} (${columns})
          select ${columns} from jsonb_populate_recordset(null::${sql.table(table)}, ${backup}::jsonb -> ${table}::text)`.execute(
        trx,
      );
    }
  });
}
