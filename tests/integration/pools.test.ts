// What operators see of connections, and that the budget of a server holds for all tenants of a process.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { asSuperuser, startService, type TestService, type TestTenant } from '../support/app.js';

const BUDGET = 5;
const TENANTS = 12;

interface Slots {
  readonly leased: number;
  readonly used: number;
  readonly highestUsed: number;
  readonly evictions: number;
  readonly waiting: number;
}
interface Pool {
  readonly tenantId: string;
  readonly total: number;
  readonly idle: number;
  readonly waiting: number;
}
interface Pools {
  readonly clusters: (Slots & { readonly cluster: string; readonly budget: unknown; readonly reserve: Slots })[];
  readonly pools: Pool[];
  readonly poolCount: number;
}

let service: TestService;
let tenants: TestTenant[];
beforeAll(async () => {
  service = await startService({
    env: { CLUSTER_CONNECTION_BUDGET: String(BUDGET), CLUSTER_CONNECTION_RESERVE: '4', POOL_MAX: '3' },
  });
  tenants = [];
  for (let index = 0; index < TENANTS; index += 1) tenants.push(await service.createTenant());
});
afterAll(() => service.close());

const inspect = async (): Promise<Pools> =>
  (await service.send<Pools>('GET', '/pools', { token: service.operatorToken })).body;

describe('the budget of a server', () => {
  it('holds while more tenants than connections read and write at once, and every request is answered', async () => {
    const names = await Promise.all(
      tenants.map(async ({ id }) => (await findTenant(service.app.engine.registry, id))?.dbName ?? ''),
    );
    let done = false;
    let most = 0;
    const watch = asSuperuser('postgres', async (db) => {
      while (!done) {
        const { rows } = await sql<{ n: number }>`
          select count(*)::int as n from pg_stat_activity
          where application_name like 'tenantry%' and application_name not like '% provisioner%'
            and datname = any(${names})`.execute(db);
        most = Math.max(most, rows[0]?.n ?? 0);
        await sleep(5);
      }
    });
    const statuses = await Promise.all(
      tenants.flatMap(({ adminToken }) =>
        Array.from({ length: 10 }, async (_, index) => {
          const request =
            index % 3 === 0
              ? service.send('POST', '/products', { token: adminToken, body: { name: 'Chair', price: '1.00' } })
              : service.send('GET', '/products', { token: adminToken });
          return (await request).status;
        }),
      ),
    );
    done = true;
    await watch;
    expect(new Set(statuses)).toEqual(new Set([200, 201]));
    expect(most).toBeGreaterThan(0);
    expect(most).toBeLessThanOrEqual(BUDGET);
    const [cluster] = (await inspect()).clusters;
    expect(cluster).toMatchObject({ leased: BUDGET, highestUsed: BUDGET, waiting: 0, budget: { tenants: BUDGET } });
    expect(cluster?.evictions).toBeGreaterThan(0);
  });

  it('leaves provisioning its reserve while tenants use all of it', async () => {
    // One by one, so that every slot is used, and no slot by a closing connection.
    for (const { adminToken } of tenants) await service.send('GET', '/products', { token: adminToken });
    await expect.poll(async () => (await inspect()).clusters[0]?.used).toBe(BUDGET);
    const made = await service.createTenant('made-meanwhile');
    expect(made.id).not.toBe('');
    const after = (await inspect()).clusters[0];
    expect(after?.reserve.highestUsed).toBeGreaterThan(0);
    expect(after?.reserve.highestUsed).toBeLessThanOrEqual(4);
  });

  it('makes a request wait for the acquire timeout at most: then it gets 503 with Retry-After, and no other tenant does', async () => {
    const patient = await startService({
      env: { CLUSTER_CONNECTION_BUDGET: '2', POOL_MAX: '3', POOL_ACQUIRE_TIMEOUT_MS: '300' },
    });
    try {
      const [holder, waiting] = [await patient.createTenant(), await patient.createTenant()];
      const db = patient.app.engine.tenantPools.database(holder.id);
      let release: () => void = () => undefined;
      let holding = 0;
      const held = new Promise<void>((resolve) => (release = resolve));
      const hold = Promise.all(
        [1, 2].map(() =>
          db.transaction().execute(async (trx) => {
            await sql`select 1`.execute(trx);
            holding += 1;
            await held;
          }),
        ),
      );
      onTestFinished(() => {
        release();
      });
      await expect.poll(() => holding, { timeout: 30_000 }).toBe(2);
      const refused = await patient.send('GET', '/products', { token: waiting.adminToken });
      expect(refused).toMatchObject({ status: 503, body: { code: 'unavailable' } });
      expect(refused.headers['retry-after']).toMatch(/^[1-9]\d*$/);
      release();
      await hold;
      // A busy machine may need more than the 300 ms for a new connection.
      await expect
        .poll(async () => (await patient.send('GET', '/products', { token: waiting.adminToken })).status, {
          timeout: 30_000,
        })
        .toBe(200);
    } finally {
      await patient.close();
    }
  });
});

describe('GET /pools', () => {
  it('shows which pool holds which connections', async () => {
    const [tenant] = tenants;
    expect((await service.send('GET', '/products', { token: tenant?.adminToken })).status).toBe(200);
    const { clusters, pools, poolCount } = await inspect();
    const { host, port } = service.config.tenants.provisioner;
    expect(clusters.map(({ cluster }) => cluster)).toEqual([`${host}:${port}`]);
    expect(poolCount).toBeGreaterThan(0);
    const open = pools.reduce((sum, { total }) => sum + total, 0);
    // Provisioning has a governor of its own, and is not one of the tenant pools.
    expect(open).toBe(clusters[0]?.used);
    expect(pools.find(({ tenantId }) => tenantId === tenant?.id)).toMatchObject({ total: 1, idle: 1, waiting: 0 });
    expect(JSON.stringify(pools)).not.toMatch(/password|tn_/);
  });

  it('shows as many pools as its limit allows', async () => {
    const two = await service.send<Pools>('GET', '/pools?limit=2', { token: service.operatorToken });
    expect(two.body.pools).toHaveLength(2);
    expect(two.body.poolCount).toBeGreaterThan(2);
    for (const limit of ['0', '1001', 'many', '-1'])
      expect((await service.send('GET', `/pools?limit=${limit}`, { token: service.operatorToken })).status).toBe(400);
  });

  it('is for operators', async () => {
    const token = tenants[0]?.adminToken;
    expect((await service.send('GET', '/pools', { token })).status).toBe(403);
    expect((await service.send('GET', '/pools')).status).toBe(401);
  });
});

describe('GET /tenants/:id/pool', () => {
  it('shows the pool of one tenant, and null if it has no pool here', async () => {
    const [tenant] = tenants;
    await service.send('GET', '/products', { token: tenant?.adminToken });
    const ask = (id = ''): ReturnType<TestService['send']> =>
      service.send('GET', `/tenants/${id}/pool`, { token: service.operatorToken });
    expect((await ask(tenant?.id)).body).toMatchObject({ pool: { tenantId: tenant?.id, total: 1, waiting: 0 } });
    await service.app.engine.tenantPools.retire(tenant?.id ?? '');
    expect((await ask(tenant?.id)).body).toEqual({ pool: null, breaker: null });
    expect((await ask('00000000-0000-7000-8000-000000000000')).status).toBe(404);
    expect((await service.send('GET', `/tenants/${tenant?.id}/pool`, { token: tenant?.adminToken })).status).toBe(403);
  });
});
