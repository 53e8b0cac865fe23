// Connections that lead to the wrong server, or are old: which are closed, when, and which stay.
import { sql, type Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { createDatabase, type ConnectionSettings, type DatabaseHandle } from '../../db/driver/client.js';
import {
  createDestinations,
  type Destinations,
  type DestinationsOptions,
  type Retirement,
} from '../../db/driver/destinations.js';
import type { PoolOptions } from '../../db/driver/pool/pool-types.js';
import { shortRead } from '../../db/driver/statement.js';
import { SERVED_SCHEMAS } from '../../db/tenant/served-schemas.js';
import { asSuperuser, createRegistry, startService, type TestService, type TestTenant } from '../support/app.js';
import { startProxy } from '../support/proxy.js';
import { rowOf } from '../support/tenants.js';

/** "Within a second", plus a margin for the machine. */
const SOON = { timeout: 2_000, interval: 20 };

const LIMITS = { max: 4, acquireTimeout: 5_000, timeout: 10_000, idleTimeoutMillis: 60_000 };
const PRODUCT = { name: 'Written', price: '1.00', stockQuantity: 1 };

interface Notes {
  notes: { id: number; text: string };
}

let connection: ConnectionSettings;

beforeAll(async () => {
  const { superuser, registryOwner } = inject('cluster');
  connection = { ...superuser, ...registryOwner, database: await createRegistry() };
  const { db } = open();
  await sql`create table notes (id int primary key, text text)`.execute(db);
  await sql`create sequence numbers`.execute(db);
});

const handles: DatabaseHandle<Notes>[] = [];
const close = async (): Promise<void> => {
  await Promise.all(handles.splice(0).map((handle) => handle.close(0)));
};
afterEach(close);
afterAll(close);

function open(options: Partial<PoolOptions> = {}, where: Partial<ConnectionSettings> = {}): DatabaseHandle<Notes> {
  const all = { applicationName: 'destinations test', preparedStatements: true, ...options };
  const handle = createDatabase<Notes>({ ...connection, ...where }, LIMITS, all);
  handles.push(handle);
  return handle;
}

function destinations(options: Partial<DestinationsOptions> = {}): Destinations {
  const made = createDestinations({ maxAge: 3_600_000, ...options });
  onTestFinished(() => {
    made.close();
  });
  return made;
}

const laneRead = shortRead((db: Kysely<Notes>) => db.selectNoFrom(sql<number>`pg_backend_pid()`.as('pid')));
const makeLaneReadOnly = shortRead((db: Kysely<Notes>) =>
  db.selectNoFrom(sql<string>`set_config('default_transaction_read_only', 'on', false)`.as('set')),
);
const laneWrite = shortRead((db: Kysely<Notes>) => db.selectNoFrom(sql<string>`nextval('numbers')`.as('next')));

async function pidOn(db: Kysely<Notes>): Promise<number | undefined> {
  return (await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(db)).rows[0]?.pid;
}

async function lanePid({ db }: DatabaseHandle<Notes>): Promise<number | undefined> {
  return (await laneRead(db, {}))[0]?.pid;
}

/** The connections of a pool that answered two simultaneous queries. */
async function twoPids({ db }: DatabaseHandle<Notes>): Promise<(number | undefined)[]> {
  return db.connection().execute(async (held) => [await pidOn(held), await pidOn(db)]);
}

async function living(pids: readonly (number | undefined)[]): Promise<number[]> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ pid: number }>`select pid from pg_stat_activity where pid = any(${pids})`.execute(db),
  );
  return rows.map(({ pid }) => pid);
}

/** Makes a session read-only. Its server took writes when the session was opened. */
async function writeInVain(db: Kysely<Notes>, inTransaction: boolean): Promise<void> {
  await db.connection().execute(async (held) => {
    await sql`set default_transaction_read_only to on`.execute(held);
    const write = (on: Kysely<Notes>): Promise<unknown> =>
      on.insertInto('notes').values({ id: 1, text: 'never' }).execute();
    const written = inTransaction ? held.transaction().execute(write) : write(held);
    await expect(written).rejects.toMatchObject({ name: 'DatabaseFault', kind: 'unavailable', reason: '25006' });
  });
}

describe('a connection that has become read-only (25006)', () => {
  it.each([false, true])(
    'retires every connection to its server: idle ones at once, others when they are released; in a transaction: %s',
    async (inTransaction) => {
      const told: Retirement[] = [];
      const shared = destinations({ onRetire: (retirement) => void told.push(retirement) });
      const [one, other] = [open({ destinations: shared }), open({ destinations: shared, lane: true })];
      const before = [...(await twoPids(one)), ...(await twoPids(other)), await lanePid(other)];
      expect(new Set(before).size).toBe(5);

      let held: number | undefined;
      await other.db.transaction().execute(async (trx) => {
        held = await pidOn(trx);
        await writeInVain(one.db, inTransaction);
        await expect.poll(() => living(before), SOON).toEqual([held]);
        // The running transaction continues.
        await trx
          .insertInto('notes')
          .values({ id: inTransaction ? 3 : 2, text: 'written' })
          .execute();
      });
      await expect.poll(() => living(before), SOON).toEqual([]);
      expect(told).toEqual([{ host: connection.host, port: connection.port, reason: 'read-only', connections: 5 }]);
      await one.db.updateTable('notes').set({ text: 'written again' }).execute();
      expect(await lanePid(other)).not.toBe(before[4]);
    },
  );

  it('retires every connection to its server, even if it is a lane', async () => {
    const shared = destinations();
    const [one, other] = [open({ destinations: shared, lane: true }), open({ destinations: shared })];
    await makeLaneReadOnly(one.db, {});
    const before = [await lanePid(one), ...(await twoPids(other))];
    await expect(laneWrite(one.db, {})).rejects.toMatchObject({ kind: 'unavailable', reason: '25006' });
    await expect.poll(() => living(before), SOON).toEqual([]);
    await expect(laneWrite(one.db, {})).resolves.toHaveLength(1);
  });

  it('retires the connections of other pools once, and not at each refused write', async () => {
    const shared = destinations();
    const [one, other] = [open({ destinations: shared }), open({ destinations: shared })];
    await writeInVain(one.db, false);
    const before = await twoPids(other);
    for (let time = 0; time < 5; time += 1) await writeInVain(one.db, false);
    expect(await living(before)).toHaveLength(2);
    expect(before).toContain(await pidOn(other.db));
  });
});

describe('a connection that is older than the maximum age', () => {
  it('is replaced even if it is used all the time, as is the lane, and no transaction is cut', async () => {
    const shared = destinations({ maxAge: 1_000 });
    const handle = open({ destinations: shared, lane: true });
    const before = [await pidOn(handle.db), await lanePid(handle)];
    await handle.db.transaction().execute(async (trx) => {
      const pid = await pidOn(trx);
      const until = performance.now() + 1_500;
      while (performance.now() < until) {
        await lanePid(handle);
        await sleep(20);
      }
      expect(await pidOn(trx)).toBe(pid);
    });
    await expect
      .poll(
        async () => {
          const now = [await pidOn(handle.db), await lanePid(handle)];
          return now.some((pid) => before.includes(pid));
        },
        { timeout: 30_000, interval: 50 },
      )
      .toBe(false);
  });

  it('has a lifetime within 20 % of that age, which differs from connection to connection', () => {
    const destination = destinations({ maxAge: 1_000 }).at(connection);
    const lifetimes = Array.from({ length: 100 }, () => destination.lifetime());
    expect(Math.min(...lifetimes)).toBeGreaterThanOrEqual(800);
    expect(Math.max(...lifetimes)).toBeLessThanOrEqual(1_200);
    expect(new Set(lifetimes).size).toBeGreaterThan(50);
  });
});

describe('a server whose name moves to another address', () => {
  const ELSEWHERE = '127.0.0.2';
  let answer: () => Promise<readonly string[]>;
  let asked: string[];

  /** A pool by name. The name's server can be reached at two addresses. */
  async function byName(options: Partial<PoolOptions> = {}): Promise<DatabaseHandle<Notes>> {
    const proxy = await startProxy(connection, { host: ELSEWHERE, port: connection.port });
    onTestFinished(() => proxy.close());
    answer = async () => [connection.host];
    asked = [];
    const resolve = (host: string): Promise<readonly string[]> => {
      asked.push(host);
      return answer();
    };
    return open({ destinations: destinations({ resolve }), ...options }, { host: 'moving.test' });
  }

  it('loses its connections to the former address within a second: idle ones, the lane, and those in use when they are released', async () => {
    const handle = await byName({ lane: true });
    const before = [...(await twoPids(handle)), await lanePid(handle)];
    await handle.db.transaction().execute(async (trx) => {
      const held = await pidOn(trx);
      answer = async () => [ELSEWHERE];
      await expect.poll(() => living(before), SOON).toEqual([held]);
      expect(await pidOn(trx)).toBe(held);
    });
    await expect.poll(() => living(before), SOON).toEqual([]);
    expect(before).not.toContain(await pidOn(handle.db));
  });

  it('keeps its connections while the former address is one of several', async () => {
    const handle = await byName();
    const before = await twoPids(handle);
    answer = async () => [ELSEWHERE, connection.host];
    await sleep(1_500);
    expect(await living(before)).toHaveLength(2);
  });

  it.each([
    ['fails', 1_300, () => Promise.reject(new Error('ENOTFOUND'))],
    ['answers nothing', 1_300, async () => []],
    ['takes too long', 2_600, () => sleep(1_200).then(() => [ELSEWHERE])],
  ])('keeps its connections while the look-up %s', async (_, time, broken) => {
    const handle = await byName();
    const before = await twoPids(handle);
    const lookUps = asked.length;
    answer = broken;
    await sleep(time);
    expect(asked.length).toBeGreaterThan(lookUps);
    expect(await living(before)).toHaveLength(2);
  });

  it('is looked up once a second for all pools together, and an address is never looked up', async () => {
    const looked: string[] = [];
    const resolve = async (host: string): Promise<readonly string[]> => {
      looked.push(host);
      return [connection.host];
    };
    const shared = destinations({ resolve });
    const named = [1, 2, 3].map(() => open({ destinations: shared }, { host: 'several.test' }));
    for (const { db } of [...named, open({ destinations: shared })]) await pidOn(db);
    looked.length = 0;
    await sleep(2_200);
    expect(looked.length).toBeGreaterThanOrEqual(1);
    expect(looked.length).toBeLessThanOrEqual(3);
    expect(new Set(looked)).toEqual(new Set(['several.test']));
  });
});

describe('a tenant whose role is read-only', () => {
  let service: TestService;
  let tenant: TestTenant;
  let neighbour: TestTenant;
  let role: string;
  let database: string;
  beforeAll(async () => {
    service = await startService();
    [tenant, neighbour] = [await service.createTenant(), await service.createTenant()];
    ({ dbUser: role, dbName: database } = await rowOf(service, tenant));
  });
  afterAll(() => service.close());

  const write = (of: TestTenant): ReturnType<TestService['send']> =>
    service.send('POST', '/products', { token: of.adminToken, body: PRODUCT });
  const read = (of: TestTenant): ReturnType<TestService['send']> =>
    service.send('GET', '/products', { token: of.adminToken });
  const sessionsOf = (name: string): Promise<number[]> =>
    asSuperuser('postgres', async (db) => {
      const { rows } = await sql<{ pid: number }>`
        select pid from pg_stat_activity where datname = ${name} order by backend_start, pid`.execute(db);
      return rows.map(({ pid }) => pid);
    });

  it('can read, gets 503 for writes, does not disturb its neighbours, and can write within a second of the end', async () => {
    for (const of of [tenant, neighbour]) expect((await write(of)).status).toBe(201);
    const { dbName: neighbours } = await rowOf(service, neighbour);
    const before = await sessionsOf(neighbours);
    await asSuperuser('postgres', async (db) => {
      await sql`alter role ${sql.id(role)} set default_transaction_read_only to on`.execute(db);
      await sql`select pg_terminate_backend(pid) from pg_stat_activity where usename = ${role}`.execute(db);
    });
    await expect.poll(async () => (await read(tenant)).status, SOON).toBe(200);

    const opened = new Set<number>();
    const until = performance.now() + 1_500;
    while (performance.now() < until) {
      const [wrote, readToo] = await Promise.all([write(tenant), read(tenant)]);
      expect(wrote).toMatchObject({ status: 503, body: { code: 'unavailable' } });
      expect(wrote.headers['retry-after']).toMatch(/^[1-9]\d*$/);
      expect(readToo.status).toBe(200);
      for (const pid of await sessionsOf(database)) opened.add(pid);
    }
    // One check a second, and not a connection for each write.
    expect(opened.size).toBeLessThan(8);
    const { body } = await service.send('GET', `/tenants/${tenant.id}/pool`, { token: service.operatorToken });
    expect(body).toMatchObject({ pool: { readOnly: true, schemaVersion: SERVED_SCHEMAS.newest } });
    expect(await sessionsOf(neighbours)).toEqual(before);
    expect((await write(neighbour)).status).toBe(201);

    await asSuperuser('postgres', (db) =>
      sql`alter role ${sql.id(role)} reset default_transaction_read_only`.execute(db),
    );
    await expect.poll(async () => (await write(tenant)).status, SOON).toBe(201);
    for (let time = 0; time < 10; time += 1) expect((await write(tenant)).status).toBe(201);
  });
});

describe('a registry that is read-only', () => {
  it('makes the service unready, and the service is ready again within a second of the end', async () => {
    const service = await startService();
    onTestFinished(() => service.close());
    const { user, database } = service.config.registry.connection;
    const setting = sql`role ${sql.id(user)} in database ${sql.id(database)}`;
    const ready = async (): Promise<number> => (await service.send('GET', '/health/ready')).status;
    const acts = async (): Promise<number> =>
      (await service.send('POST', '/tenants', { token: service.operatorToken, body: {} })).status;
    await asSuperuser('postgres', async (db) => {
      await sql`alter ${setting} set default_transaction_read_only to on`.execute(db);
      await sql`select pg_terminate_backend(pid) from pg_stat_activity
        where datname = ${database} and usename = ${user}`.execute(db);
    });
    await expect.poll(ready, SOON).toBe(503);
    const refused = await service.send<{ detail: string }>('GET', '/health/ready');
    expect(refused.headers['retry-after']).toMatch(/^[1-9]\d*$/);
    expect((await service.send('GET', '/health/live')).status).toBe(200);
    await asSuperuser('postgres', (db) => sql`alter ${setting} reset default_transaction_read_only`.execute(db));
    await expect.poll(ready, SOON).toBe(200);
    // The pool tests a server that was read-only at most once a second.
    await expect.poll(acts, SOON).toBe(400);
  });
});
