import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // With its owner's rights: the runtime role reads the newest migration's name here, and nothing in the migrator's schema.
  await sql`create or replace view tenant_schema_version as select max(name) as name from migration.kysely_migration`.execute(
    db,
  );
}
