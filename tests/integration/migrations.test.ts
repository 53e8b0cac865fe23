// Migrations on a real server: what is refused, what is tried again, and who waits.
import { setTimeout as sleep } from 'node:timers/promises';
import { sql, type Kysely } from 'kysely';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { HistoryDiffers } from '../../db/shared/migration-history.js';
import { historyOf, migrateToLatest, type Migration, type Migrations } from '../../db/shared/migrator.js';
import { asSuperuser, connectAs } from '../support/app.js';
import { whileHeld } from '../support/held-tables.js';

let name: string;
let database: DatabaseHandle<unknown>;
let made = 0;

beforeEach(async () => {
  name = `migrations_${process.pid}_${(made += 1)}`;
  await asSuperuser('postgres', (db) => sql`create database ${sql.id(name)}`.execute(db));
  database = connectAs<unknown>(name);
});
afterEach(async () => {
  await database.close(0);
  await asSuperuser('postgres', (db) => sql`drop database ${sql.id(name)} with (force)`.execute(db));
});

function statement(text: string, more: Partial<Migration> = {}): Migration {
  return {
    up: async (db: Kysely<unknown>) => {
      await sql.raw(text).execute(db);
    },
    ...more,
  };
}

const things = statement('create table things (id integer primary key)', { hash: 'aa' });

async function recorded(): Promise<{ name: string; hash: string | null }[]> {
  const { rows } = await sql<{ name: string; hash: string | null }>`
    select name, hash from migration.kysely_migration order by name`.execute(database.db);
  return rows;
}

async function columnsOfThings(): Promise<string[]> {
  const { rows } = await sql<{ name: string }>`
    select column_name as name from information_schema.columns where table_name = 'things' order by 1`.execute(
    database.db,
  );
  return rows.map((row) => row.name);
}

describe('the history', () => {
  const build: Migrations = { '0001_things': things, '0003_c': statement('alter table things add c text') };

  it.each([
    [
      'a migration was merged before one that has run',
      { ...build, '0002_b': statement('alter table things add b text') },
    ],
    ['a migration that has run has another content', { ...build, '0001_things': { ...things, hash: 'bb' } }],
    ['the build has lost a migration', { '0003_c': statement('alter table things add c text') }],
  ])('is refused before anything changes if %s', async (_, other) => {
    await migrateToLatest(database.db, build);
    const before = await recorded();
    await expect(
      migrateToLatest(database.db, { ...other, '0004_d': statement('alter table things add d text') }),
    ).rejects.toThrow(HistoryDiffers);
    expect(await recorded()).toEqual(before);
    expect(await columnsOfThings()).toEqual(['c', 'id']);
  });

  it('of a newer build is left as it is', async () => {
    await migrateToLatest(database.db, { ...build, '0004_d': statement('alter table things add d text') });
    expect(await migrateToLatest(database.db, build)).toEqual([]);
    expect(await historyOf(database.db, build)).toMatchObject({ state: 'newer', newer: ['0004_d'] });
    expect(await columnsOfThings()).toEqual(['c', 'd', 'id']);
  });

  it('of a former build, which recorded no content, gets the content of the migrations that this build has', async () => {
    await migrateToLatest(database.db, { '0001_things': things });
    await sql`alter table migration.kysely_migration drop column hash`.execute(database.db);
    expect(await migrateToLatest(database.db, build)).toEqual(['0003_c']);
    expect(await recorded()).toEqual([
      { name: '0001_things', hash: 'aa' },
      { name: '0003_c', hash: null },
    ]);
  });

  it('says which build the database needs, also for migrations that ran before that was recorded', async () => {
    const contract = statement('alter table things drop c', { needs: '0003_c' });
    await migrateToLatest(database.db, { ...build, '0004_d': contract });
    await sql`alter table migration.kysely_migration drop column needs`.execute(database.db);
    const next = { ...build, '0004_d': contract, '0005_e': statement('select', { needs: '0005_e' }) };
    await migrateToLatest(database.db, next);
    const { rows } = await sql`select name, needs from migration.kysely_migration order by name`.execute(database.db);
    expect(rows).toEqual([
      { name: '0001_things', needs: null },
      { name: '0003_c', needs: null },
      { name: '0004_d', needs: '0003_c' },
      { name: '0005_e', needs: '0005_e' },
    ]);
    expect(await historyOf(database.db, build)).toMatchObject({ state: 'too-new', needs: '0005_e' });
    expect(await migrateToLatest(database.db, build)).toEqual([]);
    const serving = { ...build, '0004_d': contract, '0005_e': statement('select') };
    expect(await historyOf(database.db, serving)).toMatchObject({ state: 'equal' });
  });

  it('is the same if two migrate at once', async () => {
    const other = connectAs<unknown>(name);
    try {
      const ran = await Promise.all([migrateToLatest(database.db, build), migrateToLatest(other.db, build)]);
      expect(ran.flat().sort()).toEqual(['0001_things', '0003_c']);
    } finally {
      await other.close(0);
    }
  });
});

it('a migration that fails leaves the ones before it, and the next run goes on there', async () => {
  const before = { '0001_things': things, '0002_b': statement('alter table things add b text') };
  const failing = { ...before, '0003_c': statement('alter table nothing add c text') };
  await expect(migrateToLatest(database.db, failing)).rejects.toThrow('nothing');
  expect((await recorded()).map((row) => row.name)).toEqual(['0001_things', '0002_b']);
  const mended = { ...before, '0003_c': statement('alter table things add c text') };
  expect(await migrateToLatest(database.db, mended)).toEqual(['0003_c']);
});

describe('a migration behind a session that keeps its table', () => {
  const build = { '0001_things': things };
  const later = { ...build, '0002_b': statement('alter table things add b text') };

  it('is tried again until the table is free, and readers go on in the pauses', async () => {
    await migrateToLatest(database.db, build);
    const readers = connectAs<unknown>(name);
    try {
      await whileHeld(name, 'things', async ({ release }) => {
        let migrated = false;
        const migration = migrateToLatest(database.db, later).then((ran) => {
          migrated = true;
          return ran;
        });
        let reads = 0;
        const until = performance.now() + 4_000;
        while (performance.now() < until) {
          await sql`select count(*) from things`.execute(readers.db);
          reads += 1;
          await sleep(10);
        }
        // One read waits at most as long as one attempt. If the attempts had no deadline, the second read would never end.
        expect(reads).toBeGreaterThan(10);
        expect(migrated).toBe(false);
        release();
        expect(await migration).toEqual(['0002_b']);
      });
    } finally {
      await readers.close(0);
    }
  });

  it('ends with the server’s error if the table stays taken, and changes nothing', async () => {
    await migrateToLatest(database.db, build);
    await whileHeld(name, 'things', async () => {
      await expect(migrateToLatest(database.db, later, { patience: 1_000 })).rejects.toMatchObject({ reason: '55P03' });
    });
    expect(await columnsOfThings()).toEqual(['id']);
    expect(await migrateToLatest(database.db, later)).toEqual(['0002_b']);
  });
});

it('a migration outside a transaction runs again after it was interrupted', async () => {
  let interrupted = false;
  const index: Migration = {
    transaction: false,
    up: async (db) => {
      await sql`drop index concurrently if exists things_id_again`.execute(db);
      await sql`create index concurrently things_id_again on things (id)`.execute(db);
      if (!interrupted) {
        interrupted = true;
        throw new Error('interrupted');
      }
    },
  };
  const build = { '0001_things': things, '0002_index': index };
  await expect(migrateToLatest(database.db, build)).rejects.toThrow('interrupted');
  expect((await recorded()).map((row) => row.name)).toEqual(['0001_things']);
  expect(await migrateToLatest(database.db, build)).toEqual(['0002_index']);
});
