// The Kysely over pg that all queries use, against a real server: which statements are prepared, which connections are kept or
// closed, and that no wait and no loss stays unnoticed.
import { sql, type Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { inspect } from 'node:util';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, inject, it, onTestFinished } from 'vitest';
import { createDatabase, type ConnectionSettings, type DatabaseHandle } from '../../db/driver/client.js';
import { transact } from '../../db/driver/transact.js';
import { DatabaseFault, violatedUniqueConstraint } from '../../db/driver/database-fault.js';
import type { PoolLimits, PoolOptions } from '../../db/driver/pool/pool-types.js';
import { asSuperuser, createRegistry } from '../support/app.js';

interface Notes {
  notes: { id: number; text: string };
}

const LIMITS: PoolLimits = { max: 1, acquireTimeout: 5_000, timeout: 10_000, idleTimeoutMillis: 10_000 };

let database: string;
let connection: ConnectionSettings;

beforeAll(async () => {
  database = await createRegistry();
  const { superuser, registryOwner } = inject('cluster');
  connection = { ...superuser, ...registryOwner, database };
  await open()
    .db.schema.createTable('notes')
    .addColumn('id', 'integer', (id) => id.primaryKey())
    .addColumn('text', 'text')
    .execute();
});

/** A pool that is closed at the end of the test or the hook. */
const handles: DatabaseHandle<Notes>[] = [];
afterEach(closeHandles);
afterAll(closeHandles);

async function closeHandles(): Promise<void> {
  await Promise.all(handles.splice(0).map((handle) => handle.close(0)));
}

function open(
  limits: Partial<PoolLimits> = {},
  { where = {}, ...options }: Partial<PoolOptions> & { where?: Partial<ConnectionSettings> } = {},
): DatabaseHandle<Notes> {
  const handle = createDatabase<Notes>(
    { ...connection, ...where },
    { ...LIMITS, ...limits },
    { applicationName: 'db-client test', preparedStatements: true, ...options },
  );
  handles.push(handle);
  return handle;
}

describe('prepared statements', () => {
  it('are named, and prepared once for each connection', async () => {
    const { db } = open();
    for (const id of [1, 2, 3]) await db.selectFrom('notes').select('text').where('id', '=', id).execute();
    const { rows } = await sql<{ name: string; uses: string }>`
      select name, generic_plans + custom_plans as uses from pg_prepared_statements where statement like 'select "text"%'`.execute(
      db,
    );
    expect(rows).toEqual([{ name: expect.stringMatching(/^[\w-]{22}$/) as unknown, uses: '3' }]);
  });

  it('are named even if their text begins with a line break', async () => {
    const { db } = open();
    await sql`
      select text from notes`.execute(db);
    const { rows } = await sql`select name from pg_prepared_statements where statement like '%from notes'`.execute(db);
    expect(rows).toHaveLength(1);
  });

  it('are not used if they are switched off', async () => {
    const { db } = open({}, { preparedStatements: false });
    await db.selectFrom('notes').select('text').where('id', '=', 1).execute();
    const { rows } = await sql`select name from pg_prepared_statements`.execute(db);
    expect(rows).toEqual([]);
  });

  describe('that a changed table has made invalid', () => {
    const backend = async (db: Kysely<Notes>): Promise<number> =>
      (await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(db)).rows[0]?.pid ?? 0;

    it('run again at once outside a transaction, and the connection is given up', async () => {
      const { db } = open();
      await sql`create table shapes (a integer)`.execute(db);
      await sql`insert into shapes values (1)`.execute(db);
      await sql`select * from shapes`.execute(db);
      const before = await backend(db);
      await sql`alter table shapes add column b integer`.execute(db);
      expect((await sql`select * from shapes`.execute(db)).rows).toEqual([{ a: 1, b: null }]);
      expect(await backend(db)).not.toBe(before);
    });

    it('write once if they write', async () => {
      const { db } = open();
      await sql`create table written (a integer)`.execute(db);
      const write = (): Promise<unknown> => sql`insert into written values (1) returning *`.execute(db);
      await write();
      await sql`alter table written add column b integer`.execute(db);
      await write();
      expect((await sql`select count(*)::int as rows from written`.execute(db)).rows).toEqual([{ rows: 2 }]);
    });

    it('fail a transaction, and transact runs the whole transaction again on another connection', async () => {
      const { db } = open();
      await sql`create table changing (a integer)`.execute(db);
      const work = async (trx: Kysely<Notes>): Promise<unknown> => {
        await sql`insert into changing values (1)`.execute(trx);
        return (await sql`select * from changing`.execute(trx)).rows;
      };
      await db.transaction().execute(work);
      await sql`alter table changing add column b integer`.execute(db);
      await expect(db.transaction().execute(work)).rejects.toMatchObject({ kind: 'unavailable', reason: '0A000' });
      // The connection of that transaction is gone, so another one is made to fail.
      await db.transaction().execute(work);
      await sql`alter table changing add column c integer`.execute(db);
      expect(await transact(db, work)).toHaveLength(3);
    });

    it('are on no other connection either when transact runs it again', async () => {
      const { db } = open({ max: 3 });
      await sql`create table outgrown (a integer)`.execute(db);
      const work = async (trx: Kysely<Notes>): Promise<unknown> =>
        (await sql`select * from outgrown`.execute(trx)).rows;
      const onEach = (run: (trx: Kysely<Notes>) => Promise<unknown>): Promise<unknown> => {
        let arrived = 0;
        let allArrived: () => void = () => undefined;
        const all = new Promise<void>((resolve) => (allArrived = resolve));
        const one = (): Promise<unknown> =>
          db.transaction().execute(async (trx) => {
            const answer = await run(trx);
            if ((arrived += 1) === 3) allArrived();
            await all;
            return answer;
          });
        return Promise.all([one(), one(), one()]);
      };
      await onEach(work);
      await sql`alter table outgrown add column b integer`.execute(db);
      // The second run of the first one must not meet a connection of the other two.
      expect(await transact(db, work)).toEqual([]);
      await onEach(work);
    });

    it('are not sent again by transact for any other error', async () => {
      const { db } = open();
      let runs = 0;
      const work = async (trx: Kysely<Notes>): Promise<void> => {
        runs += 1;
        await sql`select 1 / 0`.execute(trx);
      };
      await expect(transact(db, work)).rejects.toMatchObject({ code: '22012' });
      expect(runs).toBe(1);
    });
  });
});

describe('a prepared statement', () => {
  /** The values as pg itself reads them, for the comparison below. */
  const values = (db: Kysely<Notes>, text: string): Promise<unknown> =>
    sql`select id, ${text}::text as text, null::text as nothing, ${id}::bigint as big, array['a', null] as list,
      '{"a":1}'::jsonb as json, true as flag, 1.50::numeric as price, '2026-01-31 09:30:00.25+00'::timestamptz as at
      from generate_series(1, 2) id`
      .execute(db)
      .then(({ rows }) => rows);
  const id = 9_007_199_254_740_993n;

  it('answers each execution as the first, although the server describes only its columns', async () => {
    const { db } = open();
    const unprepared = open({}, { preparedStatements: false }).db;
    const expected = [1, 2].map((number) => ({
      id: number,
      text: 'it’s',
      nothing: null,
      big: '9007199254740993',
      list: ['a', null],
      json: { a: 1 },
      flag: true,
      price: '1.50',
      at: '2026-01-31T09:30:00.250Z',
    }));
    expect(await values(unprepared, 'it’s')).toEqual(expected);
    for (let execution = 0; execution < 3; execution += 1) expect(await values(db, 'it’s')).toEqual(expected);
  });

  it('reports the command and the number of its rows, with and without returned rows', async () => {
    const { db } = open();
    for (const number of [11, 12]) {
      const [inserted] = await db.insertInto('notes').values({ id: number, text: 'x' }).execute();
      expect(inserted?.numInsertedOrUpdatedRows).toBe(1n);
      expect(await db.deleteFrom('notes').where('id', '=', number).returning('id').execute()).toEqual([{ id: number }]);
      expect(await db.deleteFrom('notes').where('id', '=', number).returning('id').execute()).toEqual([]);
    }
  });

  it('with a value that cannot be encoded fails alone, and a time without an ISO form is a word', async () => {
    const { db } = open();
    const circular: Record<string, unknown> = {};
    circular['self'] = circular;
    const written = (value: unknown): Promise<unknown> => sql`select ${value}::jsonb as value`.execute(db);
    const read = (time: string): Promise<unknown> => sql`select ${time}::timestamptz as time`.execute(db);
    for (let execution = 0; execution < 2; execution += 1) {
      await expect(written(circular)).rejects.toThrow(TypeError);
      expect(await written({ a: 1 })).toMatchObject({ rows: [{ value: { a: 1 } }] });
      expect(await read('infinity')).toMatchObject({ rows: [{ time: 'infinity' }] });
      expect(await read('2026-01-31 09:30:00+00')).toMatchObject({ rows: [{ time: '2026-01-31T09:30:00.000Z' }] });
    }
  });

  it('that failed before it was described is described at the next execution', async () => {
    const { db } = open();
    const asNumber = (text: string): Promise<unknown> => sql`select ${text}::integer as number`.execute(db);
    await expect(asNumber('x')).rejects.toMatchObject({ code: '22P02' });
    expect(await asNumber('1')).toMatchObject({ rows: [{ number: 1 }] });
  });
});

describe('a connection', () => {
  it('is kept after a unique violation, even inside a transaction', async () => {
    const { db } = open();
    const pid = await backendOf(db);
    await db.insertInto('notes').values({ id: 10, text: 'first' }).execute();
    const again = db.insertInto('notes').values({ id: 10, text: 'second' });
    expect(violatedUniqueConstraint(await failureOf(again.execute()))).toBe('notes_pkey');
    const inTransaction = db
      .transaction()
      .execute((trx) => trx.insertInto('notes').values({ id: 10, text: 'third' }).execute());
    expect(violatedUniqueConstraint(await failureOf(inTransaction))).toBe('notes_pkey');
    expect(await backendOf(db)).toBe(pid);
  });

  it('is kept after a statement that the server ended at its timeout', async () => {
    const { db } = open({ timeout: 200 });
    const pid = await backendOf(db);
    const fault = await faultOf(sql`select pg_sleep(30)`.execute(db));
    expect(fault).toMatchObject({ kind: 'timeout', reason: '57014' });
    expect(await backendOf(db)).toBe(pid);
  });

  it('is closed after a statement that got no answer in time', async () => {
    const { db } = open({ timeout: 100 });
    const pid = await backendOf(db);
    // The role can remove the server's own timeout, and a server that hangs keeps none.
    await sql`set statement_timeout = 0`.execute(db);
    const fault = await faultOf(sql`select pg_sleep(30)`.execute(db));
    expect(fault).toMatchObject({ kind: 'timeout', reason: 'no answer' });
    expect(await backendOf(db)).not.toBe(pid);
  });

  it('is closed if its backend was killed', async () => {
    const lost: DatabaseFault[] = [];
    const { db } = open({}, { onConnectionLost: (fault) => lost.push(fault) });
    const pid = await backendOf(db);
    await kill(pid);
    await until(() => lost.length === 1);
    expect(lost[0]).toMatchObject({ kind: 'unavailable', reason: '57P01' });
    expect(await backendOf(db)).not.toBe(pid);
  });

  it('is given to no request if its backend is killed during the check, and the process survives', async () => {
    let proofs = 0;
    const { db } = open(
      {},
      {
        prove: async (query) => {
          const [row] = await query('select pg_backend_pid() as pid');
          proofs += 1;
          if (proofs > 1) return;
          await asSuperuser('postgres', (as) => sql`select pg_terminate_backend(${row?.['pid']}::integer)`.execute(as));
          await sleep(100);
        },
      },
    );
    await expect(db.selectFrom('notes').selectAll().execute()).rejects.toMatchObject({ kind: 'unavailable' });
    await expect(db.selectFrom('notes').selectAll().execute()).resolves.toBeInstanceOf(Array);
    expect(proofs).toBe(2);
  });
});

describe('a transaction', () => {
  const uncaught: unknown[] = [];
  const collect = (error: unknown): void => {
    uncaught.push(error);
  };
  beforeEach(() => {
    uncaught.length = 0;
    process.on('uncaughtException', collect);
    process.on('unhandledRejection', collect);
  });
  afterEach(() => {
    process.off('uncaughtException', collect);
    process.off('unhandledRejection', collect);
  });

  it('fails if its backend is killed between two statements, and the process survives', async () => {
    const { db } = open();
    const fault = await faultOf(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('notes').values({ id: 20, text: 'lost' }).execute();
        await kill(await backendOf(trx));
        await sleep(100);
        await trx.insertInto('notes').values({ id: 21, text: 'lost' }).execute();
      }),
    );
    expect(fault.kind).toBe('unavailable');
    expect(await idsFrom(db, 20, 21)).toEqual([]);
    expect(uncaught).toEqual([]);
  });

  it('is not acknowledged if its backend is killed before COMMIT', async () => {
    const { db } = open();
    const fault = await faultOf(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('notes').values({ id: 22, text: 'lost' }).execute();
        await kill(await backendOf(trx));
      }),
    );
    expect(fault.kind).toBe('unavailable');
    expect(await idsFrom(db, 22, 22)).toEqual([]);
    expect(uncaught).toEqual([]);
  });

  it('that got no answer in time takes no later write into itself', async () => {
    const { db } = open({ timeout: 100 });
    let first: unknown;
    const fault = await faultOf(
      db.transaction().execute(async (trx) => {
        await sql`set statement_timeout = 0`.execute(trx);
        await trx.insertInto('notes').values({ id: 30, text: 'of the failed transaction' }).execute();
        await sql`select pg_sleep(30)`.execute(trx).catch((error: unknown) => {
          first = error;
          throw error;
        });
      }),
    );
    expect(fault).toMatchObject({ kind: 'timeout', reason: 'no answer' });
    // Not the error of a ROLLBACK that waited for the same connection for the same time again.
    expect(fault).toBe(first);
    await db.insertInto('notes').values({ id: 31, text: 'acknowledged' }).execute();
    expect(await asSuperuser(database, (other) => idsFrom(other as Kysely<Notes>, 30, 31))).toEqual([31]);
  });

  it('is not acknowledged if its code ignored the error of a statement', async () => {
    const { db } = open();
    const pid = await backendOf(db);
    const fault = await faultOf(
      db.transaction().execute(async (trx) => {
        await trx.insertInto('notes').values({ id: 40, text: 'lost' }).execute();
        await sql`select 1 / 0`.execute(trx).catch(() => undefined);
      }),
    );
    expect(fault.reason).toBe('the transaction had failed and was rolled back');
    expect(await idsFrom(db, 40, 40)).toEqual([]);
    expect(await backendOf(db)).not.toBe(pid);
  });

  it('is not acknowledged if its code ignored the loss of the connection', async () => {
    const { db } = open();
    const fault = await faultOf(
      db.transaction().execute(async (trx) => {
        await kill(await backendOf(trx));
        await trx
          .insertInto('notes')
          .values({ id: 41, text: 'lost' })
          .execute()
          .catch(() => undefined);
      }),
    );
    expect(fault.kind).toBe('unavailable');
    expect(uncaught).toEqual([]);
  });
});

describe('a wait for a connection', () => {
  it('ends if no connection becomes free in time', async () => {
    const { db } = open({ acquireTimeout: 200 });
    const held = hold(db);
    await held.taken;
    expect(await faultOf(backendOf(db))).toMatchObject({ kind: 'busy', reason: 'no connection became free in time' });
    await held.release();
    await backendOf(db);
  });

  it('is refused at once beyond the bound of the queue, and the requests in the queue still wait', async () => {
    const pool = open({ acquireTimeout: 20_000 });
    const { db } = pool;
    const held = hold(db);
    await held.taken;
    const waiting = Array.from({ length: 100 }, () => backendOf(db));
    await until(() => pool.stats().waiting === 100);
    expect(await faultOf(backendOf(db))).toMatchObject({
      kind: 'busy',
      reason: 'too many requests wait for a connection',
    });
    expect(pool.stats().waiting).toBe(100);
    await held.release();
    expect(new Set(await Promise.all(waiting)).size).toBe(1);
  });
});

describe('close', () => {
  it('lets running statements finish within the deadline', async () => {
    const pool = open({ max: 2 });
    const { db } = pool;
    const slow = sql<{ done: boolean }>`select true as done from pg_sleep(0.3)`.execute(db);
    await backendOf(db);
    await pool.close(20_000);
    expect((await slow).rows).toEqual([{ done: true }]);
  });

  it('ends a statement that runs beyond the deadline, and its session on the server', async () => {
    const pool = open();
    const { db } = pool;
    const pid = await backendOf(db);
    const stuck = failureOf(sql`select pg_sleep(600)`.execute(db));
    await pool.close(100);
    expect(await stuck).toMatchObject({ kind: 'unavailable' });
    expect(pool.stats()).toEqual({ total: 0, idle: 0, unknown: 0, waiting: 0 });
    await until(async () => !(await isRunning(pid)), 15_000);
  });

  it('does not wait for a transaction that sends nothing', async () => {
    const pool = open();
    const { db } = pool;
    const held = hold(db);
    const pid = await held.taken;
    await pool.close(100);
    await until(async () => !(await isRunning(pid)), 15_000);
    expect((await faultOf(held.release())).reason).toBe('the pool was closed');
  });

  it('makes the pool give out no connection, and can be called again', async () => {
    const pool = open();
    const { db } = pool;
    await backendOf(db);
    await Promise.all([pool.close(1_000), pool.close(0)]);
    expect((await faultOf(backendOf(db))).kind).toBe('unavailable');
  });
});

describe('a server that cannot be reached is reported as unavailable, without the password:', () => {
  const password = 'canary-password-of-the-client-test';
  it.each<[string, Partial<ConnectionSettings>, string]>([
    ['a wrong password', {}, '28P01'],
    ['an unknown role', { user: 'nobody_of_that_name' }, '28P01'],
    ['an unknown host', { host: 'nowhere.invalid' }, 'E'],
    ['a refused port', { port: 1 }, 'ECONNREFUSED'],
  ])('%s', async (_what, where, reason) => {
    const { db } = open({ acquireTimeout: 10_000 }, { where: { ...where, password } });
    const fault = await faultOf(backendOf(db));
    expect(fault.kind).toBe('unavailable');
    expect(fault.reason).toMatch(new RegExp(`^${reason}`));
    expect(inspect(fault, { depth: 20, showHidden: true })).not.toContain(password);
  });

  it('an unknown database', async () => {
    const { db } = open({}, { where: { database: 'no_database_of_that_name' } });
    const fault = await faultOf(backendOf(db));
    expect(fault).toMatchObject({ kind: 'unavailable', reason: '3D000' });
    expect(inspect(fault, { depth: 20, showHidden: true })).not.toContain(connection.password);
  });

  it('and the printed pool shows no password either', () => {
    expect(inspect(open({}, { where: { password } }), { depth: 20, showHidden: true })).not.toContain(password);
  });
});

function backendOf(db: Kysely<Notes>): Promise<number> {
  return sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(db).then(({ rows }) => rows[0]?.pid ?? NaN);
}

async function idsFrom(db: Kysely<Notes>, first: number, last: number): Promise<number[]> {
  const rows = await db
    .selectFrom('notes')
    .select('id')
    .where('id', '>=', first)
    .where('id', '<=', last)
    .orderBy('id')
    .execute();
  return rows.map(({ id }) => id);
}

/** Keeps a connection in an open transaction until `release`. */
function hold(db: Kysely<Notes>): { taken: Promise<number>; release: () => Promise<void> } {
  let taken: (pid: number) => void = () => undefined;
  let letGo: () => void = () => undefined;
  const released = new Promise<void>((resolve) => (letGo = resolve));
  const isTaken = new Promise<number>((resolve) => (taken = resolve));
  const transaction = db.transaction().execute(async (trx) => {
    taken(await backendOf(trx));
    await released;
  });
  transaction.catch(() => undefined);
  onTestFinished(() => {
    letGo();
  });
  return {
    taken: isTaken,
    release: () => {
      letGo();
      return transaction;
    },
  };
}

async function kill(pid: number): Promise<void> {
  await asSuperuser(database, (db) => sql`select pg_terminate_backend(${pid}, 5000)`.execute(db));
}

async function isRunning(pid: number): Promise<boolean> {
  const { rows } = await asSuperuser(database, (db) =>
    sql`select from pg_stat_activity where pid = ${pid}`.execute(db),
  );
  return rows.length > 0;
}

async function failureOf(work: Promise<unknown>): Promise<unknown> {
  return work.then(
    () => expect.fail('it did not fail'),
    (error: unknown) => error,
  );
}

async function faultOf(work: Promise<unknown>): Promise<DatabaseFault> {
  const error = await failureOf(work);
  expect(error).toBeInstanceOf(DatabaseFault);
  return error as DatabaseFault;
}

async function until(holds: () => boolean | Promise<boolean>, within = 10_000): Promise<void> {
  const deadline = Date.now() + within;
  while (!(await holds())) {
    if (Date.now() > deadline) throw new Error(`Not within ${within} ms`);
    await sleep(20);
  }
}
