// Two replicas share a tenant whose role may have one connection. The replica that has none waits for it, and must not ask the
// server all the time. A proxy counts the connections that are asked for.
import { randomBytes } from 'node:crypto';
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { beforeAll, expect, inject, it, onTestFinished } from 'vitest';
import { openPool, type ConnectionSettings } from '../../db/driver/client.js';
import type { ConnectionPool } from '../../db/driver/pool/pool.js';
import { createGovernor } from '../../src/connections/governor.js';
import type { Governor } from '../../src/connections/governor-types.js';
import { asSuperuser, createRegistry } from '../support/app.js';
import { startProxy, type Proxy } from '../support/proxy.js';

const LIMITS = { max: 5, acquireTimeout: 4_000, timeout: 4_000, idleTimeoutMillis: 30_000 };

let connection: ConnectionSettings;

beforeAll(async () => {
  const database = await createRegistry();
  const { superuser } = inject('cluster');
  const user = `limited_${randomBytes(6).toString('hex')}`;
  const password = randomBytes(16).toString('hex');
  connection = { ...superuser, user, password, database };
  await asSuperuser(database, async (db) => {
    await sql`create role ${sql.id(user)} login password ${sql.lit(password)} connection limit 1`.execute(db);
    await sql`grant connect on database ${sql.id(database)} to ${sql.id(user)}`.execute(db);
  });
});

/** One replica: its proxy to the server, its governor and the tenant's pool. */
async function startReplica(): Promise<{ proxy: Proxy; governor: Governor; pool: ConnectionPool }> {
  const proxy = await startProxy(connection);
  const governor = createGovernor({ slots: 8 });
  const pool = openPool({ ...connection, host: proxy.host, port: proxy.port }, LIMITS, {
    applicationName: 'role limit test',
    preparedStatements: true,
    lane: true,
    sharesLimit: true,
    admit: (closeIdle) => governor.join('tenant', closeIdle),
  });
  onTestFinished(async () => {
    await pool.close(0);
    governor.close();
    await proxy.close();
  });
  return { proxy, governor, pool };
}

it('a replica waits for the connection of the other with one opener, with pauses, and without a slot', async () => {
  const [holder, waiter] = [await startReplica(), await startReplica()];
  const held = await holder.pool.connect();
  const answers = Promise.all([
    ...Array.from({ length: 10 }, () => waiter.pool.run<{ one: number }>('select 1 as one', [])),
    ...Array.from({ length: 10 }, () => waiter.pool.read<{ one: number }>('select 1 as one', [])),
  ]);
  answers.catch(() => undefined);
  let most = 0;
  let withoutSlot = 0;
  for (let look = 0; look < 200; look += 1) {
    most = Math.max(most, look < 20 ? 0 : waiter.proxy.open);
    if (waiter.governor.stats().used === 0) withoutSlot += 1;
    await sleep(10);
  }
  // The first requests come together: each of them learns of the limit. Then pauses of 25, 50 … 500 ms on average follow.
  expect(waiter.proxy.accepted).toBeGreaterThan(LIMITS.max);
  expect(waiter.proxy.accepted).toBeLessThan(LIMITS.max + 15);
  expect(most).toBeLessThanOrEqual(1);
  expect(withoutSlot).toBeGreaterThan(100);

  held.release();
  await holder.pool.close(1_000);
  expect((await answers).flat()).toEqual(Array.from({ length: 20 }, () => ({ one: 1 })));
});

it('a request that waits in vain fails at its deadline, and the next one is served as soon as there is room', async () => {
  const [holder, waiter] = [await startReplica(), await startReplica()];
  const held = await holder.pool.connect();
  await expect(waiter.pool.connect(performance.now() + 500)).rejects.toMatchObject({
    name: 'DatabaseFault',
    reason: '53300',
  });
  held.release();
  await holder.pool.close(1_000);
  expect(await waiter.pool.run('select 1 as one', [])).toEqual([{ one: 1 }]);
  expect(waiter.governor.stats()).toMatchObject({ used: 1, unknown: 0, waiting: 0 });
});
