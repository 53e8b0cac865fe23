import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // `needs` is the newest migration that a build must know to work with this database. The migrator adds the column.
  await sql`
    create or replace view tenant_schema_version as
      select max(name) as name, max(needs) as needs from migration.kysely_migration`.execute(db);
}
