// Kysely's migrator with two changes: it throws when a migration fails, and it accepts a database that is newer than this build.
import { Migrator, sql, type Kysely, type Migration } from 'kysely';

/** Migrations by name. They run in the order of their names. */
export type Migrations = Readonly<Record<string, Migration>>;

/** A schema other than `public`, so that grants on all tables of `public` never include the migrator's tables. */
export const MIGRATION_SCHEMA = 'migration';
export const MIGRATION_TABLE = 'kysely_migration';

/**
 * Runs the pending migrations, all in one transaction. Returns the names of the migrations that ran.
 *
 * @param progress called after each migration, with the number of migrations in total. An error that it throws is the migration's
 * @throws the first migration's error; then the whole run is rolled back
 */
export async function migrateToLatest<DB>(
  db: Kysely<DB>,
  migrations: Migrations,
  progress: (done: number, all: number) => Promise<void> = () => Promise.resolve(),
): Promise<readonly string[]> {
  const all = Object.keys(migrations).length;
  let done = all - (await pendingMigrations(db, migrations)).length;
  if (done === all) return [];
  const counted = Object.entries(migrations).map(([name, migration]): [string, Migration] => [
    name,
    {
      ...migration,
      up: async (trx) => {
        await migration.up(trx);
        await progress((done += 1), all);
      },
    },
  ]);
  const migrator = new Migrator({
    db,
    provider: { getMigrations: async () => Object.fromEntries(counted) },
    migrationTableSchema: MIGRATION_SCHEMA,
  });
  const { error, results = [] } = await migrator.migrateToLatest();
  if (error !== undefined) throw error instanceof Error ? error : new Error('a migration failed');
  return results.filter((result) => result.status === 'Success').map((result) => result.migrationName);
}

/**
 * The migrations that this build knows and the database has not run, in order. A database that is newer than this build has
 * none, so the older replicas keep working during a rolling update.
 */
export async function pendingMigrations<DB>(db: Kysely<DB>, migrations: Migrations): Promise<readonly string[]> {
  const done = await doneMigrations(db);
  return Object.keys(migrations)
    .sort()
    .filter((name) => !done.has(name));
}

/** The migrations that the database has run and that are newer than every migration of this build. */
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

/** The newest migration's name: the schema version of a database that has run all migrations. */
export function latestVersion(migrations: Migrations): string {
  return Object.keys(migrations).sort().at(-1) ?? '';
}
