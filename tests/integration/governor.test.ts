// The governor between real pools and a real server: more pools than connections, all of them busy, in one process and in
// several that share the slots by leases.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, inject, it, onTestFinished } from 'vitest';
import { createDatabase, databaseOver, openPool, type ConnectionSettings } from '../../db/driver/client.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { Governor } from '../../src/connections/governor-types.js';
import { createGovernor } from '../../src/connections/governor.js';
import { createSlotLeases } from '../../src/connections/slot-leases.js';
import { asSuperuser, createRegistry } from '../support/app.js';

const SLOTS = 3;
const TENANTS = 8;
const LIMITS = { max: 3, acquireTimeout: 10_000, timeout: 10_000, idleTimeoutMillis: 10_000 };

/** As many replicas as there are governors; `SLOTS` are what they have together. */
function leasingGovernors(replicas: number, registry: ConnectionSettings): Governor[] {
  return Array.from({ length: replicas }, (_, index) => {
    const handle = createDatabase<Registry>(registry, LIMITS, {
      applicationName: 'replica',
      preparedStatements: false,
    });
    const leases = createSlotLeases({
      registry: handle.db,
      replicaId: `replica ${index}`,
      budget: () => ({ tenants: SLOTS, reserve: 0 }),
      openConnections: async () => Promise.reject(new Error('nobody dies here')),
      onError: (error) => {
        throw error;
      },
      timing: { renewEvery: 100 },
    });
    onTestFinished(async () => {
      await leases.close();
      await handle.close(0);
    });
    return createGovernor({ slots: leases.source('cluster', 'tenants') });
  });
}

it.each([
  ['on connections of their own', false, 0],
  ['with a lane for reads', true, 0],
  ['in two replicas', true, 2],
])('pools share a budget that is too small, and never exceed it on the server: %s', async (_, lane, replicas) => {
  const { superuser, registryOwner } = inject('cluster');
  const connection = { ...superuser, ...registryOwner, database: await createRegistry() };
  const governors = replicas === 0 ? [createGovernor({ slots: SLOTS })] : leasingGovernors(replicas, connection);
  const applicationName = `governor test ${lane} ${replicas}`;
  const pools = Array.from({ length: TENANTS }, (_unused, index) => {
    const governor = governors[index % governors.length] ?? expect.unreachable();
    const pool = openPool(connection, LIMITS, {
      applicationName,
      preparedStatements: true,
      lane,
      admit: (closeIdle) => governor.join(`t${index}`, closeIdle),
    });
    return { pool, db: databaseOver<object>(() => pool) };
  });

  let done = false;
  const seen: number[] = [];
  const watch = asSuperuser('postgres', async (db) => {
    while (!done) {
      const { rows } = await sql<{ n: number }>`
        select count(*)::int as n from pg_stat_activity where application_name = ${applicationName}`.execute(db);
      seen.push(...rows.map(({ n }) => n));
      await sleep(5);
    }
  });

  const users = pools.flatMap(({ pool, db }) =>
    Array.from({ length: 4 }, async () => {
      let answers = 0;
      for (let request = 0; request < 8; request += 1) {
        const [row] = await pool.read<{ one: number }>('select 1 as one', []);
        answers += row?.one ?? 0;
        await db.transaction().execute(async (trx) => {
          const { rows } = await sql<{ one: number }>`select 1 as one`.execute(trx);
          answers += rows[0]?.one ?? 0;
        });
      }
      return answers;
    }),
  );
  try {
    expect(new Set(await Promise.all(users))).toEqual(new Set([16]));
  } finally {
    done = true;
    await watch;
    await Promise.all(pools.map(({ pool }) => pool.close(0)));
  }
  // The governor's own count shows that all of them were used: the test's samples can miss a connection.
  expect(Math.max(...seen)).toBeGreaterThan(0);
  expect(Math.max(...seen)).toBeLessThanOrEqual(SLOTS);
  expect(governors.reduce((sum, each) => sum + each.stats().highestUsed, 0)).toBeGreaterThanOrEqual(SLOTS);
  for (const governor of governors) {
    expect(governor.stats()).toMatchObject({ used: 0, waiting: 0, closing: 0, refused: 0, timedOut: 0 });
    expect(governor.stats().highestUsed).toBeLessThanOrEqual(SLOTS);
  }
  const closed = governors.reduce((sum, each) => sum + each.stats().evictions + each.stats().yields, 0);
  expect(closed).toBeGreaterThanOrEqual(TENANTS - SLOTS);
});
