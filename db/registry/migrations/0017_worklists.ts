import { sql, type Kysely } from 'kysely';

export async function up(db: Kysely<unknown>): Promise<void> {
  // For the job that asks which names of databases and roles a row has.
  await sql`create index tenants_db_name on tenants (db_name)`.execute(db);
  await sql`create index tenants_db_user on tenants (db_user)`.execute(db);
  await sql`create index tenants_adopts on tenants (adopts) where adopts is not null`.execute(db);
  await sql`create index standby_databases_db_name on standby_databases (db_name)`.execute(db);

  await sql`
    create index tenants_own_storage_limit on tenants (id) where status = 'active' and limits ? 'storageBytes'`.execute(
    db,
  );
}
