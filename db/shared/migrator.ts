// Runs migrations: each in a transaction of its own, in order, and only in a database whose history agrees with this build's.
// The record is the table of Kysely's migrator, which former builds read and write, with more columns.
import { sql, type Kysely } from 'kysely';
import { hasSqlState } from '../driver/database-fault.js';
import { plannedEachTime } from '../driver/statement-names.js';
import { compareHistory, HistoryDiffers, type DoneMigration, type HistoryVerdict } from './migration-history.js';
import type { Migrations } from './migration-types.js';
import { PATIENCE, patiently, patientlyOutside, takeTurn } from './patient-locks.js';

export type { Migration, Migrations } from './migration-types.js';

/** A schema other than `public`, so that grants on all tables of `public` never include the migrator's tables. */
export const MIGRATION_SCHEMA = 'migration';
export const MIGRATION_TABLE = 'kysely_migration';
const TABLE = `${MIGRATION_SCHEMA}.${MIGRATION_TABLE}`;

/** The lock of Kysely's migrator: a former build may migrate the same database at the same time. */
const LOCK = sql`3853314791062309107`;

/** Another process that migrates the database may wait for its own locks: the wait for it is so many times the patience. */
const TURNS = 3;

/** SQLSTATEs: the schema, the table or a column does not exist. */
const UNDEFINED = ['3F000', '42P01', '42703'];

export interface MigrationOptions {
  /** The database is thought to be behind: the look before its turn, which most databases end with, is left out. */
  readonly behind?: boolean;
  /** The caller closes the connection after the run, which frees the lock. */
  readonly closes?: boolean;
  readonly progress?: (done: number, all: number) => Promise<void>;
  /** ms */
  readonly patience?: number;
}

export interface MigrationRun {
  /** The names of the migrations that ran; none if the database is newer than this build, or too new for it. */
  readonly ran: readonly string[];
  /** The migrations that the database has run and that are newer than every migration of this build. */
  readonly newer: readonly string[];
}

/** As `runMigrations`. @returns the names of the migrations that ran */
export async function migrateToLatest<DB>(
  db: Kysely<DB>,
  migrations: Migrations,
  options: MigrationOptions = {},
): Promise<readonly string[]> {
  return (await runMigrations(db, migrations, options)).ran;
}

/**
 * Runs the pending migrations. A migration that another session keeps waiting is tried again (patient-locks.ts).
 *
 * @param options.progress called after each migration, with the number of migrations in total. An error that it throws is the
 *   migration's
 * @param options.patience longest wait (ms) of one migration for its locks
 * @throws HistoryDiffers before anything is changed; the error of the first migration that fails, which leaves the ones before it
 */
export async function runMigrations<DB>(
  db: Kysely<DB>,
  migrations: Migrations,
  { behind = false, closes = false, progress, patience = PATIENCE }: MigrationOptions = {},
): Promise<MigrationRun> {
  if (!behind) {
    const { pending, newer } = agreeing(await doneMigrations(db), migrations);
    if (pending.length === 0) return { ran: [], newer };
  }
  return db.connection().execute(async (connection) => {
    // Another process may have migrated the database meanwhile.
    const known = behind ? await turnWithRecord(connection) : undefined;
    if (!known) await takeTurn(connection, LOCK, TURNS * patience);
    try {
      const done = known ?? (await madeRecord(connection, patience));
      const { pending, newer } = agreeing(done, migrations);
      await completeRecord(connection, done, migrations);
      const all = Object.keys(migrations).length;
      for (const [index, name] of pending.entries()) {
        await run(connection, name, migrations, patience);
        await progress?.(all - pending.length + index + 1, all);
      }
      return { ran: pending, newer };
    } finally {
      // If the connection is lost, the lock is free too.
      if (!closes) await sql`select pg_advisory_unlock(${LOCK})`.execute(connection).catch(() => undefined);
    }
  });
}

async function run<DB>(db: Kysely<DB>, name: string, migrations: Migrations, patience: number): Promise<void> {
  const migration = migrations[name];
  if (!migration) return;
  const { hash = null, needs = null } = migration;
  const record = async (on: Kysely<DB>): Promise<void> => {
    await sql`
      insert into ${sql.table(TABLE)} (name, timestamp, hash, needs)
      values (${name}, ${new Date().toISOString()}, ${hash}, ${needs})`.execute(on);
  };
  if (migration.transaction === false) {
    await patientlyOutside(db, patience, async () => {
      await migration.up(db as unknown as Kysely<unknown>);
      await record(db);
    });
    return;
  }
  await patiently(db, patience, async (trx) => {
    await migration.up(trx as unknown as Kysely<unknown>);
    await record(trx);
  });
}

/**
 * As Kysely's migrator makes it, with the columns of this build. The service's roles read it through a view, so an ALTER TABLE that
 * waits behind a dump would keep every new connection waiting.
 */
async function makeRecord<DB>(db: Kysely<DB>, patience: number): Promise<void> {
  const { rows } = await sql<{ name: string }>`
    select attname as name from pg_attribute where attrelid = to_regclass(${TABLE}) and attnum > 0`.execute(db);
  const columns = rows.map(({ name }) => name);
  if (columns.includes('hash') && columns.includes('needs')) return;
  await patiently(db, patience, async (trx) => {
    await sql`create schema if not exists ${sql.id(MIGRATION_SCHEMA)}`.execute(trx);
    await sql`
      create table if not exists ${sql.table(TABLE)} (name varchar(255) primary key, timestamp varchar(255) not null)`.execute(
      trx,
    );
    await sql`
      alter table ${sql.table(TABLE)} add column if not exists hash text, add column if not exists needs text`.execute(
      trx,
    );
  });
}

async function madeRecord<DB>(db: Kysely<DB>, patience: number): Promise<readonly DoneMigration[]> {
  await makeRecord(db, patience);
  return doneMigrations(db);
}

/**
 * Takes the lock and reads the record in one packet. The second statement sees what the lock's former holder committed, because each
 * statement has a snapshot of its own.
 *
 * @returns undefined if the lock is another session's, or the record is not there with the columns of this build
 */
async function turnWithRecord<DB>(db: Kysely<DB>): Promise<readonly DoneMigration[] | undefined> {
  const TURN = sql.lit('tenantry.turn');
  try {
    const { rows } = await sql<{ taken: boolean; done: readonly DoneMigration[] | null }>`
      select set_config(${TURN}, pg_try_advisory_lock(${LOCK})::text, false);
      select current_setting(${TURN})::boolean as taken,
        (select json_agg(json_build_object('name', name, 'hash', hash, 'needs', needs)) from ${sql.table(TABLE)}) as done
      ${plannedEachTime}`.execute(db);
    const [found] = rows;
    return found?.taken ? (found.done ?? []) : undefined;
  } catch (error) {
    // The first statement may have taken it: a session keeps such a lock when its transaction fails.
    await sql`select pg_advisory_unlock(${LOCK})`.execute(db).catch(() => undefined);
    if (UNDEFINED.some((state) => hasSqlState(error, state))) return undefined;
    throw error;
  }
}

/** What a former build ran counts as this build's migration of the same name. */
async function completeRecord<DB>(
  db: Kysely<DB>,
  done: readonly DoneMigration[],
  migrations: Migrations,
): Promise<void> {
  const known = done.flatMap(({ name, hash, needs = null }) => {
    const own = migrations[name];
    const adds = own && ((hash === null && own.hash !== undefined) || (needs === null && own.needs !== undefined));
    return adds ? [{ name, hash: own.hash ?? null, needs: own.needs ?? null }] : [];
  });
  if (known.length === 0) return;
  const column = (of: 'name' | 'hash' | 'needs'): (string | null)[] => known.map((each) => each[of]);
  await sql`
    update ${sql.table(TABLE)} as done
    set hash = coalesce(done.hash, known.hash), needs = coalesce(done.needs, known.needs)
    from unnest(${column('name')}::text[], ${column('hash')}::text[], ${column('needs')}::text[])
      as known (name, hash, needs)
    where done.name = known.name`.execute(db);
}

/**
 * The migrations that this build knows and the database has not run, in order. A database that is newer than this build has none.
 *
 * @throws HistoryDiffers
 */
export async function pendingMigrations<DB>(db: Kysely<DB>, migrations: Migrations): Promise<readonly string[]> {
  return agreeing(await doneMigrations(db), migrations).pending;
}

/** @throws HistoryDiffers */
function agreeing(done: readonly DoneMigration[], migrations: Migrations): HistoryVerdict {
  const verdict = compareHistory(done, migrations);
  if (verdict.state === 'differs') throw new HistoryDiffers(verdict.differences);
  return verdict;
}

/** The migrations that the database has run and that are newer than every migration of this build. */
export async function newerMigrations<DB>(db: Kysely<DB>, migrations: Migrations): Promise<readonly string[]> {
  return (await historyOf(db, migrations)).newer;
}

/** Compares the database's history with this build's. */
export async function historyOf<DB>(db: Kysely<DB>, migrations: Migrations): Promise<HistoryVerdict> {
  return compareHistory(await doneMigrations(db), migrations);
}

async function doneMigrations<DB>(db: Kysely<DB>): Promise<readonly DoneMigration[]> {
  const {
    rows: [found],
  } = await sql<{ exists: boolean }>`select to_regclass(${TABLE}) is not null as exists`.execute(db);
  if (!found?.exists) return [];
  // The columns of former builds are fewer.
  const { rows } = await sql<{ done: { name: string; hash?: string | null; needs?: string | null } }>`
    select to_jsonb(done) as done from ${sql.table(TABLE)} as done`.execute(db);
  return rows.map(({ done: { name, hash = null, needs = null } }) => ({ name, hash, needs }));
}

/** The newest migration's name: the schema version of a database that has run all migrations. */
export function latestVersion(migrations: Migrations): string {
  return Object.keys(migrations).sort().at(-1) ?? '';
}
