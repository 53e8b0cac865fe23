// Limits of tenants: each is kept, is named in its refusal, reaches every replica, and never causes a 500.
import { sql } from 'kysely';
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findTenant } from '../../db/registry/tenant-queries.js';
import {
  ADMIN,
  asSuperuser,
  createRegistry,
  startService,
  startServiceForTest,
  type Answer,
  type Problem,
  type TestService,
  type TestTenant,
} from '../support/app.js';

interface LimitProblem extends Problem {
  readonly detail?: string;
  readonly limit?: string;
  readonly limitValue?: number;
}

interface Tenant {
  readonly id: string;
  readonly limits: Readonly<Record<string, number | null>>;
  readonly poolOptions: Readonly<Record<string, number>>;
}

interface Usage {
  readonly requestsPerSecond: { readonly limit: number | null; readonly used: number | null };
  readonly connections: { readonly limit: number | null; readonly used: number | null; readonly here: number };
  readonly statementTimeout: { readonly limit: number | null };
  readonly users: { readonly limit: number | null; readonly used: number | null };
  readonly products: { readonly limit: number | null; readonly used: number | null };
  readonly storageBytes: { readonly limit: number | null; readonly used: number | null };
  readonly measuredAt: string;
}

const NONE = {
  requestsPerSecond: null,
  connections: null,
  statementTimeout: null,
  users: null,
  products: null,
  storageBytes: null,
};
const MIB = 1_048_576;

let service: TestService;
/** Another replica on the same registry. */
let other: TestService;
beforeAll(async () => {
  const registry = await createRegistry();
  service = await startService({ registry });
  other = await startService({ registry });
});
afterAll(() => Promise.all([service.close(), other.close()]));

function setLimits(
  tenant: { readonly id: string },
  limits: object,
  token = service.operatorToken,
): Promise<Answer<Tenant & LimitProblem>> {
  return service.send<Tenant & LimitProblem>('PATCH', `/tenants/${tenant.id}`, { token, body: { limits } });
}

async function limited(limits: object): Promise<TestTenant> {
  const tenant = await service.createTenant();
  expect((await setLimits(tenant, limits)).status).toBe(200);
  return tenant;
}

function addProduct(tenant: TestTenant, name = 'A lamp', on = service): Promise<Answer<LimitProblem & { id: string }>> {
  return on.send('POST', '/products', { token: tenant.adminToken, body: { name, price: '1.00' } });
}

function addUser(tenant: TestTenant, name: string): Promise<Answer<LimitProblem & { id: string }>> {
  const body = { email: `${name}@example.com`, password: 'user-password-123', firstName: 'Uma', lastName: 'User' };
  return service.send('POST', '/users', { token: tenant.adminToken, body });
}

function usageOf(tenant: { readonly id: string }, token = service.operatorToken, on = service): Promise<Answer<Usage>> {
  return on.send<Usage>('GET', `/tenants/${tenant.id}/usage`, { token });
}

/** The noun in the sentence about a limit. */
const counted: Readonly<Record<string, string>> = {
  requestsPerSecond: 'requests per second',
  connections: 'connections',
  statementTimeout: 'ms',
  users: 'users',
  products: 'products',
  storageBytes: 'bytes',
};

/** The refusal must name the limit in words and in fields. */
function expectRefusal(answer: Answer<LimitProblem>, status: 403 | 429, limit: string, value: number): void {
  expect([answer.status, answer.body.code, answer.text]).toEqual([
    status,
    'tenant-limit-exceeded',
    expect.any(String) as string,
  ]);
  const { detail, code, limit: named, limitValue } = answer.body;
  expect(detail).toContain(`limit of ${value.toLocaleString('en-US')} ${counted[limit] ?? ''}`);
  expect([code, named, limitValue]).toEqual(['tenant-limit-exceeded', limit, value]);
  expect(answer.headers['content-type']).toBe('application/problem+json; charset=utf-8');
  expect(answer.headers['retry-after']).toBe(status === 429 ? '1' : undefined);
}

const countOf = (answers: readonly { readonly status: number }[], status: number): number =>
  answers.filter((answer) => answer.status === status).length;

describe('limits', () => {
  it('can be set for a new tenant, changed one by one, and set back to their default with null', async () => {
    const limits = { users: 3, requestsPerSecond: 50 };
    const made = await service.send<Tenant>('POST', '/tenants', {
      token: service.operatorToken,
      body: { name: 'Limited', slug: 'limited', admin: ADMIN, limits },
    });
    expect([made.status, made.body.limits]).toEqual([201, { ...NONE, ...limits }]);
    const changed = await setLimits(made.body, { users: null, products: 7 });
    expect(changed.body.limits).toEqual({ ...NONE, requestsPerSecond: 50, products: 7 });
    const read = await service.send<Tenant>('GET', `/tenants/${made.body.id}`, { token: service.operatorToken });
    expect(read.body.limits).toEqual(changed.body.limits);
    expect(await findTenant(service.app.engine.registry, made.body.id)).toMatchObject({
      limits: { requestsPerSecond: 50, products: 7 },
    });
  });

  it('are upper bounds for the pool options', async () => {
    const tenant = await service.createTenant();
    const { body } = await setLimits(tenant, { connections: 3, statementTimeout: 2_000 });
    expect(body.poolOptions).toEqual({ max: 3, acquireTimeout: 5_000, timeout: 2_000, idleTimeoutMillis: 1_000 });
    const { body: back } = await setLimits(tenant, { connections: null, statementTimeout: null });
    expect(back.poolOptions).toEqual({
      max: 5,
      acquireTimeout: 5_000,
      timeout: 15_000,
      idleTimeoutMillis: 30_000,
    });
  });

  it('come from the configuration if a tenant has none of its own', async () => {
    const strict = await startServiceForTest({ env: { TENANT_PRODUCTS: '1', TENANT_CONNECTIONS: '4' } });
    const tenant = await strict.createTenant();
    const path = `/tenants/${tenant.id}`;
    const operator = { token: strict.operatorToken };
    const { body } = await strict.send<Tenant>('GET', path, operator);
    expect(body.limits).toEqual({ ...NONE, products: 1, connections: 4 });
    expect(await connectionLimit(strict, tenant)).toBe(4);
    expect((await addProduct(tenant, 'One', strict)).status).toBe(201);
    expectRefusal(await addProduct(tenant, 'Two', strict), 403, 'products', 1);
    await strict.send('PATCH', path, { ...operator, body: { limits: { products: 2 } } });
    expect((await addProduct(tenant, 'Two', strict)).status).toBe(201);
  });

  it.each<[string, object, string[]]>([
    ['a key that is none', { cpu: 1 }, ['/limits/cpu']],
    ['0 users', { users: 0 }, ['/limits/users']],
    ['less than a connection', { connections: -1 }, ['/limits/connections']],
    ['more connections than roles get', { connections: 401 }, ['/limits/connections']],
    ['a fraction', { products: 1.5 }, ['/limits/products']],
    ['text', { requestsPerSecond: '5' }, ['/limits/requestsPerSecond']],
    ['a timeout that nothing could keep', { statementTimeout: 99 }, ['/limits/statementTimeout']],
    ['more bytes than there are', { storageBytes: 2 ** 51 }, ['/limits/storageBytes']],
    ['several at once', { users: 1e9, cpu: 1 }, ['/limits/users', '/limits/cpu']],
  ])('%s are refused with each key named, and nothing changes', async (_, limits, paths) => {
    const tenant = await service.createTenant();
    const patched = await setLimits(tenant, limits);
    expect([patched.status, patched.body.code]).toEqual([422, 'invalid-limits']);
    expect(patched.body.errors.map(({ path }) => path)).toEqual(paths);
    const posted = await service.send<Problem>('POST', '/tenants', {
      token: service.operatorToken,
      body: { name: 'Not made', slug: 'not-made', admin: ADMIN, limits },
    });
    expect([posted.status, posted.body.code]).toEqual([422, 'invalid-limits']);
    expect(await findTenant(service.app.engine.registry, tenant.id)).toMatchObject({ limits: {} });
  });

  it('can be changed by operators, not by the tenant', async () => {
    const tenant = await limited({ users: 5 });
    const answer = await setLimits(tenant, { users: null }, tenant.adminToken);
    expect([answer.status, answer.body.code]).toEqual([403, 'forbidden']);
    expect(await findTenant(service.app.engine.registry, tenant.id)).toMatchObject({ limits: { users: 5 } });
  });
});

describe('requests a second', () => {
  it('are refused beyond the limit of a second, before the body is read, and accepted again with time', async () => {
    const tenant = await limited({ requestsPerSecond: 5 });
    const request = { token: tenant.adminToken };
    const answers = await Promise.all(
      Array.from({ length: 30 }, () => service.send<LimitProblem>('GET', '/products', request)),
    );
    expect(countOf(answers, 200)).toBeGreaterThanOrEqual(5);
    expect(countOf(answers, 200) + countOf(answers, 429)).toBe(30);
    const refused = answers.find(({ status }) => status === 429) ?? expect.unreachable();
    expectRefusal(refused, 429, 'requestsPerSecond', 5);
    // If the body were read, the answer would be 400, because it is not JSON.
    const unread = await Promise.all(
      Array.from({ length: 20 }, () =>
        service.app.inject({
          method: 'POST',
          url: '/products',
          headers: { authorization: `Bearer ${tenant.adminToken}`, 'content-type': 'application/json' },
          payload: '{',
        }),
      ),
    );
    expect(unread.map(({ statusCode }) => statusCode)).toContain(429);
    await expect.poll(async () => (await service.send('GET', '/products', request)).status).toBe(200);
  });

  it('are counted for the tenant alone, not for other tenants or for operators', async () => {
    const [tenant, neighbour] = [await limited({ requestsPerSecond: 1 }), await service.createTenant()];
    const of = (token: string, url: string): Promise<Answer[]> =>
      Promise.all(Array.from({ length: 10 }, () => service.send('GET', url, { token })));
    expect(countOf(await of(tenant.adminToken, '/products'), 429)).toBeGreaterThan(0);
    expect(countOf(await of(neighbour.adminToken, '/products'), 200)).toBe(10);
    expect(countOf(await of(service.operatorToken, `/tenants/${tenant.id}`), 200)).toBe(10);
  });

  it('are counted on each replica, and a new limit reaches both within a second', async () => {
    const tenant = await service.createTenant();
    const burst = async (on: TestService): Promise<number> => {
      const request = { token: tenant.adminToken };
      const answers = await Promise.all(Array.from({ length: 10 }, () => on.send('GET', '/products', request)));
      return countOf(answers, 429);
    };
    for (const on of [service, other]) expect(await burst(on)).toBe(0);
    await setLimits(tenant, { requestsPerSecond: 2 });
    expect(await burst(service)).toBeGreaterThan(0);
    await expect.poll(() => burst(other), { timeout: 1_000 }).toBeGreaterThan(0);
    await setLimits(tenant, { requestsPerSecond: null });
    for (const on of [service, other]) await expect.poll(() => burst(on), { timeout: 1_000 }).toBe(0);
  });
});

async function connectionLimit(of: TestService, { id }: { readonly id: string }): Promise<number | undefined> {
  const tenant = await findTenant(of.app.engine.registry, id);
  return asSuperuser('postgres', async (db) => {
    const { rows } = await sql<{ limit: number }>`
      select rolconnlimit as limit from pg_roles where rolname = ${tenant?.dbUser ?? ''}`.execute(db);
    return rows[0]?.limit;
  });
}

/** Holds a connection of the tenant's pool for a while. */
function hold(on: TestService, tenant: TestTenant, seconds: number): Promise<unknown> {
  return sql`select pg_sleep(${seconds})`.execute(on.app.engine.tenantPools.database(tenant.id));
}

describe('connections', () => {
  it('are bounded by PostgreSQL for all replicas together, and a refused request names the limit', async () => {
    const tenant = await service.createTenant();
    await service.send('PATCH', `/tenants/${tenant.id}`, {
      token: service.operatorToken,
      body: { limits: { connections: 1 }, poolOptions: { acquireTimeout: 300 } },
    });
    expect(await connectionLimit(service, tenant)).toBe(1);
    const held = hold(service, tenant, 1.5);
    await expect.poll(async () => (await sessionsOf(tenant)).length).toBe(1);
    const [here, there] = await Promise.all([
      addProduct(tenant, 'Too late', service),
      addProduct(tenant, 'Too late', other),
    ]);
    for (const answer of [here, there]) expectRefusal(answer, 429, 'connections', 1);
    expect((await sessionsOf(tenant)).length).toBe(1);
    await held;
    // The other replica gets the connection that this one no longer uses.
    await expect.poll(async () => (await addProduct(tenant, 'In time', other)).status, { timeout: 30_000 }).toBe(201);
  });

  it('never exceed the limit, and suffice for both replicas under load', async () => {
    const tenant = await limited({ connections: 3 });
    const load = (on: TestService): Promise<{ status: number }[]> =>
      Promise.all(
        Array.from({ length: 60 }, (_, index) =>
          index % 2 === 0 ? addProduct(tenant, 'x', on) : on.send('GET', '/products', { token: tenant.adminToken }),
        ),
      );
    const most: number[] = [];
    const watch = setInterval(() => void sessionsOf(tenant).then(({ length }) => most.push(length)), 20);
    const answers = (await Promise.all([load(service), load(other)])).flat();
    clearInterval(watch);
    expect(answers.filter(({ status }) => status >= 300)).toEqual([]);
    expect(most.length).toBeGreaterThan(0);
    expect(Math.max(...most)).toBeLessThanOrEqual(3);
  });

  it('are waited for while another replica gives one back', async () => {
    const tenant = await limited({ connections: 1 });
    const held = hold(service, tenant, 0.5);
    await expect.poll(async () => (await sessionsOf(tenant)).length).toBe(1);
    const answers = await Promise.all([
      addProduct(tenant, 'Patient', other),
      other.send('GET', '/products', { token: tenant.adminToken }),
    ]);
    expect(answers.map(({ status }) => status)).toEqual([201, 200]);
    await held;
  });

  it('get their limit from a job if the cluster did not accept it at first', async () => {
    const tenant = await limited({ connections: 7 });
    const row = await findTenant(service.app.engine.registry, tenant.id);
    await asSuperuser('postgres', (db) =>
      sql`alter role ${sql.id(row?.dbUser ?? '')} connection limit 400`.execute(db),
    );
    await service.app.engine.housekeeping.runNow('connection-limits');
    await other.app.engine.housekeeping.runNow('connection-limits');
    expect(await connectionLimit(service, tenant)).toBe(7);
    await setLimits(tenant, { connections: null });
    expect(await connectionLimit(service, tenant)).toBe(400);
  });

  async function sessionsOf({ id }: TestTenant): Promise<unknown[]> {
    const tenant = await findTenant(service.app.engine.registry, id);
    return asSuperuser('postgres', async (db) => {
      const { rows } = await sql`
        select pid from pg_stat_activity where usename = ${tenant?.dbUser ?? ''}`.execute(db);
      return rows;
    });
  }
});

describe('the statement timeout', () => {
  it('ends a longer statement, whatever the pool options say, and is named in the refusal', async () => {
    const tenant = await service.createTenant();
    await service.send('PATCH', `/tenants/${tenant.id}`, {
      token: service.operatorToken,
      body: { limits: { statementTimeout: 200 }, poolOptions: { timeout: 60_000 } },
    });
    const row = await findTenant(service.app.engine.registry, tenant.id);
    // The lock makes the insert wait until the database ends it.
    await asSuperuser(row?.dbName ?? '', (db) =>
      db.transaction().execute(async (trx) => {
        await sql`lock table products`.execute(trx);
        expectRefusal(await addProduct(tenant), 403, 'statementTimeout', 200);
        const read = await service.send<LimitProblem>('GET', '/products', { token: tenant.adminToken });
        expectRefusal(read, 403, 'statementTimeout', 200);
      }),
    );
    expect((await addProduct(tenant)).status).toBe(201);
  });
});

describe.each(['products', 'users'] as const)('the limit on %s', (what) => {
  const add = (tenant: TestTenant, name: string): Promise<Answer<LimitProblem & { id: string }>> =>
    what === 'users' ? addUser(tenant, name) : addProduct(tenant, name);

  it('is exact, however many requests come at once', async () => {
    const tenant = await limited({ [what]: 10 });
    const answers = await Promise.all(Array.from({ length: 50 }, (_, index) => add(tenant, `number-${index}`)));
    const made = what === 'users' ? 9 : 10; // The tenant's first admin is one of them.
    expect([countOf(answers, 201), countOf(answers, 403)]).toEqual([made, 50 - made]);
    for (const refused of answers.filter(({ status }) => status === 403)) expectRefusal(refused, 403, what, 10);
    expect((await usageOf(tenant)).body[what]).toEqual({ limit: 10, used: 10 });
  });

  it('can be set below the present number: it then refuses new objects, changes none, and free places can be used', async () => {
    const tenant = await service.createTenant();
    const made = [await add(tenant, 'first'), await add(tenant, 'second'), await add(tenant, 'third')];
    const before = (await usageOf(tenant)).body[what].used ?? 0;
    await setLimits(tenant, { [what]: 2 });
    expectRefusal(await add(tenant, 'more'), 403, what, 2);
    expect((await usageOf(tenant)).body[what]).toEqual({ limit: 2, used: before });
    const url = (id: string): string => `/${what}/${id}`;
    const changes = what === 'users' ? { firstName: 'Changed' } : { name: 'Changed' };
    const request = { token: tenant.adminToken };
    const [first, second, third] = made.map(({ body }) => url(body.id));
    expect((await service.send('PATCH', first ?? '', { ...request, body: changes })).status).toBe(200);
    for (const gone of [first, second, ...(what === 'products' ? [] : [third])])
      expect((await service.send('DELETE', gone ?? '', request)).status).toBe(204);
    expect((await add(tenant, 'again')).status).toBe(201);
    expectRefusal(await add(tenant, 'beyond'), 403, what, 2);
  });

  it('takes effect on the other replica within a second', async () => {
    const tenant = await service.createTenant();
    const body =
      what === 'users'
        ? { email: 'x@example.com', password: 'user-password-123', firstName: 'U', lastName: 'V' }
        : { name: 'x', price: '1' };
    const send = (): Promise<Answer<LimitProblem & { id: string }>> =>
      other.send('POST', `/${what}`, { token: tenant.adminToken, body });
    const made = await send();
    expect(made.status).toBe(201);
    await setLimits(tenant, { [what]: 1 });
    await expect.poll(async () => (await send()).body.code, { timeout: 1_000 }).toBe('tenant-limit-exceeded');
  });
});

describe('storage', () => {
  it('beyond the limit is refused to writes, while reading, deleting and signing out go on until there is room', async () => {
    const tenant = await service.createTenant();
    const { body: product } = await addProduct(tenant);
    const { used } = (await usageOf(tenant)).body.storageBytes;
    expect(used).toBeGreaterThan(MIB);
    await setLimits(tenant, { storageBytes: MIB });
    const request = { token: tenant.adminToken };
    const refused = [
      await addProduct(tenant),
      await addUser(tenant, 'nobody'),
      await service.send<LimitProblem>('PATCH', `/products/${product.id}`, { ...request, body: { name: 'x' } }),
      await service.send<LimitProblem>('POST', `/products/${product.id}/stock`, { ...request, body: { delta: 1 } }),
      await other.send<LimitProblem>('POST', '/roles', { ...request, body: { name: 'r', permissions: [] } }),
    ];
    for (const answer of refused) expectRefusal(answer, 403, 'storageBytes', MIB);
    expect((await service.send('GET', '/products', request)).status).toBe(200);
    expect((await service.send('DELETE', `/products/${product.id}`, request)).status).toBe(204);
    await setLimits(tenant, { storageBytes: (used ?? 0) + 10 * MIB });
    await expect.poll(async () => (await addProduct(tenant)).status, { timeout: 2_000 }).toBe(201);
    await setLimits(tenant, { storageBytes: MIB });
    expect((await service.send('POST', '/auth/logout', request)).status).toBe(204);
  });

  it('is freed by deleting, although PostgreSQL would keep it for new rows', { timeout: 60_000 }, async () => {
    const tenant = await service.createTenant();
    // Random, because PostgreSQL would compress anything else.
    const description = randomBytes(3_300).toString('base64');
    const body = { name: 'Large', price: '1.00', description };
    const request = { token: tenant.adminToken };
    const make = async (): Promise<string> => {
      const made = await service.send<{ id: string }>('POST', '/products', { ...request, body });
      expect(made.status).toBe(201);
      return made.body.id;
    };
    const { used: empty } = (await usageOf(tenant)).body.storageBytes;
    const ids: string[] = [];
    for (let round = 0; round < 20; round += 1) ids.push(...(await Promise.all(Array.from({ length: 20 }, make))));
    const limit = (empty ?? 0) + MIB;
    // With a limit on connections, unused ones close soon. Then the server counts the rows that they deleted.
    await setLimits(tenant, { storageBytes: limit, connections: 2 });
    expect((await usageOf(tenant)).body.storageBytes.used).toBeGreaterThan(limit);
    expectRefusal(await addProduct(tenant), 403, 'storageBytes', limit);
    for (const id of ids) expect((await service.send('DELETE', `/products/${id}`, request)).status).toBe(204);
    await expect
      .poll(
        async () => {
          await Promise.all([service, other].map(({ app }) => app.engine.housekeeping.runNow('storage-relief')));
          return (await addProduct(tenant)).status;
        },
        { timeout: 30_000, interval: 500 },
      )
      .toBe(201);
    expect((await usageOf(tenant)).body.storageBytes.used).toBeLessThanOrEqual(limit);
  });

  it('is measured again as it grows', async () => {
    const tenant = await service.createTenant();
    const { used } = (await usageOf(tenant)).body.storageBytes;
    const limit = (used ?? 0) + MIB;
    await setLimits(tenant, { storageBytes: limit });
    expect((await addProduct(tenant)).status).toBe(201);
    const row = await findTenant(service.app.engine.registry, tenant.id);
    await asSuperuser(row?.dbName ?? '', (db) =>
      sql`create table ballast as select repeat(n::text, 100) from generate_series(1, 20000) as n`.execute(db),
    );
    // Reading the usage measures at once, so that the test need not wait.
    expect((await usageOf(tenant)).body.storageBytes.used).toBeGreaterThan(limit);
    expectRefusal(await addProduct(tenant), 403, 'storageBytes', limit);
    await asSuperuser(row?.dbName ?? '', (db) => sql`drop table ballast`.execute(db));
    await expect.poll(async () => (await addProduct(tenant)).status).toBe(201);
  });

  it('never causes a 500 if the database does not answer', async () => {
    const tenant = await limited({ storageBytes: 100 * MIB, products: 5, connections: 2, requestsPerSecond: 1_000 });
    const row = await findTenant(service.app.engine.registry, tenant.id);
    const name = sql.id(row?.dbName ?? '');
    expect((await addProduct(tenant, 'before', other)).status).toBe(201);
    const close = (): Promise<void> =>
      asSuperuser('postgres', async (db) => {
        await sql`alter database ${name} allow_connections false`.execute(db);
        await sql`select pg_terminate_backend(pid) from pg_stat_activity where datname = ${row?.dbName ?? ''}`.execute(
          db,
        );
        // The signal takes time to arrive.
        const left = async (): Promise<number> => {
          const { rows } = await sql`select from pg_stat_activity where datname = ${row?.dbName ?? ''}`.execute(db);
          return rows.length;
        };
        await expect.poll(left, { timeout: 30_000 }).toBe(0);
      });
    for (const on of [service, other])
      for (const ask of [() => addProduct(tenant, 'after', on), () => usageOf(tenant, service.operatorToken, on)]) {
        // A job of the service opens the database of an active tenant again.
        await close();
        const answer = await ask();
        expect([answer.status, answer.text]).toEqual([503, expect.any(String) as string]);
      }
  });
});

describe('the usage route', () => {
  it('shows each limit with its usage to operators and to the tenant’s own admin', async () => {
    const tenant = await limited({ requestsPerSecond: 100, connections: 4, users: 20 });
    await addUser(tenant, 'second');
    await addProduct(tenant);
    for (const token of [service.operatorToken, tenant.adminToken]) {
      const { status, body } = await usageOf(tenant, token);
      expect(status).toBe(200);
      expect(body).toMatchObject({
        requestsPerSecond: { limit: 100, used: expect.any(Number) as number },
        connections: { limit: 4 },
        statementTimeout: { limit: null },
        users: { limit: 20, used: 2 },
        products: { limit: null, used: 1 },
        storageBytes: { limit: null },
      });
      expect(body.connections.used).toBeGreaterThanOrEqual(1);
      expect(body.connections.here).toBeLessThanOrEqual(body.connections.used ?? 0);
      expect(body.storageBytes.used).toBeGreaterThan(MIB);
      expect(Math.abs(Date.now() - Date.parse(body.measuredAt))).toBeLessThan(60_000);
    }
    const { body } = await usageOf(tenant, tenant.adminToken);
    expect(body.requestsPerSecond.used).toBeGreaterThanOrEqual(1);
    // The other replica counts its own requests, and sees all connections of the role.
    expect((await usageOf(tenant, service.operatorToken, other)).body.requestsPerSecond.used).toBe(0);
  });

  it('shows no usage of a database that is closed to its tenant', async () => {
    const tenant = await limited({ users: 3 });
    const operator = { token: service.operatorToken };
    await service.send('PATCH', `/tenants/${tenant.id}`, { ...operator, body: { active: false } });
    const { status, body } = await usageOf(tenant);
    expect([status, body.users, body.storageBytes.used]).toEqual([200, { limit: 3, used: null }, null]);
    expect((await usageOf(tenant, tenant.adminToken)).status).toBe(403);
  });

  it('is hidden from other tenants and from users without the permission', async () => {
    const [tenant, stranger] = [await service.createTenant(), await service.createTenant()];
    const member = await service.createUser(tenant, 'member@example.com');
    const foreign = await usageOf(tenant, stranger.adminToken);
    const nowhere = await usageOf({ id: '01900000-0000-7000-8000-00000000ffff' }, stranger.adminToken);
    expect([foreign.status, nowhere.status]).toEqual([404, 404]);
    expect({ ...foreign.body, requestId: '' }).toEqual({ ...nowhere.body, requestId: '' });
    expect((await usageOf(tenant, member.token)).status).toBe(403);
    expect((await service.send('GET', `/tenants/${tenant.id}/usage`)).status).toBe(401);
    expect((await usageOf({ id: 'acme' })).status).toBe(400);
    expect((await usageOf({ id: '01900000-0000-7000-8000-00000000ffff' })).status).toBe(404);
  });
});
