// The governor between real pools and a real server: more pools than connections, all of them busy.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, inject, it } from 'vitest';
import { databaseOver, openPool } from '../../db/client.js';
import { createGovernor } from '../../src/tenancy/governor.js';
import { asSuperuser, createRegistry } from '../support/app.js';

const SLOTS = 3;
const TENANTS = 8;
const LIMITS = { max: 3, acquireTimeout: 10_000, timeout: 10_000, idleTimeoutMillis: 10_000 };

it.each([
  ['on connections of their own', false],
  ['with a lane for reads', true],
])('pools that want more than there is share it, and the server never sees more: %s', async (_, lane) => {
  const { superuser, registryOwner } = inject('cluster');
  const connection = { ...superuser, ...registryOwner, database: await createRegistry() };
  const governor = createGovernor({ slots: SLOTS });
  const applicationName = `governor test ${lane}`;
  const pools = Array.from({ length: TENANTS }, (_unused, index) => {
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
  expect(Math.max(...seen)).toBe(SLOTS);
  expect(governor.stats()).toMatchObject({
    used: 0,
    waiting: 0,
    closing: 0,
    highestUsed: SLOTS,
    refused: 0,
    timedOut: 0,
  });
  expect(governor.stats().evictions + governor.stats().yields).toBeGreaterThanOrEqual(TENANTS - SLOTS);
});
