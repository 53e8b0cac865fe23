// A tenant's role fills the notification queue of a server that also holds the registry. Two replicas, on a server with the
// smallest queue that PostgreSQL allows; a setting of PostgreSQL 17 and later.
import { sql, type Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, inject, it } from 'vitest';
import { jobLockName } from '../../db/registry/job-locks.js';
import { createLockSession } from '../../db/registry/lock-session.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { createDatabase, type DatabaseHandle } from '../../db/driver/client.js';
import { inspectCluster } from '../../db/server/cluster-inspection.js';
import { startCluster, type TestCluster } from '../support/cluster.js';
import { connectTo, createRegistryIn, startServiceIn, type TestService, type TestTenant } from '../support/service.js';
import { passwordOf, rowOf } from '../support/tenants.js';

const SMALLEST = { max_notify_queue_pages: '64' };

/** "Within a second", plus a margin for the machine. */
const PROMISE = { timeout: 1_500, interval: 20 };

const { versionNumber } = await versionOf(inject('cluster'));

describe.skipIf(versionNumber < 170_000)('a full NOTIFY queue (a server of PostgreSQL 17 or later)', () => {
  let cluster: TestCluster;
  let stop: () => Promise<void>;
  let registry: string;
  let services: TestService[] = [];
  let home: TestService;

  beforeAll(async () => {
    ({ cluster, stop } = await startCluster(SMALLEST));
    registry = await createRegistryIn(cluster);
    home = await startServiceIn(cluster, { registry });
    services = [home, await startServiceIn(cluster, { registry, operator: false })];
  });
  beforeEach(bothHear);
  afterAll(async () => {
    await Promise.all(services.map((service) => service.close()));
    await stop();
  });

  it.each([
    ['', '1 day'],
    [', also while a former build may publish by notifications alone', '0'],
  ])(
    'delays no act of an operator or an admin: each succeeds and takes effect on every replica within a second%s',
    async (_, feedFor) => {
      await asSuperuser<Registry, unknown>(registry, (db) =>
        sql`update installation set feed_since = now() - ${feedFor}::interval`.execute(db),
      );
      await bothHear();
      const attacker = await home.createTenant();
      const other = await home.createTenant();
      const signedOut = await home.createTenant();
      const user = await home.createUser(other, 'uma@example.com');
      const leaving = await home.createUser(other, 'lea@example.com');
      expect(await meOf(attacker.adminToken, user.token, leaving.token, signedOut.adminToken)).toEqual(
        [200, 200, 200, 200].map((status) => [status, status]),
      );
      const attack = await beginAttack(attacker, 'in a transaction');
      await withoutRelief(async () => {
        const { operatorToken: token, send } = home;
        const answers = [
          await send('PATCH', `/users/${user.id}`, { token: other.adminToken, body: { active: false } }),
          await send('POST', '/auth/logout', { token: leaving.token }),
          await send('POST', `/tenants/${signedOut.id}/sign-out`, { token }),
        ];
        expect(await usage(), 'the queue is still full').toBeGreaterThan(0.9);
        await expect
          .poll(() => meOf(user.token, leaving.token, signedOut.adminToken), PROMISE)
          .toEqual([401, 401, 401].map((status) => [status, status]));
        expect(await usage(), 'the queue is still full').toBeGreaterThan(0.9);
        answers.push(await send('POST', `/tenants/${attacker.id}/suspend`, { token }));
        await expect.poll(() => meOf(attacker.adminToken), PROMISE).toEqual([[403, 403]]);
        expect(answers.map(({ status }) => Math.floor(status / 100))).toEqual([2, 2, 2, 2]);
        // A feed does not need notifications.
        if (feedFor !== '0') expect(services.map(({ app }) => app.engine.events.live)).toEqual([true, true]);
      });
      await bothHear();
      await attack.end();
    },
  );

  it.each(['in a transaction', 'that is not woken'] as const)(
    'is relieved by a job if it is blocked by a session of a tenant’s role, %s',
    async (way) => {
      const attacker = await home.createTenant();
      const attack = await beginAttack(attacker, way);
      await expect.poll(usage, { timeout: 30_000, interval: 100 }).toBeLessThan(0.5);
      await attack.end();
    },
  );

  async function bothHear(): Promise<void> {
    await expect.poll(() => services.every(({ app }) => app.engine.events.live), { timeout: 30_000 }).toBe(true);
  }

  /** The status of GET /auth/me for each token, on each replica. */
  function meOf(...tokens: string[]): Promise<number[][]> {
    const ask = async (token: string, { send }: TestService): Promise<number> =>
      (await send('GET', '/auth/me', { token })).status;
    return Promise.all(tokens.map((token) => Promise.all(services.map((service) => ask(token, service)))));
  }

  /** Holds the lock of the job that ends sessions, so that the job does not run meanwhile. */
  async function withoutRelief(work: () => Promise<void>): Promise<void> {
    await asSuperuser<Registry, unknown>(registry, async (db) => {
      const locks = createLockSession(db, () => undefined);
      await locks.attempt(jobLockName('notify-relief'), work);
      await locks.close();
    });
  }

  function asSuperuser<DB, T>(database: string, work: (db: Kysely<DB>) => Promise<T>): Promise<T> {
    const handle = connectTo<DB>(cluster, database);
    return work(handle.db).finally(() => handle.close(0));
  }

  function usage(): Promise<number> {
    return asSuperuser<unknown, number>('postgres', async (db) => {
      const { rows } = await sql<{ usage: number }>`select pg_notification_queue_usage() as usage`.execute(db);
      return rows[0]?.usage ?? 0;
    });
  }

  /** Fills the queue with a role's own password, and an application name like the service's own. */
  async function beginAttack(
    tenant: TestTenant,
    way: 'in a transaction' | 'that is not woken',
  ): Promise<{ end(): Promise<void> }> {
    const row = await rowOf(home, tenant);
    const { superuser } = cluster;
    const handle: DatabaseHandle<unknown> = createDatabase(
      { ...superuser, user: row.dbUser, password: passwordOf(home, row), database: row.dbName },
      { max: 2, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 60_000 },
      { applicationName: 'tenantry forged', preparedStatements: false },
    );
    let release: () => void = () => undefined;
    const released = new Promise<void>((resolve) => (release = resolve));
    const holding = await new Promise<{ ended: Promise<void> }>((begun) => {
      const ended = handle.db
        .connection()
        .execute(async (session) => {
          await sql`listen attack`.execute(session);
          if (way === 'in a transaction') await sql`begin`.execute(session);
          await sql`select 1`.execute(session);
          begun({ ended: released });
          await released;
        })
        .catch(() => undefined);
      void ended;
    });
    // One transaction that is rolled back wakes no listener; several commits wake each listener.
    const several = way === 'in a transaction' ? 8 : 10_000;
    for (let sent = 0; sent < 200; sent += 1) {
      const full = await sql`
        select pg_notify('attack', ${String(sent)} || '-' || n || repeat('x', 7900)) from generate_series(1, ${several}::int) n`
        .execute(handle.db)
        .then(
          () => false,
          () => true,
        );
      if (full) break;
      await sleep(5);
    }
    expect(await usage(), 'the queue is full').toBeGreaterThan(0.8);
    return {
      async end() {
        release();
        await holding.ended;
        await handle.close(0);
      },
    };
  }
});

async function versionOf(cluster: TestCluster): Promise<{ versionNumber: number }> {
  const handle = connectTo<unknown>(cluster, 'postgres');
  try {
    return await inspectCluster(handle.db);
  } finally {
    await handle.close(0);
  }
}
