// The waits of requests in a pool (db/driver/pool/pool.ts): never longer than acquireTimeout, and none that the pool can avoid.
import { sql } from 'kysely';
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, expect, inject, it, onTestFinished } from 'vitest';
import { openPool, type ConnectionSettings } from '../../db/driver/client.js';
import type { ConnectionPool } from '../../db/driver/pool/pool.js';
import type { PoolLimits, PoolOptions } from '../../db/driver/pool/pool-types.js';
import type { Membership, Slot } from '../../db/driver/pool/slot.js';
import { asSuperuser, createRegistry } from '../support/app.js';
import { startStatementProxy } from '../support/statement-proxy.js';

const LIMITS = { max: 2, acquireTimeout: 5_000, timeout: 10_000, idleTimeoutMillis: 60_000 };

let connection: ConnectionSettings;

beforeAll(async () => {
  const database = await createRegistry();
  const { superuser, registryOwner } = inject('cluster');
  connection = { ...superuser, ...registryOwner, database };
});

function open(
  where: Partial<ConnectionSettings> = {},
  limits: Partial<PoolLimits> = {},
  options: Partial<PoolOptions> = {},
): ConnectionPool {
  const pool = openPool(
    { ...connection, ...where },
    { ...LIMITS, ...limits },
    { applicationName: 'pool waits test', preparedStatements: true, lane: true, ...options },
  );
  onTestFinished(() => pool.close(0));
  return pool;
}

const nothing = (): void => undefined;

/** Slots of a server that never reports whether a backend is gone. */
const SLOT: Slot = { reached: nothing, closing: nothing, release: nothing, orphan: nothing };

/** Slots of a server with enough connections. */
function slots(changed: Partial<Membership> = {}): Pick<PoolOptions, 'admit'> {
  const membership = {
    tryOpen: () => SLOT,
    open: () => Promise.resolve(SLOT),
    idle: nothing,
    mustYield: () => false,
    leave: nothing,
  };
  return { admit: () => ({ ...membership, ...changed }) };
}

it('a pool keeps its lane for reads while unknown backends hold all other places', async () => {
  const pool = open({}, { acquireTimeout: 600 }, slots());
  const cut = await pool.connect();
  cut.client.cut();
  cut.release();
  await expect.poll(() => pool.stats().unknown).toBe(1);
  const readOn = async (): Promise<void> => {
    for (let count = 0; count < 20; count += 1) await pool.read('select pg_sleep(0.01)', []);
  };
  const [first] = await pool.read('select pg_backend_pid() as pid', []);
  const write = pool.run('select 1', []).catch((error: unknown) => error);
  // Several at a time, so that the lane is always in use.
  await Promise.all([readOn(), readOn(), readOn()]);
  expect(await pool.read('select pg_backend_pid() as pid', [])).toEqual([first]);
  expect(await write).toMatchObject({ kind: 'busy' });
});

it('a pool tries again for a waiting request after a role’s limit refused a connection a second ago', async () => {
  const role = `limited_${randomBytes(4).toString('hex')}`;
  const password = randomBytes(8).toString('hex');
  await asSuperuser(connection.database, async (db) => {
    await sql`create role ${sql.id(role)} login connection limit 2 password ${sql.lit(password)}`.execute(db);
    await sql`grant connect on database ${sql.id(connection.database)} to ${sql.id(role)}`.execute(db);
  });
  const who = { user: role, password };
  const other = open(who, {}, { lane: false });
  const pool = open(who, {}, { lane: false });
  await other.run('select 1', []);
  const held = await pool.connect();
  const waits = pool.run('select 2', []);
  await sleep(200);
  await other.close(0);
  await expect(waits).resolves.toHaveLength(1);
  held.release();
});

it('a read that waits for a lane fails after acquireTimeout, which includes the wait for a slot', async () => {
  const proxy = await startStatementProxy(connection);
  onTestFinished(() => proxy.close());
  proxy.onStatement = () => new Promise(() => undefined);
  const prove: PoolOptions['prove'] = async (query) => {
    await query('select 1');
  };
  const late = {
    tryOpen: () => undefined,
    open: () => sleep(600).then(() => SLOT),
  };
  const pool = open({ host: proxy.host, port: proxy.port }, { acquireTimeout: 1_000 }, { prove, ...slots(late) });
  let answered = false;
  const read = pool.read('select 1', []).catch((error: unknown) => {
    answered = true;
    return error;
  });
  await sleep(1_300);
  expect(answered).toBe(true);
  expect(await read).toMatchObject({ kind: 'busy', reason: 'no connection was opened in time' });
});

it('a pool gives up at most one connection a second to test whether a read-only server accepts writes again', async () => {
  let free = true;
  const few = { tryOpen: () => (free ? SLOT : undefined), open: () => new Promise<Slot>(nothing) };
  const prove: PoolOptions['prove'] = () => Promise.resolve({ readOnly: true });
  const pool = open({}, { max: 6 }, { lane: false, prove, ...slots(few) });
  const busy = await Promise.all(Array.from({ length: 5 }, () => pool.connect()));
  free = false;
  await sleep(1_900);
  expect(busy.filter(({ retired }) => retired)).toHaveLength(1);
  for (const session of busy) session.release();
});
