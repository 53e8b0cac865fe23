// The tenant pools at work: built once, checked, retired without failing a request, and closed in time.
import { sql, type Kysely } from 'kysely';
import { PassThrough } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { openPool } from '../../db/driver/client.js';
import { findProduct, insertProduct } from '../../db/tenant/product-queries.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { createBreakers } from '../../src/connections/breakers.js';
import { createEnvelope } from '../../src/secrets/envelope.js';
import { createGovernor } from '../../src/connections/governor.js';
import { poolLimits } from '../../src/tenants/pool-options.js';
import { createTenantPools } from '../../src/connections/tenant-pools.js';
import type { SecurityEventName } from '../../src/observability/security-catalogue.js';
import {
  asSuperuser,
  connectAs,
  createRegistry,
  startService,
  startServiceForTest,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { passwordOf, rowOf } from '../support/tenants.js';

let registry: string;
/** Makes the tenants; the services under test share its registry and start cold. */
let home: TestService;

beforeAll(async () => {
  registry = await createRegistry();
  home = await startService({ registry });
});
afterAll(() => home.close());

function coldService(env: Record<string, string> = {}): Promise<TestService> {
  return startServiceForTest({ registry, env });
}

describe('a cold tenant', () => {
  it('gets one pool and one connection for 200 simultaneous calls, with one check', async () => {
    const row = await rowOf(home, await home.createTenant());
    let built = 0;
    let proved = 0;
    const pools = createTenantPools({
      directory: { peek: () => undefined, find: async () => row, reload: async () => row },
      envelope: createEnvelope(home.config.encryptionKeys),
      tls: () => false,
      closeAfter: 60_000,
      breakers: createBreakers({ probe: async () => undefined, onChange: () => undefined }),
      probe: async () => undefined,
      openPool: (_tenantId, connection, { poolOptions }, { prove }) => {
        built += 1;
        return openPool(connection, poolLimits(poolOptions, home.config.tenants.pool), {
          applicationName: 'pools test',
          preparedStatements: true,
          lane: true,
          prove: (query) => {
            proved += 1;
            return prove?.(query) ?? Promise.reject(new Error('there is no proof'));
          },
        });
      },
      onError: (error) => {
        throw error;
      },
      onSchemaChange: () => undefined,
    });
    onTestFinished(() => pools.close());
    const found = await Promise.all(
      Array.from({ length: 200 }, () => findProduct(pools.database(row.id), '00000000-0000-7000-8000-000000000000')),
    );
    expect(new Set(found)).toEqual(new Set([undefined]));
    expect([built, proved]).toEqual([1, 1]);
    expect(pools.stats()).toEqual({ pools: 1, connections: 1 });
  });

  it('answers 200 simultaneous requests with no more connections than its pool may have', async () => {
    const tenant = await home.createTenant();
    const { dbName } = await rowOf(home, tenant);
    const before = await sessionsIn(dbName);
    const cold = await coldService({ POOL_MAX: '3' });
    const answers = await Promise.all(
      Array.from({ length: 200 }, () => cold.send('GET', '/products', { token: tenant.adminToken })),
    );
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
    const { pools, connections } = cold.app.engine.tenantPools.stats();
    expect(pools).toBe(1);
    expect(connections).toBeLessThanOrEqual(3);
    expect((await newSessionsIn(dbName, before)).length).toBeLessThanOrEqual(3);
  });
});

it('builds no pool from the record that a request was admitted with, if the tenant was suspended since', async () => {
  const row = await rowOf(home, await home.createTenant());
  const suspended: TenantRecord = { ...row, status: 'suspended', active: false, epoch: row.epoch + 1 };
  const pools = createTenantPools({
    directory: { peek: () => suspended, find: async () => suspended, reload: async () => suspended },
    envelope: createEnvelope(home.config.encryptionKeys),
    tls: () => false,
    closeAfter: 60_000,
    breakers: createBreakers({ probe: async () => undefined, onChange: () => undefined }),
    probe: async () => undefined,
    openPool: (_tenantId, connection, { poolOptions }, { prove }) =>
      openPool(connection, poolLimits(poolOptions, home.config.tenants.pool), {
        applicationName: 'pools test',
        preparedStatements: true,
        ...(prove && { prove }),
      }),
    onError: () => undefined,
    onSchemaChange: () => undefined,
  });
  onTestFinished(() => pools.close());
  await expect(findProduct(pools.databaseOf(row), '00000000-0000-7000-8000-000000000000')).rejects.toMatchObject({
    code: 'tenant-suspended',
  });
  expect(pools.inspect(row.id)).toBeUndefined();
});

describe('a failed build', () => {
  it('affects its tenant only, and is not cached: the same process serves the tenant once its row is right', async () => {
    const [tenant, neighbour] = [await home.createTenant(), await home.createTenant()];
    const { dbName } = await rowOf(home, tenant);
    await changeRow(tenant, { db_name: 'no_such_database' });
    const cold = await coldService();
    const ask = (): ReturnType<TestService['send']> => cold.send('GET', '/products', { token: tenant.adminToken });

    const broken = await Promise.all([ask(), ask(), ask()]);
    for (const answer of broken) {
      expect(answer).toMatchObject({ status: 503, body: { code: 'unavailable' } });
      expect(answer.headers['retry-after']).toMatch(/^[1-9]\d*$/);
    }
    await expect.poll(() => cold.app.engine.tenantPools.stats()).toEqual({ pools: 0, connections: 0 });
    expect((await cold.send('GET', '/products', { token: neighbour.adminToken })).status).toBe(200);
    await changeRow(tenant, { db_name: dbName });
    await expect.poll(async () => (await ask()).status, { timeout: 30_000 }).toBe(200);
  });
});

describe('a tenant’s row with the wrong database,', () => {
  const lines: string[] = [];
  let cold: TestService;
  let other: TestTenant;
  beforeAll(async () => {
    const overrides = { logStream: { write: (line: string) => void lines.push(line) } };
    cold = await startService({ registry, env: { LOG_LEVEL: 'info' }, overrides });
    other = await home.createTenant();
  });
  afterAll(() => cold.close());

  it.each<[string, (tenant: TestTenant) => Promise<void>, SecurityEventName?]>([
    [
      'marked as another tenant’s',
      async (tenant) => {
        await inDatabaseOf(tenant, (db) => db.updateTable('tenant_marker').set({ tenant_id: other.id }).execute());
      },
    ],
    [
      'marked as nobody’s',
      async (tenant) => {
        await inDatabaseOf(tenant, (db) => db.deleteFrom('tenant_marker').execute());
      },
    ],
    [
      'with nothing in it',
      async (tenant) => {
        await inDatabaseOf(tenant, (db) => sql`drop table tenant_marker`.execute(db));
      },
    ],
    [
      'reached by another tenant’s role and password',
      async (tenant) => {
        const { dbName, dbUser, dbPassword } = await rowOf(home, other);
        await changeRow(other, { db_name: 'parked' });
        await changeRow(tenant, { db_name: dbName, db_user: dbUser, db_password: dbPassword });
      },
      // A password belongs to its row.
      'password-unreadable',
    ],
  ])('%s, gets 503 and a line in the log', async (_what, mixUp, event = 'wrong-database') => {
    const tenant = await home.createTenant();
    await mixUp(tenant);
    for (const url of ['/products', '/users', `/users/${tenant.adminId}`]) {
      const answer = await cold.send('GET', url, { token: tenant.adminToken });
      expect(answer).toMatchObject({ status: 503, body: { code: 'unavailable' } });
      expect(answer.headers['retry-after']).toBe('30');
    }
    const logged = lines.map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(logged).toContainEqual(
      expect.objectContaining({ level: 'error', tenantId: tenant.id, security: true, event }),
    );
    await expect.poll(() => cold.app.engine.tenantPools.stats().pools).toBe(0);
  });

  it('is tested once a second, not by each request, and served when it is right again', async () => {
    const tenant = await home.createTenant();
    await inDatabaseOf(tenant, (db) => db.updateTable('tenant_marker').set({ tenant_id: other.id }).execute());
    lines.length = 0;
    const ask = async (): Promise<number> => (await cold.send('GET', '/products', { token: tenant.adminToken })).status;
    const since = performance.now();
    for (let time = 0; time < 20; time += 1) expect(await ask()).toBe(503);
    const looks = lines.filter((line) => line.includes('wrong-database')).length;
    expect(looks).toBeGreaterThan(0);
    expect(looks).toBeLessThanOrEqual(1 + Math.ceil((performance.now() - since) / 1_000));
    await inDatabaseOf(tenant, (db) => db.updateTable('tenant_marker').set({ tenant_id: tenant.id }).execute());
    await expect.poll(ask, { timeout: 30_000 }).toBe(200);
  });
});

describe('an idle pool', () => {
  it('is closed after its time, and built again for the next request', async () => {
    const tenant = await home.createTenant();
    const { dbName } = await rowOf(home, tenant);
    const before = await sessionsIn(dbName);
    const cold = await coldService({ POOL_CLOSE_AFTER_MS: '200' });
    const ask = async (): Promise<number> => (await cold.send('GET', '/products', { token: tenant.adminToken })).status;
    expect(await ask()).toBe(200);
    expect(await newSessionsIn(dbName, before)).not.toEqual([]);
    await expect.poll(() => cold.app.engine.tenantPools.stats().pools, { timeout: 30_000 }).toBe(0);
    await expect.poll(() => newSessionsIn(dbName, before), { timeout: 30_000 }).toEqual([]);
    expect(await ask()).toBe(200);
    expect(cold.app.engine.tenantPools.stats().pools).toBe(1);
  });

  it('is not closed during a running query', async () => {
    const tenant = await home.createTenant();
    const product = await makeProduct(tenant);
    const cold = await coldService({ POOL_CLOSE_AFTER_MS: '100' });
    const lock = await lockProduct(tenant, product);
    const stuck = cold.send('PATCH', `/products/${product}`, { token: tenant.adminToken, body: { name: 'Late' } });
    await lock.awaited();
    await sleep(500);
    expect(cold.app.engine.tenantPools.stats().pools).toBe(1);
    await lock.release();
    expect((await stuck).status).toBe(200);
  });
});

describe('changed pool options', () => {
  it('take effect for the next request, while running requests finish on the old pool', async () => {
    const tenant = await home.createTenant();
    const { dbName } = await rowOf(home, tenant);
    const product = await makeProduct(tenant);
    const before = await sessionsIn(dbName);
    const lock = await lockProduct(tenant, product);
    const stuck = home.send('PATCH', `/products/${product}`, { token: tenant.adminToken, body: { name: 'Late' } });
    await lock.awaited();

    const changed = await home.send('PATCH', `/tenants/${tenant.id}`, {
      token: home.operatorToken,
      body: { poolOptions: { max: 2, timeout: 20_000 } },
    });
    expect(changed.body).toMatchObject({ poolOptions: { max: 2, timeout: 20_000, acquireTimeout: 5_000 } });
    expect((await home.send('GET', '/products', { token: tenant.adminToken })).status).toBe(200);
    const { rows } = await sql<{ timeout: string }>`select current_setting('statement_timeout') as timeout`.execute(
      home.app.engine.tenantPools.database(tenant.id),
    );
    expect(rows).toEqual([{ timeout: '20s' }]);

    // Longer than a retired pool is kept for requests that have not used it yet.
    await sleep(1_500);
    await lock.release();
    expect(await stuck).toMatchObject({ status: 200, body: { name: 'Late' } });
    await expect
      .poll(async () => (await sessionsIn(dbName)).filter((pid) => before.includes(pid)), { timeout: 30_000 })
      .toEqual([]);
  });

  it('do not fail a request whose body is still arriving', async () => {
    const tenant = await home.createTenant();
    const body = new PassThrough();
    const arriving = home.app.inject({
      method: 'POST',
      url: '/products',
      headers: { authorization: `Bearer ${tenant.adminToken}`, 'content-type': 'application/json' },
      payload: body,
    });
    // The body is being read: the request has its database by now.
    await expect.poll(() => body.isPaused() || body.readableFlowing, { timeout: 30_000 }).toBe(true);
    const { status } = await home.send('PATCH', `/tenants/${tenant.id}`, {
      token: home.operatorToken,
      body: { poolOptions: { max: 2 } },
    });
    expect(status).toBe(200);
    body.end('{"name":"Chair","price":"1.00"}');
    expect((await arriving).statusCode).toBe(201);
  });

  it('fail no request, however often they change', async () => {
    const tenant = await home.createTenant();
    const statuses = new Map<number, number>();
    let done = false;
    const client = async (): Promise<void> => {
      while (!done) {
        const answers = await Promise.all([
          home.send('GET', '/products', { token: tenant.adminToken }),
          home.send('GET', '/auth/me', { token: tenant.adminToken }),
          home.send('POST', '/products', { token: tenant.adminToken, body: { name: 'Chair', price: '1.00' } }),
        ]);
        for (const { status } of answers) statuses.set(status, (statuses.get(status) ?? 0) + 1);
      }
    };
    const clients = [client(), client()];
    for (let change = 1; change <= 20; change += 1) {
      const { status } = await home.send('PATCH', `/tenants/${tenant.id}`, {
        token: home.operatorToken,
        body: { poolOptions: { max: 1 + (change % 5) } },
      });
      expect(status).toBe(200);
      await sleep(50);
    }
    done = true;
    await Promise.all(clients);
    expect([...statuses.keys()].sort()).toEqual([200, 201]);
    expect(home.app.engine.tenantPools.stats().pools).toBeGreaterThan(0);
  });
});

describe('a retired pool', () => {
  it('fails no read, no write and no transaction in a thousand rounds, and leaves no connection', async () => {
    const tenant = await home.createTenant();
    const { dbName } = await rowOf(home, tenant);
    const db = home.app.engine.tenantPools.database(tenant.id);
    let done = false;
    let written = 0;
    const clients = [
      async (): Promise<unknown> => findProduct(db, '00000000-0000-7000-8000-000000000000'),
      async (): Promise<unknown> => home.send('GET', '/auth/me', { token: tenant.adminToken }),
      async (): Promise<unknown> => {
        await insertProduct(db, { name: 'Chair', price: '1.00' });
        written += 1;
        return undefined;
      },
      async (): Promise<unknown> =>
        db.transaction().execute(async (trx) => {
          await insertProduct(trx, { name: 'Table', price: '2.00' });
          await insertProduct(trx, { name: 'Table', price: '2.00' });
          written += 2;
        }),
    ].map(async (request) => {
      let count = 0;
      while (!done) {
        const answer = await request();
        if (answer !== undefined) expect(answer).toMatchObject({ status: 200 });
        count += 1;
      }
      return count;
    });
    const retired: Promise<void>[] = [];
    for (let time = 0; time < 1_000; time += 1) {
      retired.push(home.app.engine.tenantPools.retire(tenant.id));
      await sleep(2);
    }
    done = true;
    for (const count of await Promise.all(clients)) expect(count).toBeGreaterThan(10);
    await Promise.all(retired);
    const { n } = await db
      .selectFrom('products')
      .select((eb) => eb.fn.countAll<string>().as('n'))
      .executeTakeFirstOrThrow();
    expect(Number(n)).toBe(written);
    await home.app.engine.tenantPools.retire(tenant.id);
    await expect.poll(() => sessionsIn(dbName), { timeout: 30_000 }).toEqual([]);
  }, 60_000);
});

describe('ten thousand cached tenants and a thousand used pools', () => {
  it('need less than 100 MB, and hold no connection when they are idle', async () => {
    const gc = exposedGc();
    const row = await rowOf(home, await home.createTenant());
    const idOf = (number: number): string => `00000000-0000-7000-8000-${String(number).padStart(12, '0')}`;
    gc();
    const before = process.memoryUsage().heapUsed;

    const rows = new Map<string, TenantRecord>();
    for (let number = 0; number < 10_000; number += 1) {
      const id = idOf(number);
      // A full row, for its real size; only the database is the same for all.
      rows.set(id, { ...row, id, slug: `tenant-${number}`, name: `Tenant ${number}`, poolOptions: { max: 3 } });
    }
    const governor = createGovernor({ slots: 20 });
    const pools = createTenantPools({
      directory: { peek: (id) => rows.get(id), find: async (id) => rows.get(id), reload: async (id) => rows.get(id) },
      envelope: { seal: (text) => text, open: () => passwordOf(home, row) },
      tls: () => false,
      closeAfter: 60_000,
      breakers: createBreakers({ probe: async () => undefined, onChange: () => undefined }),
      probe: async () => undefined,
      openPool: (tenantId, connection, { poolOptions }) =>
        openPool(
          connection,
          { ...poolLimits(poolOptions, home.config.tenants.pool), idleTimeoutMillis: 100 },
          {
            applicationName: 'tenantry memory test',
            preparedStatements: true,
            lane: true,
            admit: (closeIdle) => governor.join(tenantId, closeIdle),
          },
        ),
      onError: (error) => {
        throw error;
      },
      onSchemaChange: () => undefined,
    });
    onTestFinished(() => pools.close());
    for (let number = 0; number < 1_000; number += 20) {
      const ids = Array.from({ length: 20 }, (_, index) => idOf(number + index));
      await Promise.all(ids.map((id) => findProduct(pools.database(id), id)));
    }
    await expect.poll(() => pools.stats(), { timeout: 30_000 }).toEqual({ pools: 0, connections: 0 });
    expect(pools.inspectAll()).toHaveLength(1_000);
    gc();
    expect((process.memoryUsage().heapUsed - before) / 2 ** 20).toBeLessThan(100);
  }, 60_000);
});

/** The garbage collector, so that only reachable memory counts. */
function exposedGc(): () => void {
  setFlagsFromString('--expose-gc');
  return runInNewContext('gc') as () => void;
}

describe('an exhausted pool', () => {
  it('answers 503 with Retry-After within the acquire timeout, and serves again when a connection is free', async () => {
    const tenant = await home.createTenant();
    const product = await makeProduct(tenant);
    const cold = await coldService({ POOL_MAX: '1', POOL_ACQUIRE_TIMEOUT_MS: '300' });
    const lock = await lockProduct(tenant, product);
    const stuck = cold.send('PATCH', `/products/${product}`, { token: tenant.adminToken, body: { name: 'Late' } });
    await lock.awaited();
    // Answered while the lock is still held: only the acquire timeout can have ended the wait.
    const refused = await Promise.all(
      ['/products', '/users', '/auth/me'].map((url) => cold.send('GET', url, { token: tenant.adminToken })),
    );
    for (const answer of refused) {
      expect(answer).toMatchObject({ status: 503, body: { code: 'unavailable' } });
      expect(answer.headers['retry-after']).toMatch(/^[1-9]\d*$/);
    }
    await lock.release();
    expect((await stuck).status).toBe(200);
    expect((await cold.send('GET', '/products', { token: tenant.adminToken })).status).toBe(200);
  });
});

describe('app.close()', () => {
  it('leaves no connection behind', async () => {
    const sockets = (): number => process.getActiveResourcesInfo().filter((kind) => kind === 'TCPSocketWrap').length;
    const own = await createRegistry();
    const before = sockets();
    const service = await startService({ registry: own });
    const databases = [own];
    for (const tenant of [await service.createTenant(), await service.createTenant()]) {
      const row = await findTenant(service.app.engine.registry, tenant.id);
      databases.push(row?.dbName ?? '');
      await service.send('GET', '/products', { token: tenant.adminToken });
    }
    for (const database of databases) expect((await sessionsIn(database)).length).toBeGreaterThan(0);
    await service.close();
    for (const database of databases) await expect.poll(() => sessionsIn(database), { timeout: 30_000 }).toEqual([]);
    await expect.poll(sockets, { timeout: 30_000 }).toBeLessThanOrEqual(before);
  });
});

/** As psql would: without the service, which therefore learns of it within a second. */
async function changeRow(
  tenant: TestTenant,
  changes: { db_name?: string; db_user?: string; db_password?: string },
): Promise<void> {
  const handle = connectAs<Registry>(registry);
  await handle.db.updateTable('tenants').set(changes).where('id', '=', tenant.id).execute();
  await handle.close(0);
}

async function inDatabaseOf(tenant: TestTenant, work: (db: Kysely<TenantDatabase>) => Promise<unknown>): Promise<void> {
  const handle = connectAs<TenantDatabase>((await rowOf(home, tenant)).dbName);
  await work(handle.db);
  await handle.close(0);
}

async function makeProduct(tenant: TestTenant): Promise<string> {
  const made = await home.send<{ id: string }>('POST', '/products', {
    token: tenant.adminToken,
    body: { name: 'Chair', price: '1.00' },
  });
  return made.body.id;
}

/** Locks a product's row from outside, so that a PATCH of it waits until the lock is released. */
async function lockProduct(
  tenant: TestTenant,
  id: string,
): Promise<{ awaited: () => Promise<void>; release: () => Promise<void> }> {
  const handle = connectAs<TenantDatabase>((await rowOf(home, tenant)).dbName);
  let isTaken: () => void = () => undefined;
  let letGo: () => void = () => undefined;
  const taken = new Promise<void>((resolve) => (isTaken = resolve));
  const released = new Promise<void>((resolve) => (letGo = resolve));
  const transaction = handle.db.transaction().execute(async (trx) => {
    await trx.selectFrom('products').select('id').where('id', '=', id).forUpdate().execute();
    isTaken();
    await released;
  });
  const release = async (): Promise<void> => {
    letGo();
    await transaction;
    await handle.close(0);
  };
  onTestFinished(release);
  await Promise.race([taken, transaction]);
  return {
    /** Resolves when a session waits for the lock. */
    awaited: async () => {
      const blocked = async (): Promise<number> => {
        const { rows } = await sql`
          select from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'`.execute(
          handle.db,
        );
        return rows.length;
      };
      await expect.poll(blocked, { timeout: 30_000 }).toBeGreaterThan(0);
    },
    release,
  };
}

async function newSessionsIn(database: string, before: readonly number[]): Promise<number[]> {
  return (await sessionsIn(database)).filter((pid) => !before.includes(pid));
}

/** Process ids of the service's sessions in a database. */
async function sessionsIn(database: string): Promise<number[]> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ pid: number }>`
      select pid from pg_stat_activity where datname = ${database} and application_name like 'tenantry%'`.execute(db),
  );
  return rows.map(({ pid }) => pid);
}
