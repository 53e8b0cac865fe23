// Kysely's migrator with its two sharp edges taken off: a failure is thrown, and a newer database is not an error.
import { Migrator, sql, type Kysely, type Migration } from 'kysely';

/** Migrations by name; the names sort in the order in which they run. */
export type Migrations = Readonly<Record<string, Migration>>;

/** Kept out of `public`, so that grants on all tables of that schema never reach the migrator's own. */
export const MIGRATION_SCHEMA = 'migration';
export const MIGRATION_TABLE = 'kysely_migration';

/**
 * Runs what is missing, each migration in the migrator's one transaction, and returns the names that ran.
 *
 * @throws the first migration's error; nothing of that run stays
 */
export async function migrateToLatest<DB>(db: Kysely<DB>, migrations: Migrations): Promise<readonly string[]> {
  if ((await pendingMigrations(db, migrations)).length === 0) return [];
  const migrator = new Migrator({
    db,
    provider: { getMigrations: async () => ({ ...migrations }) },
    migrationTableSchema: MIGRATION_SCHEMA,
  });
  const { error, results = [] } = await migrator.migrateToLatest();
  if (error !== undefined) throw error instanceof Error ? error : new Error('a migration failed');
  return results.filter((result) => result.status === 'Success').map((result) => result.migrationName);
}

/**
 * The migrations that this build knows and the database has not run, in order. A database that is ahead of this build
 * has none: during a rolling update the older replicas go on.
 */
export async function pendingMigrations<DB>(db: Kysely<DB>, migrations: Migrations): Promise<readonly string[]> {
  const done = await doneMigrations(db);
  return Object.keys(migrations)
    .sort()
    .filter((name) => !done.has(name));
}

/** The migrations that the database has run and that are newer than all that this build knows. */
export async function newerMigrations<DB>(db: Kysely<DB>, migrations: Migrations): Promise<readonly string[]> {
  const latest = latestVersion(migrations);
  return [...(await doneMigrations(db))].filter((name) => name > latest).sort();
}

async function doneMigrations<DB>(db: Kysely<DB>): Promise<ReadonlySet<string>> {
  const table = `${MIGRATION_SCHEMA}.${MIGRATION_TABLE}`;
  const {
    rows: [found],
  } = await sql<{ exists: boolean }>`select to_regclass(${table}) is not null as exists`.execute(db);
  const done = new Set<string>();
  if (found?.exists) {
    const { rows } = await sql<{ name: string }>`select name from ${sql.table(table)}`.execute(db);
    for (const { name } of rows) done.add(name);
  }
  return done;
}

/** The newest migration's name: the schema version that a database has once all of them have run. */
export function latestVersion(migrations: Migrations): string {
  return Object.keys(migrations).sort().at(-1) ?? '';
}
