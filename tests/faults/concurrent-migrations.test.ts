// Migrations outside a transaction: killed at each of their statements, slower than any deadline, and beside others.
import { sql, type Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, inject, it } from 'vitest';
import { createDatabase, type DatabaseHandle } from '../../db/driver/client.js';
import { migrateToLatest, type Migration, type Migrations } from '../../db/shared/migrator.js';
import { openProvisioner } from '../../src/clusters/provisioner-connections.js';
import { inPlainWords } from '../../src/jobs/plain-words.js';
import { asSuperuser, connectAs } from '../support/app.js';
import { whileHeld } from '../support/held-tables.js';
import { eventually } from '../support/service-process.js';
import { startStatementProxy, type StatementProxy } from '../support/statement-proxy.js';

let name: string;
/** As the superuser. */
let database: DatabaseHandle<unknown>;
/** As the role that migrates. */
let owner: DatabaseHandle<unknown>;
let made = 0;

beforeEach(async () => {
  name = `concurrent_${process.pid}_${(made += 1)}`;
  const { provisioner } = inject('cluster');
  await asSuperuser('postgres', (db) =>
    sql`create database ${sql.id(name)} owner ${sql.id(provisioner.user)}`.execute(db),
  );
  database = connectAs<unknown>(name);
  owner = connectAs<unknown>(name, provisioner);
});
afterEach(async () => {
  await Promise.all([database.close(0), owner.close(0)]);
  await asSuperuser('postgres', (db) => sql`drop database ${sql.id(name)} with (force)`.execute(db));
});

function outside(...texts: string[]): Migration {
  return { transaction: false, up: (db) => runAll(db, texts) };
}

async function runAll(db: Kysely<unknown>, texts: readonly string[]): Promise<void> {
  for (const text of texts) await sql.raw(text).execute(db);
}

const things: Migration = {
  up: (db) =>
    runAll(db, [
      'create table things (id integer primary key, label text, code text)',
      `insert into things select id, 'label ' || id from generate_series(1, 100) as id`,
      'create table notes (text text primary key)',
    ]),
};

/** Runs work while a session has a transaction with a snapshot, and no lock on a table. */
async function whileOld(work: () => Promise<void>): Promise<void> {
  await database.db
    .transaction()
    .setIsolationLevel('repeatable read')
    .execute(async (trx) => {
      await sql`select 1`.execute(trx);
      await work();
    });
}

describe('killed at any of its statements, a migration outside a transaction', () => {
  const BATCH = 40;

  async function fill(db: Kysely<unknown>): Promise<void> {
    for (;;) {
      const { numAffectedRows = 0n } = await sql`
        update things set code = 'code ' || id
        where id in (select id from things where code is null order by id limit ${BATCH})`.execute(db);
      if (numAffectedRows === 0n) return;
    }
  }

  const creates = (index: string, column: string): readonly string[] => [
    `drop index concurrently if exists ${index}`,
    `create index concurrently ${index} on things (${column})`,
  ];

  const filling = (first: readonly string[]): Migration => ({
    transaction: false,
    up: async (db) => {
      await runAll(db, first);
      await fill(db);
      await runAll(db, creates('things_code', 'code'));
      await sql`insert into notes values ('filled') on conflict do nothing`.execute(db);
    },
  });

  /**
   * - `before`: the connection is lost before the statement is sent.
   * - `lost`: the server runs the statement, and its answer is lost.
   * - `during`: the server's process is ended while it runs the statement; CREATE INDEX when its index is there and not valid.
   */
  const WAYS = ['before', 'lost', 'during'] as const;

  async function endBackend(): Promise<void> {
    const isMigrating = sql`application_name = 'migrating'`;
    await sql`select pg_terminate_backend(pid) from pg_stat_activity where ${isMigrating}`.execute(database.db);
  }

  async function hasInvalidIndex(): Promise<boolean> {
    return (await sql`select from pg_index where not indisvalid`.execute(database.db)).rows.length > 0;
  }

  /** Runs the migrations until they come to a statement. @returns whether they came there */
  async function killAt(
    proxy: StatementProxy,
    build: Migrations,
    at: number,
    way: (typeof WAYS)[number],
  ): Promise<boolean> {
    let count = 0;
    let killed: Promise<void> | undefined;
    proxy.onStatement = async ({ sql: text, application }) => {
      if (application !== 'migrating' || (count += 1) !== at) return 'pass';
      if (way === 'before') throw new Error('lost');
      if (way === 'lost') return 'lose';
      if (text.startsWith('create index')) {
        await new Promise<void>((resolve) => {
          // CREATE INDEX CONCURRENTLY waits for it, with an index that is not valid.
          killed = whileOld(async () => {
            resolve();
            await eventually('there is an index that is not valid', hasInvalidIndex);
            await endBackend();
          });
        });
      } else {
        killed = endBackend();
      }
      return 'pass';
    };
    const { provisioner } = inject('cluster');
    const migrating = createDatabase<unknown>(
      { ...provisioner, host: proxy.host, port: proxy.port, database: name },
      { max: 1, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 10_000 },
      { applicationName: 'migrating', preparedStatements: false },
    );
    await migrateToLatest(migrating.db, build).catch(() => undefined);
    await killed;
    await migrating.close(0);
    return count >= at;
  }

  /** What is wrong after the migration ran to its end. */
  async function wrongs(): Promise<string[]> {
    const { rows: indexes } = await sql<{ index: string; valid: boolean }>`
      select relname as index, indisvalid and indisready as valid from pg_index join pg_class on pg_class.oid = indexrelid
      where indrelid = 'things'::regclass order by relname`.execute(database.db);
    const { rows } = await sql<{ records: number; empty: number; notes: number }>`
      select (select count(*)::int from migration.kysely_migration where name = '0002_outside') as records,
        (select count(*)::int from things where code is null) as empty,
        (select count(*)::int from notes) as notes`.execute(database.db);
    const [{ records, empty, notes } = { records: 0, empty: 0, notes: 0 }] = rows;
    const names = indexes.map(({ index }) => index).join(' ');
    return [
      ...(names === 'things_code things_label things_pkey' ? [] : [`the indexes are ${names}`]),
      ...indexes.filter(({ valid }) => !valid).map(({ index }) => `${index} is not valid`),
      ...(records === 1 ? [] : [`it is recorded ${records} times`]),
      ...(empty === 0 ? [] : [`${empty} rows have no code`]),
      ...(notes === 1 ? [] : [`there are ${notes} notes`]),
    ];
  }

  /** Kills a migration at each statement, and runs it again. @returns what was wrong then */
  async function killEverywhere(
    migration: Migration,
    ways: readonly (typeof WAYS)[number][] = WAYS,
  ): Promise<{ found: string[]; kills: number }> {
    const build = { '0001_things': things, '0002_outside': migration };
    const proxy = await startStatementProxy(inject('cluster').provisioner);
    const found: string[] = [];
    let kills = 0;
    try {
      await migrateToLatest(owner.db, { '0001_things': things });
      for (const way of ways)
        for (let at = 1; await killAt(proxy, build, at, way); at += 1) {
          kills += 1;
          const again = await migrateToLatest(owner.db, build).then(wrongs, (error: unknown) => [
            error instanceof Error ? error.message : 'an error',
          ]);
          found.push(...again.map((wrong) => `killed ${way} statement ${at}: ${wrong}`));
          await runAll(database.db, [
            'drop index if exists things_label',
            'drop index if exists things_code',
            'update things set code = null',
            'delete from notes',
            `delete from migration.kysely_migration where name = '0002_outside'`,
          ]);
        }
      return { found, kills };
    } finally {
      await proxy.close();
    }
  }

  it('runs to its end the next time, and its table is read and written meanwhile', async () => {
    let killing = true;
    const failed: unknown[] = [];
    const client = connectAs<unknown>(name);
    const clients = async (): Promise<void> => {
      await eventually('the table is there', async () =>
        sql`select from things`.execute(client.db).then(
          () => true,
          () => false,
        ),
      );
      while (killing) {
        await sql`select count(*) from things where label = 'label 7'`
          .execute(client.db)
          .catch((error: unknown) => failed.push(error));
        await sql`update things set label = label where id = 7`
          .execute(client.db)
          .catch((error: unknown) => failed.push(error));
        await sleep(10);
      }
    };
    const running = clients();
    const { found, kills } = await killEverywhere(filling(creates('things_label', 'label')));
    killing = false;
    await running;
    await client.close(0);
    expect(found).toEqual([]);
    // 9 statements of its own at least, in three ways.
    expect(kills).toBeGreaterThan(27);
    expect(failed).toEqual([]);
  });

  it.each([
    [
      'creates its index without dropping it first',
      'create index concurrently things_label on things (label)',
      'relation "things_label" already exists',
    ],
    [
      'creates it only if there is none',
      'create index concurrently if not exists things_label on things (label)',
      'things_label is not valid',
    ],
  ])('is found out if it %s', async (_, create, wrong) => {
    expect((await killEverywhere(filling([create]), ['during'])).found.join('\n')).toContain(wrong);
  });
});

describe('a migration outside a transaction', () => {
  const index = outside(
    'drop index concurrently if exists things_label',
    'create index concurrently things_label on things (label)',
  );
  const build = { '0001_things': things, '0002_outside': index };

  beforeEach(() => migrateToLatest(owner.db, { '0001_things': things }));

  it('may take longer than any other statement of its connection', async () => {
    const limits = { max: 1, acquireTimeout: 10_000, timeout: 300, idleTimeoutMillis: 1_000 };
    const opened = openProvisioner(inject('cluster').provisioner, limits);
    try {
      await opened.inDatabase(name, async (db) => {
        const on = db as unknown as Kysely<unknown>;
        const sleeps = ['select pg_sleep(2)'];
        let lockTimeout: unknown;
        const slow: Migration = {
          transaction: false,
          up: async (connection) => {
            const { rows } = await sql<{ value: string }>`select current_setting('lock_timeout') as value`.execute(
              connection,
            );
            lockTimeout = rows[0]?.value;
            await runAll(connection, sleeps);
          },
        };
        expect(await migrateToLatest(on, { '0001_things': things, '0002_outside': slow })).toEqual(['0002_outside']);
        // Its waits end, however long it works.
        expect(lockTimeout).toBe('10min');
        // The deadline is back.
        await expect(sql`select pg_sleep(1)`.execute(on)).rejects.toMatchObject({ reason: '57014' });
        const inside = {
          '0001_things': things,
          '0002_outside': slow,
          '0003_inside': { up: (trx: Kysely<unknown>) => runAll(trx, sleeps) },
        };
        await expect(migrateToLatest(on, inside)).rejects.toMatchObject({ reason: '57014' });
      });
    } finally {
      await opened.close();
    }
  });

  it('does not wait for another process that waits for its turn', async () => {
    const other = connectAs<unknown>(name, inject('cluster').provisioner);
    const slow: Migration = {
      transaction: false,
      up: async (db) => {
        // The other process comes meanwhile.
        await sleep(500);
        await index.up(db);
      },
    };
    const both = { '0001_things': things, '0002_outside': slow };
    try {
      const ran = await Promise.all([migrateToLatest(owner.db, both), migrateToLatest(other.db, both)]);
      expect(ran.flat()).toEqual(['0002_outside']);
    } finally {
      await other.close(0);
    }
  });

  it('does not begin behind a dump, and says who keeps it waiting', async () => {
    await whileHeld(name, 'things', async ({ pid }) => {
      const error = await migrateToLatest(owner.db, build, { patience: 1_000 }).catch((thrown: unknown) => thrown);
      expect(inPlainWords(error)).toBe(`other sessions (pid ${pid}) kept tables locked for too long (55P03)`);
    });
    const { rows } = await sql`select from pg_class where relname = 'things_label'`.execute(database.db);
    expect(rows).toEqual([]);
    expect(await migrateToLatest(owner.db, build)).toEqual(['0002_outside']);
  });

  it('waits for a transaction that began before it, without a deadline, and nothing waits for it', async () => {
    const limits = { max: 1, acquireTimeout: 10_000, timeout: 300, idleTimeoutMillis: 10_000 };
    const migrating = createDatabase<unknown>({ ...inject('cluster').provisioner, database: name }, limits, {
      applicationName: 'migrating',
      preparedStatements: false,
    });
    try {
      let migration: Promise<readonly string[]> = Promise.resolve([]);
      await whileOld(async () => {
        migration = migrateToLatest(migrating.db, build);
        const until = performance.now() + 2_000;
        while (performance.now() < until) {
          await sql`set lock_timeout = '1s'; update things set label = 'new' where id = 1`.execute(database.db);
          await sleep(50);
        }
      });
      expect(await migration).toEqual(['0002_outside']);
    } finally {
      await migrating.close(0);
    }
  });
});
