// A migration of a tenant waits for others, and they do not wait for it: requests while a dump runs, short transactions, a deadlock,
// autovacuum.
import { sql, type Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import { createDatabase, type ConnectionSettings } from '../../db/driver/client.js';
import { migrateToLatest, type Migration, type MigrationOptions } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { inPlainWords } from '../../src/jobs/plain-words.js';
import { asSuperuser, connectAs, startService, type TestService, type TestTenant } from '../support/app.js';
import { untilWaitedFor, whileHeld } from '../support/held-tables.js';
import { eventually } from '../support/service-process.js';
import { startPostgres } from '../support/servers.js';
import { rowOf } from '../support/tenants.js';

let service: TestService;
let tenant: TestTenant;
let database: string;
let role: string;

beforeAll(async () => {
  service = await startService();
  tenant = await service.createTenant();
  ({ dbName: database, dbUser: role } = await rowOf(service, tenant));
});
afterAll(() => service.close());

/** The next of the tenant's migrations in a later build. */
let made = 0;
const later: string[] = [];
const known: Record<string, Migration> = {};

/** Adds a migration to the build, and runs it as the role that owns the tenant's database, or as another one. */
async function migrate(
  up: Migration['up'],
  options?: MigrationOptions,
  as: Partial<ConnectionSettings> = inject('cluster').provisioner,
): Promise<readonly string[]> {
  const name = `9${String((made += 1)).padStart(3, '0')}_later`;
  later.push(name);
  const build = { ...tenantMigrations, ...known, [name]: { up } };
  const handle = connectAs<unknown>(database, as);
  try {
    const ran = await migrateToLatest(handle.db, build, options);
    known[name] = { up };
    return ran;
  } finally {
    await handle.close(0);
  }
}

function statements(...texts: string[]): Migration['up'] {
  return async (db) => {
    for (const text of texts) await sql.raw(text).execute(db);
  };
}

async function columnsOf(table: string): Promise<string[]> {
  return asSuperuser(database, async (db) => {
    const { rows } = await sql<{ name: string }>`
      select column_name as name from information_schema.columns where table_name = ${table}`.execute(db);
    return rows.map(({ name }) => name);
  });
}

describe('behind a session that keeps a table, as a dump does', () => {
  /** Longest wait for a lock of the tenant's role. A request that waits longer fails. */
  const LONGEST_WAIT = '1s';

  beforeAll(async () => {
    await asSuperuser(database, async (db) => {
      await sql`alter role ${sql.id(role)} set lock_timeout = ${sql.lit(LONGEST_WAIT)}`.execute(db);
      await sql`select pg_terminate_backend(pid) from pg_stat_activity where usename = ${role}`.execute(db);
    });
    await eventually('the tenant is served', async () => (await reads()).status === 200);
  });

  const reads = (): Promise<{ status: number; text: string }> =>
    service.send('GET', '/products?limit=5', { token: tenant.adminToken });
  let written = 0;
  const writes = (): Promise<{ status: number; text: string }> =>
    service.send('POST', '/products', {
      token: tenant.adminToken,
      body: { name: `Thing ${(written += 1)}`, price: '1.00' },
    });

  it('no request waits a second for the migration, which runs when the session ends', async () => {
    const failed: string[] = [];
    await whileHeld(database, 'products', async ({ release }) => {
      const state = { migrated: false };
      const migration = migrate(statements('alter table products add column gentle text')).then((ran) => {
        state.migrated = true;
        return ran;
      });
      const counts = { reads: 0, writes: 0 };
      const until = performance.now() + 4_000;
      const client = async (act: typeof reads, count: keyof typeof counts): Promise<void> => {
        while (performance.now() < until || counts[count] < 200) {
          const { status, text } = await act();
          counts[count] += 1;
          if (status >= 300) failed.push(`${status} ${text}`);
          await sleep(5);
        }
      };
      await Promise.all([client(reads, 'reads'), client(reads, 'reads'), client(writes, 'writes')]);
      expect(state.migrated).toBe(false);
      release();
      expect(await migration).toEqual([later.at(-1)]);
    });
    expect(failed).toEqual([]);
    expect(await columnsOf('products')).toContain('gentle');
    expect((await reads()).status).toBe(200);
  });

  it('the migration ends in words that name the session if it stays, and nothing has changed', async () => {
    await whileHeld(database, 'products', async ({ pid }) => {
      const error = await migrate(statements('alter table products add column late text'), { patience: 1_500 }).catch(
        (thrown: unknown) => thrown,
      );
      expect(error).toMatchObject({ reason: '55P03' });
      expect(inPlainWords(error)).toBe(`other sessions (pid ${pid}) kept tables locked for too long (55P03)`);
      expect((await reads()).status).toBe(200);
    });
    expect(await columnsOf('products')).not.toContain('late');
  });

  it('a session that keeps another table does not stop the migration', async () => {
    await whileHeld(database, 'users', async () => {
      await whileHeld(database, 'products', async ({ release }) => {
        const migration = migrate(statements('alter table products add column other text'));
        await sleep(300);
        release();
        expect(await migration).toEqual([later.at(-1)]);
      });
    });
  });

  // A migration that only probed, or only ran when no transaction has a lock, would wait for ever.
  it.each([60, 500])('transactions of %d ms that come and go all the time do not stop it', async (length) => {
    let writing = true;
    let committed = 0;
    const clients = [0, 1, 2, 3, 4, 5].map((nth) =>
      asSuperuser(database, async (db) => {
        await sleep((nth * length) / 6);
        while (writing) {
          await db.transaction().execute(async (trx) => {
            await sql`lock table products in row exclusive mode`.execute(trx);
            await sleep(length);
          });
          committed += 1;
        }
      }),
    );
    await eventually('all have begun', () => committed > 6);
    try {
      expect(await migrate(statements(`alter table products add column busy_${length} text`))).toEqual([later.at(-1)]);
    } finally {
      writing = false;
      await Promise.all(clients);
    }
  });
});

it('the migration runs again if it and a writer waited for each other', async () => {
  let mayLock = (): void => undefined;
  const hasProducts = new Promise<void>((resolve) => (mayLock = resolve));
  let writer: Promise<unknown> = Promise.resolve();
  let runs = 0;
  const handle = connectAs<unknown>(database);
  try {
    await asSuperuser(database, async (db) => {
      let locked = (): void => undefined;
      const hasUsers = new Promise<void>((resolve) => (locked = resolve));
      writer = db.transaction().execute(async (trx) => {
        await sql`set local deadlock_timeout = '20s'`.execute(trx);
        await sql`lock table users in row exclusive mode`.execute(trx);
        locked();
        await hasProducts;
        await sql`lock table products in row exclusive mode`.execute(trx);
      });
      await hasUsers;
      const up = async (on: Kysely<unknown>): Promise<void> => {
        runs += 1;
        await sql`alter table products add column crossed text`.execute(on);
        mayLock();
        if (runs === 1) await untilWaitedFor(handle.db, 'products');
        await sql`alter table users add column crossed text`.execute(on);
      };
      // As the superuser, so that this side notices the deadlock, and before its lock_timeout.
      const impatient: Migration['up'] = async (on) => {
        await sql`set local deadlock_timeout = '1ms'`.execute(on);
        await up(on);
      };
      expect(await migrate(impatient, {}, inject('cluster').superuser)).toEqual([later.at(-1)]);
      await writer;
    });
  } finally {
    await handle.close(0);
  }
  expect(runs).toBeGreaterThan(1);
  expect(await columnsOf('users')).toContain('crossed');
});

it('autovacuum makes way for the migration of a role that cannot see what it is', async () => {
  const server = await startPostgres({ autovacuum: 'on', autovacuum_naptime: '1s' });
  const settings = { host: server.host, port: server.port, database: 'postgres', tls: false } as const;
  const limits = { max: 2, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 1_000 };
  const options = { applicationName: 'tests', preparedStatements: false };
  const admin = createDatabase<unknown>(
    { ...settings, user: server.superuser, password: server.superuserPassword },
    limits,
    options,
  );
  const owner = createDatabase<unknown>({ ...settings, user: 'owner', password: 'of-the-table' }, limits, options);
  try {
    await sql`create role owner login password 'of-the-table'`.execute(admin.db);
    await sql`grant create on schema public to owner`.execute(admin.db);
    await sql`grant create on database postgres to owner`.execute(admin.db);
    const filled: Migration = {
      up: statements(
        `create table big (id integer, filler text) with (autovacuum_vacuum_threshold = 1,
           autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_cost_delay = 100, autovacuum_vacuum_cost_limit = 1)`,
        `insert into big select id, repeat('x', 500) from generate_series(1, 20000) as id`,
        'delete from big where id % 2 = 0',
      ),
    };
    await migrateToLatest(owner.db, { '0001_big': filled });
    await expect
      .poll(
        async () =>
          (await sql`select from pg_stat_progress_vacuum where relid = 'big'::regclass`.execute(admin.db)).rows.length,
        { timeout: 30_000, interval: 50 },
      )
      .toBe(1);
    // Autovacuum yields to an attempt, not to a probe. A migration that waited for the vacuum to end would only probe, and fail
    // after its patience.
    const build = { '0001_big': filled, '0002_column': { up: statements('alter table big add column more text') } };
    expect(await migrateToLatest(owner.db, build)).toEqual(['0002_column']);
  } finally {
    await Promise.all([owner.close(0), admin.close(0)]);
    await server.stop();
  }
});
