// The lane: short reads share one pipelined connection. They must not wait for each other, fail for each other, or hang with a
// server that hangs.
import { sql, type Kysely } from 'kysely';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { createDatabase, type ConnectionSettings, type DatabaseHandle } from '../../db/driver/client.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import type { PoolLimits, PoolOptions } from '../../db/driver/pool/pool-types.js';
import { shortRead, statement } from '../../db/driver/statement.js';
import { createGovernor } from '../../src/connections/governor.js';
import { asSuperuser, createRegistry } from '../support/app.js';
import { startProxy, type Proxy } from '../support/proxy.js';

interface Notes {
  notes: { id: number; text: string };
}

const NAME = 'lane test';
const LIMITS: PoolLimits = { max: 3, acquireTimeout: 5_000, timeout: 10_000, idleTimeoutMillis: 10_000 };

const noteById = shortRead((db: Kysely<Notes>, { id }: { id: number }) =>
  db.selectFrom('notes').select(['id', 'text']).where('id', '=', id),
);
const addNote = statement((db: Kysely<Notes>, note: { id: number; text: string }) =>
  db.insertInto('notes').values({ id: note.id, text: note.text }).returning('id'),
);
/** Declared as a short read by mistake. */
const slowRead = shortRead((db: Kysely<Notes>, { seconds }: { seconds: number }) =>
  db.selectNoFrom(sql<number>`(select 1 from pg_sleep(${seconds}))`.as('done')),
);
const failingRead = shortRead((db: Kysely<Notes>, { by }: { by: number }) =>
  db.selectNoFrom(sql<number>`1 / ${by}::integer`.as('quotient')),
);

let connection: ConnectionSettings;
const opened: DatabaseHandle<Notes>[] = [];
const proxies: Proxy[] = [];

beforeAll(async () => {
  const database = await createRegistry();
  const { superuser, registryOwner } = inject('cluster');
  connection = { ...superuser, ...registryOwner, database };
  const { db } = open();
  await db.schema
    .createTable('notes')
    .addColumn('id', 'integer', (id) => id.primaryKey())
    .addColumn('text', 'text')
    .execute();
  await sql`insert into notes select n, 'note ' || n from generate_series(1, 1000) n`.execute(db);
});
afterEach(async () => {
  await Promise.all(opened.splice(0).map((handle) => handle.close(0)));
  await Promise.all(proxies.splice(0).map((proxy) => proxy.close()));
});

function open(
  limits: Partial<PoolLimits> = {},
  where: Partial<ConnectionSettings> = {},
  further: Partial<PoolOptions> = {},
): DatabaseHandle<Notes> {
  const options = { applicationName: NAME, preparedStatements: true, lane: true, ...further };
  const handle = createDatabase<Notes>({ ...connection, ...where }, { ...LIMITS, ...limits }, options);
  opened.push(handle);
  return handle;
}

async function openThroughProxy(
  further?: Partial<PoolOptions>,
): Promise<{ handle: DatabaseHandle<Notes>; proxy: Proxy }> {
  const proxy = await startProxy(connection);
  proxies.push(proxy);
  return { handle: open({}, { host: proxy.host, port: proxy.port }, further), proxy };
}

/** The faults that a pool reports. */
function reported(): { readonly faults: string[] } & Required<Pick<PoolOptions, 'onOutcome'>> {
  const faults: string[] = [];
  return { faults, onOutcome: (fault) => fault && faults.push(fault.reason) };
}

/** Waits until the lane is open. */
async function warm({ db }: DatabaseHandle<Notes>): Promise<void> {
  await noteById(db, { id: 1 });
}

describe('short reads', () => {
  it('share one connection, however many come at once, and each gets its own rows', async () => {
    const handle = open();
    const ids = Array.from({ length: 400 }, (_, index) => index + 1);
    const found = await Promise.all(ids.map((id) => noteById(handle.db, { id })));
    expect(found).toEqual(ids.map((id) => [{ id, text: `note ${id}` }]));
    expect(handle.stats()).toEqual({ total: 1, idle: 1, unknown: 0, waiting: 0 });
  });

  it('see earlier writes', async () => {
    const { db } = open();
    await Promise.all(
      Array.from({ length: 50 }, async (_, index) => {
        const id = 2_000 + index;
        await addNote(db, { id, text: 'written' });
        expect(await noteById(db, { id })).toEqual([{ id, text: 'written' }]);
      }),
    );
  });

  it('run inside the transaction that calls them', async () => {
    const { db } = open();
    await db.transaction().execute(async (trx) => {
      await addNote(trx, { id: 3_000, text: 'not committed' });
      expect(await noteById(trx, { id: 3_000 })).toHaveLength(1);
      expect(await noteById(db, { id: 3_000 })).toEqual([]);
    });
    expect(await noteById(db, { id: 3_000 })).toHaveLength(1);
  });

  it('use no lane if the pool has one connection only', async () => {
    const handle = open({ max: 1 });
    await Promise.all([noteById(handle.db, { id: 1 }), addNote(handle.db, { id: 4_000, text: 'alone' })]);
    expect(handle.stats()).toEqual({ total: 1, idle: 1, unknown: 0, waiting: 0 });
  });

  it('fail without affecting each other', async () => {
    const { db } = open();
    const [first, failed, last] = await Promise.allSettled([
      noteById(db, { id: 1 }),
      failingRead(db, { by: 0 }),
      noteById(db, { id: 2 }),
    ]);
    expect([first.status, failed.status, last.status]).toEqual(['fulfilled', 'rejected', 'fulfilled']);
    expect(failed).toMatchObject({ reason: { code: '22012' } });
  });

  it('close the lane after the idle time', async () => {
    const handle = open({ idleTimeoutMillis: 200 });
    await warm(handle);
    expect(handle.stats().total).toBe(1);
    await expect.poll(() => handle.stats().total, { timeout: 30_000 }).toBe(0);
    await warm(handle);
  });
});

describe('a statement that is too slow for the lane', () => {
  it('is answered, delays other reads by the lane’s deadline at most, and uses another connection from then on', async () => {
    const handle = open();
    await warm(handle);
    const slow = slowRead(handle.db, { seconds: 2 });
    let slowIsDone = false;
    void slow.then(() => (slowIsDone = true));
    await Promise.all(Array.from({ length: 20 }, (_, index) => noteById(handle.db, { id: index + 1 })));
    expect(slowIsDone).toBe(false);
    expect(await slow).toEqual([{ done: 1 }]);

    const again = slowRead(handle.db, { seconds: 1 });
    // Sent on a connection of its own from the start: the lane does not wait.
    expect(handle.stats().idle).toBeGreaterThan(0);
    await warm(handle);
    expect(await again).toEqual([{ done: 1 }]);
  });

  it('fails no other read, even if a hundred of its kind run, prepared or not', async () => {
    for (const prepared of [true, false]) {
      const handle = open({ acquireTimeout: 10_000 });
      if (prepared) await warm(handle);
      else await slowRead(handle.db, { seconds: 0 });
      const { release, lock } = await lockNotes();
      const begun = performance.now();
      const reads = Promise.all(Array.from({ length: 100 }, (_, index) => noteById(handle.db, { id: index + 1 })));
      await expect.poll(() => handle.stats().waiting, { timeout: 30_000 }).toBeGreaterThan(50);
      // A hundred lock timeouts, one after the other, would take ten seconds.
      expect(performance.now() - begun).toBeLessThan(3_000);
      release();
      await lock;
      expect((await reads).map(([note]) => note?.id)).toEqual(Array.from({ length: 100 }, (_, index) => index + 1));
    }
  });

  it('because of a lock waits on another connection, for as long as a statement may', async () => {
    const handle = open();
    await warm(handle);
    const { release, lock } = await lockNotes();
    const waiting = noteById(handle.db, { id: 1 });
    // A statement that needs no lock is answered meanwhile.
    expect(await slowRead(handle.db, { seconds: 0 })).toEqual([{ done: 1 }]);
    await sleep(500);
    release();
    await lock;
    expect(await waiting).toEqual([{ id: 1, text: 'note 1' }]);
  });
});

describe('reads that together take too long', () => {
  it('use separate connections: the first ones at once, and later ones when this is known', async () => {
    const handle = open({ max: 5, acquireTimeout: 20_000 });
    await warm(handle);
    for (const _ of ['not known yet', 'known']) {
      const reads = Promise.all(Array.from({ length: 20 }, () => slowRead(handle.db, { seconds: 0.3 })));
      await expect.poll(() => handle.stats().total, { timeout: 30_000 }).toBeGreaterThanOrEqual(4);
      expect(await reads).toEqual(Array.from({ length: 20 }, () => [{ done: 1 }]));
    }
  });

  it('keep no short read from the lane afterwards', async () => {
    const handle = open({ max: 5 });
    await warm(handle);
    await Promise.all(Array.from({ length: 10 }, () => slowRead(handle.db, { seconds: 0.3 })));
    // The lane is open again, and every other connection is closed.
    await warm(handle);
    const before = handle.stats();
    await Promise.all(Array.from({ length: 100 }, (_, index) => noteById(handle.db, { id: index + 1 })));
    expect(handle.stats()).toEqual(before);
  });
});

describe('a lane that holds the only connection', () => {
  interface Load {
    /** The number of answered reads. */
    readonly answered: number;
    stop(): Promise<void>;
  }

  /** Reads without a pause, twenty at a time: each takes a moment, so that they are not answered together. */
  function readWithoutPause({ db }: DatabaseHandle<Notes>): Load {
    let answered = 0;
    let stopped = false;
    const readers = Array.from({ length: 20 }, async () => {
      while (!stopped) {
        expect(await slowRead(db, { seconds: 0.001 })).toEqual([{ done: 1 }]);
        answered += 1;
      }
    });
    return {
      get answered() {
        return answered;
      },
      async stop() {
        stopped = true;
        await Promise.all(readers);
      },
    };
  }

  async function expectTurns(handle: DatabaseHandle<Notes>, firstId: number): Promise<void> {
    await warm(handle);
    const load = readWithoutPause(handle);
    try {
      for (let id = firstId; id < firstId + 4; id += 1) {
        const before = load.answered;
        expect(await addNote(handle.db, { id, text: 'in turn' })).toEqual([{ id }]);
        await expect.poll(() => load.answered).toBeGreaterThan(before + 20);
      }
    } finally {
      await load.stop();
    }
  }

  it('of its budget gives the connection to the writes of its own tenant, and reads continue between them', async () => {
    const governor = createGovernor({ slots: 1 });
    const admit: PoolOptions['admit'] = (closeIdle) => governor.join('tenant', closeIdle);
    await expectTurns(open({ max: 3, acquireTimeout: 2_000 }, {}, { admit }), 5_000);
    expect(governor.stats()).toMatchObject({ highestUsed: 1, timedOut: 0 });
  });

  it.each([
    ['and the pool knows that', true],
    ['and the pool does not know that', false],
  ])('that its role may have gives the connection to the writes of its own tenant, %s', async (_what, sharesLimit) => {
    const role = `lane_${randomBytes(6).toString('hex')}`;
    const password = randomBytes(16).toString('hex');
    await asSuperuser(connection.database, async (db) => {
      await sql`create role ${sql.id(role)} login password ${sql.lit(password)} connection limit 1`.execute(db);
      await sql`grant connect on database ${sql.id(connection.database)} to ${sql.id(role)}`.execute(db);
      await sql`grant select, insert on notes to ${sql.id(role)}`.execute(db);
    });
    const handle = open({ max: 3, acquireTimeout: 2_000 }, { user: role, password }, { sharesLimit });
    await expectTurns(handle, sharesLimit ? 5_100 : 5_200);
  });
});

/** Locks the table until it is released, or the test is over; `lock` resolves when it is free again. */
async function lockNotes(): Promise<{ release: () => void; lock: Promise<void> }> {
  let release: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (release = resolve));
  let isLocked: () => void = () => undefined;
  const locked = new Promise<void>((resolve) => (isLocked = resolve));
  const lock = asSuperuser(connection.database, (db) =>
    db.transaction().execute(async (trx) => {
      await sql`lock table notes in access exclusive mode`.execute(trx);
      isLocked();
      await held;
    }),
  );
  onTestFinished(release);
  await Promise.race([locked, lock]);
  return { release, lock };
}

describe('a lane that is lost', () => {
  it('because its backend was ended fails its running reads, and is replaced', async () => {
    const handle = open();
    await warm(handle);
    const underWay = Promise.allSettled([slowRead(handle.db, { seconds: 5 }), noteById(handle.db, { id: 1 })]);
    await asSuperuser('postgres', (db) =>
      sql`select pg_terminate_backend(pid) from pg_stat_activity
        where application_name = ${NAME} and datname = ${connection.database}`.execute(db),
    );
    for (const outcome of await underWay) {
      expect(outcome.status).toBe('rejected');
      expect((outcome as PromiseRejectedResult).reason).toMatchObject({ name: 'DatabaseFault', kind: 'unavailable' });
    }
    await expect.poll(() => noteById(handle.db, { id: 1 }), { timeout: 30_000 }).toHaveLength(1);
  });

  it.each([
    ['because its backend was ended', '57P01'],
    ['in a black hole', 'no answer'],
  ])('%s counts as one failure, however many reads ran on it', async (how, reason) => {
    const { faults, onOutcome } = reported();
    const { handle, proxy } = await openThroughProxy({ onOutcome });
    await warm(handle);
    proxy.mode = 'hang';
    const underWay = Promise.allSettled([1, 2, 3, 4].map((id) => noteById(handle.db, { id })));
    if (reason === '57P01') {
      await asSuperuser('postgres', (db) =>
        sql`select pg_terminate_backend(pid) from pg_stat_activity
          where application_name = ${NAME} and datname = ${connection.database}`.execute(db),
      );
      proxy.mode = 'pass';
    }
    const outcomes = await underWay;
    expect(outcomes.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected', 'rejected']);
    expect(faults, how).toEqual([reason]);
  });

  it('in a black hole is cut within two seconds, its connection is closed, and the next one works', async () => {
    const { handle, proxy } = await openThroughProxy();
    await warm(handle);
    proxy.mode = 'hang';
    const begun = performance.now();
    const lost = await Promise.allSettled([1, 2, 3].map((id) => noteById(handle.db, { id })));
    expect(performance.now() - begun).toBeLessThan(2_500);
    for (const outcome of lost)
      expect((outcome as PromiseRejectedResult).reason).toEqual(new DatabaseFault('timeout', 'no answer'));
    await expect.poll(() => handle.stats().total, { timeout: 3_000 }).toBe(0);
    proxy.mode = 'pass';
    await expect.poll(() => noteById(handle.db, { id: 1 }).catch(() => []), { timeout: 30_000 }).toHaveLength(1);
  });

  it('that cannot be opened fails the reads that wait for it, and the next read tries again', async () => {
    const { handle, proxy } = await openThroughProxy();
    proxy.mode = 'refuse';
    const failed = await Promise.allSettled([1, 2, 3].map((id) => noteById(handle.db, { id })));
    for (const outcome of failed)
      expect((outcome as PromiseRejectedResult).reason).toMatchObject({ name: 'DatabaseFault', kind: 'unavailable' });
    expect(proxy.accepted).toBe(1);
    proxy.mode = 'pass';
    await warm(handle);
  });

  it('is replaced after a table was changed', async () => {
    const handle = open();
    const shapes = shortRead((db: Kysely<Notes>, { one }: { one: number }) =>
      db.selectNoFrom(
        sql<string>`(select row_to_json(shape)::text from (select * from shapes) shape where ${one}::int = 1)`.as(
          'row',
        ),
      ),
    );
    await sql`create table shapes (a integer)`.execute(handle.db);
    await sql`insert into shapes values (1)`.execute(handle.db);
    expect(await shapes(handle.db, { one: 1 })).toEqual([{ row: '{"a":1}' }]);
    await sql`alter table shapes add column b integer`.execute(handle.db);
    expect(await shapes(handle.db, { one: 1 })).toEqual([{ row: '{"a":1,"b":null}' }]);
  });

  it('is replaced once after a result type was changed, without a warning, however many reads run on it', async () => {
    const handle = open();
    const typed = shortRead((db: Kysely<Notes>, { one }: { one: number }) =>
      db.selectNoFrom(sql`(select a from typed where a::text = ${one}::integer::text)`.as('a')),
    );
    await sql`create table typed (a integer)`.execute(handle.db);
    await sql`insert into typed values (1)`.execute(handle.db);
    expect(await typed(handle.db, { one: 1 })).toEqual([{ a: 1 }]);
    const warnings: Error[] = [];
    const collect = (warning: Error): number => warnings.push(warning);
    process.on('warning', collect);
    onTestFinished(() => {
      process.off('warning', collect);
    });
    await sql`alter table typed alter column a type text`.execute(handle.db);
    // On the lane each of these is answered 0A000.
    const found = await Promise.all(Array.from({ length: 30 }, () => typed(handle.db, { one: 1 })));
    expect(new Set(found.map(([row]) => row?.a))).toEqual(new Set(['1']));
    await sleep(10);
    expect(warnings).toEqual([]);
  });
});

describe('closing a pool', () => {
  it('lets running reads on the lane finish', async () => {
    const handle = open();
    await warm(handle);
    const reading = Promise.all(Array.from({ length: 50 }, (_, index) => noteById(handle.db, { id: index + 1 })));
    await handle.close(5_000);
    expect(await reading).toHaveLength(50);
    expect(handle.stats().total).toBe(0);
  });
});
