import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  for (const [table, columns] of Object.entries({
    users: ['created_at', 'updated_at'],
    roles: ['created_at', 'updated_at'],
    products: ['created_at', 'updated_at'],
    sessions: ['created_at', 'refreshed_at', 'expires_at'],
    audit: ['at'],
    idempotency_keys: ['created_at'],
  })) {
    const conditions = columns.map(
      (column) =>
        sql`${sql.ref(column)} >= '0001-01-01 00:00:00+00' and ${sql.ref(column)} < '10000-01-01 00:00:00+00'`,
    );
    // Not valid for the rows that are there: reading them all would keep the table locked, and they can be read.
    await sql`
      alter table ${sql.table(table)} drop constraint if exists ${sql.id(`${table}_times_in_range`)},
        add constraint ${sql.id(`${table}_times_in_range`)} check (${sql.join(conditions, sql` and `)}) not valid`.execute(
      db,
    );
  }
}
