// Recent sign-in: with a token whose sign-in is older than five minutes, no act that gives away everything is possible. The acts
// come from the route table: a route that declares `recent` fails here until it has its requests in the list below.
import { sql } from 'kysely';
import { afterAll, describe, expect, it, onTestFinished } from 'vitest';
import { RECENT } from '../../src/auth/recent-sign-in.js';
import {
  ADMIN,
  asSuperuser,
  beginSession,
  createRegistry,
  OPERATOR,
  startService,
  startServiceForTest,
  type Answer,
  type PageOf,
  type Problem,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { noRedis, startRedis } from '../support/redis.js';
import { rowOf } from '../support/tenants.js';
import { nameOf, rowsOf } from '../support/writes.js';

// The routes are needed while the tests are being listed, hence no beforeAll.
const registry = await createRegistry();
const service = await startService({ registry });
const { app, send } = service;
const tenant = await service.createTenant('recent');
afterAll(() => service.close());

/** One request of a route. */
interface Attempt {
  readonly url: string;
  readonly body?: Record<string, unknown>;
}

/** How the requests of a route are made. Each call makes a new object to act on. */
interface Requests {
  /** These need a recent sign-in. The status is that of the same request after the confirmation. */
  readonly needing: Readonly<Record<string, readonly [status: number, make: () => Promise<Attempt>]>>;
  /** These do not. */
  readonly everyday?: Readonly<Record<string, readonly [status: number, make: () => Promise<Attempt>]>>;
}

let made = 0;
const unique = (): string => `unique-${(made += 1)}`;

const person = (roles: readonly string[]): Record<string, unknown> => ({
  email: `${unique()}@example.com`,
  password: 'user-password-123',
  firstName: 'Uma',
  lastName: 'User',
  roles,
});

async function created(url: string, body: Record<string, unknown>, token: string): Promise<string> {
  const answer = await send<{ id: string }>('POST', url, { token, body });
  expect(answer.status, answer.text).toBe(201);
  return answer.body.id;
}

const userOf = (...roles: string[]): Promise<string> => created('/users', person(roles), tenant.adminToken);
const roleOf = (...permissions: string[]): Promise<string> =>
  created('/roles', { name: unique(), permissions }, tenant.adminToken);

async function tenantToRemove({ deleted = false } = {}): Promise<string> {
  const { id } = await service.createTenant(unique());
  if (deleted) expect((await send('DELETE', `/tenants/${id}`, { token: service.operatorToken })).status).toBe(204);
  return id;
}

async function defaultCluster(): Promise<string> {
  const list = await send<PageOf<{ id: string }>>('GET', '/clusters', { token: service.operatorToken });
  return list.body.data[0]?.id ?? '';
}

const ofUser = (id: string, body: Record<string, unknown>): Attempt => ({ url: `/users/${id}`, body });
const newTenant = (): Record<string, unknown> => ({ name: unique(), slug: unique(), admin: ADMIN });
const CLUSTER = {
  name: 'far',
  host: '192.0.2.1',
  provisionerUser: 'far',
  provisionerPassword: 'far',
  connectionBudget: 9,
};
const ofCluster = async (body: Record<string, unknown>): Promise<Attempt> => ({
  url: `/clusters/${await defaultCluster()}`,
  body,
});

const requests: Readonly<Record<string, Requests>> = {
  'POST /users': {
    needing: {
      'for an admin': [201, async () => ({ url: '/users', body: person(['admin']) })],
      'for a role that manages users': [
        201,
        async () => {
          const name = unique();
          await created('/roles', { name, permissions: ['users:write'] }, tenant.adminToken);
          return { url: '/users', body: person(['member', name]) };
        },
      ],
    },
    everyday: { 'for a member': [201, async () => ({ url: '/users', body: person(['member']) })] },
  },
  'PATCH /users/:id': {
    needing: {
      'for another user’s password': [
        200,
        async () => ofUser(await userOf('member'), { password: 'reset-password-123' }),
      ],
      'for another user’s e-mail address': [
        200,
        async () => ofUser(await userOf('member'), { email: `${unique()}@example.com` }),
      ],
      'for the role admin': [200, async () => ofUser(await userOf('member'), { roles: ['admin'] })],
      'for a deactivated admin': [
        200,
        async () => {
          const id = await userOf('admin');
          const ended = await send('PATCH', `/users/${id}`, { token: tenant.adminToken, body: { active: false } });
          expect(ended.status).toBe(200);
          return ofUser(id, { active: true });
        },
      ],
    },
    everyday: {
      'for another user’s name': [200, async () => ofUser(await userOf('admin'), { firstName: 'Eva' })],
      'for a role that manages nothing': [200, async () => ofUser(await userOf('admin'), { roles: ['member'] })],
      'to deactivate an admin': [200, async () => ofUser(await userOf('admin'), { active: false })],
      'to activate a member': [200, async () => ofUser(await userOf('member'), { active: true })],
      'for one’s own e-mail address and roles, with the current password': [
        200,
        async () => ofUser(tenant.adminId, { email: ADMIN.email, roles: ['admin'], currentPassword: ADMIN.password }),
      ],
    },
  },
  'POST /roles': {
    needing: {
      'that manages users': [
        201,
        async () => ({ url: '/roles', body: { name: unique(), permissions: ['users:read', 'users:write'] } }),
      ],
      'that manages roles': [
        201,
        async () => ({ url: '/roles', body: { name: unique(), permissions: ['roles:write'] } }),
      ],
    },
    everyday: {
      'that manages nothing': [
        201,
        async () => ({ url: '/roles', body: { name: unique(), permissions: ['products:read', 'users:read'] } }),
      ],
    },
  },
  'PATCH /roles/:id': {
    needing: {
      'to let it manage users': [
        200,
        async () => ({
          url: `/roles/${await roleOf('users:read')}`,
          body: { permissions: ['users:read', 'users:write'] },
        }),
      ],
    },
    everyday: {
      'for its description': [
        200,
        async () => ({ url: `/roles/${await roleOf('users:write')}`, body: { description: 'Changed' } }),
      ],
      'to let it manage nothing': [
        200,
        async () => ({ url: `/roles/${await roleOf('users:write')}`, body: { permissions: [] } }),
      ],
    },
  },
  'POST /tenants': {
    needing: {
      'with a database that exists': [
        422,
        async () => ({
          url: '/tenants',
          body: { ...newTenant(), adopt: { clusterId: await defaultCluster(), database: unique() } },
        }),
      ],
    },
    everyday: { 'with a new database': [201, async () => ({ url: '/tenants', body: newTenant() })] },
  },
  'DELETE /tenants/:id': {
    needing: { 'of any tenant': [204, async () => ({ url: `/tenants/${await tenantToRemove()}` })] },
  },
  'POST /tenants/:id/purge': {
    needing: {
      'of a deleted tenant': [204, async () => ({ url: `/tenants/${await tenantToRemove({ deleted: true })}/purge` })],
    },
  },
  'POST /clusters': {
    // The host is not allowed: the request has passed the check of the sign-in.
    needing: { 'of any server': [422, async () => ({ url: '/clusters', body: CLUSTER })] },
  },
  'PATCH /clusters/:id': {
    // The connection of the default cluster cannot be changed: the request has passed the check of the sign-in.
    needing: Object.fromEntries(
      Object.entries({ host: '192.0.2.1', port: 5433, tls: 'off', tlsCa: null, provisionerPassword: 'changed' }).map(
        ([field, value]) => [`for ${field}`, [409, () => ofCluster({ [field]: value })] as const],
      ),
    ),
    everyday: { 'for its weight': [200, () => ofCluster({ weight: 100 })] },
  },
};

const declared = app.routeTable.filter(({ access }) => access.recent !== undefined);
type Route = (typeof declared)[number];

/** The token of a new session of the route's caller. @param signedInAgo seconds */
function tokenFor(route: Route, signedInAgo: number): Promise<string> {
  return route.access.scope === 'operator' ? tokenOfOperator(signedInAgo) : tokenOfAdmin(signedInAgo);
}

function tokenOfAdmin(signedInAgo: number, by = service, of: TestTenant = tenant): Promise<string> {
  const account = { kind: 'user', tenantId: of.id, userId: of.adminId } as const;
  return beginSession(by.app, account, signedInAgo * 1_000);
}

function tokenOfOperator(signedInAgo: number, by = service): Promise<string> {
  const { principal } = by.app.tokens.read(by.operatorToken);
  if (principal.kind !== 'operator') throw new Error('this is an operator’s token');
  const { kind, operatorId } = principal;
  return beginSession(by.app, { kind, operatorId }, signedInAgo * 1_000);
}

/** The password of the route's caller. */
function passwordFor(route: Route): string {
  return (route.access.scope === 'operator' ? OPERATOR : ADMIN).password;
}

interface Confirmed {
  readonly accessToken: string;
  readonly tokenType: string;
  readonly expiresIn: number;
}

function confirm(token: string, password: string, by = service): Promise<Answer<Confirmed>> {
  return by.send<Confirmed>('POST', '/auth/confirm', { token, body: { password } });
}

/** The rows of the tenant and of the registry that acts change. */
async function everything(): Promise<unknown> {
  const { dbName } = await rowOf(service, tenant);
  const ofTenant = ['users', 'roles', 'user_roles', 'role_permissions', 'audit'];
  return [
    await asSuperuser(dbName, (db) => rowsOf(db, ofTenant)),
    await asSuperuser(registry, (db) => rowsOf(db, ['tenants', 'clusters', 'operations'])),
  ];
}

function expectNeeded({ status, body, text }: Answer): void {
  expect([status, (body as unknown as Problem).code], text).toEqual([403, 'confirmation-needed']);
  expect(body['detail']).toContain('POST /auth/confirm');
}

it('the list has every route that declares a recent sign-in, and no other', () => {
  expect(declared.map(nameOf).sort()).toEqual(Object.keys(requests).sort());
});

/** The acts of this kind, of all routes. */
function casesOf(
  kind: keyof Requests,
): (readonly [name: string, route: Route, status: number, make: () => Promise<Attempt>])[] {
  return declared.flatMap((route) =>
    Object.entries(requests[nameOf(route)]?.[kind] ?? {}).map(
      ([what, [status, make]]) => [`${nameOf(route)} ${what}`, route, status, make] as const,
    ),
  );
}

describe.each(casesOf('needing'))('%s', (_name, route, status, make) => {
  it('needs a recent sign-in: with an older one it changes nothing, and after a confirmation it works', async () => {
    const { url, body } = await make();
    const act = (token: string): Promise<Answer> => send(route.method as 'POST', url, { token, ...(body && { body }) });
    const old = await tokenFor(route, RECENT);
    const before = await everything();
    expectNeeded(await act(old));
    expect(await everything()).toEqual(before);
    const { accessToken } = (await confirm(old, passwordFor(route))).body;
    // The old token of the same session gains nothing.
    expectNeeded(await act(old));
    const done = await act(accessToken);
    expect(done.status, done.text).toBe(status);
  });

  it('accepts a sign-in of a minute less than the limit', async () => {
    const { url, body } = await make();
    const token = await tokenFor(route, RECENT - 60);
    const done = await send(route.method as 'POST', url, { token, ...(body && { body }) });
    expect(done.status, done.text).toBe(status);
  });
});

it.each(casesOf('everyday'))('%s needs no recent sign-in', async (_name, route, status, make) => {
  const { url, body } = await make();
  const done = await send(route.method as 'POST', url, { token: await tokenFor(route, 3_600), ...(body && { body }) });
  expect(done.status, done.text).toBe(status);
});

it('a missing permission, an ended session and a deactivated account are refused before the sign-in is looked at', async () => {
  const member = await service.createUser(tenant, `${unique()}@example.com`);
  const of = app.tokens.read(member.token).principal;
  const token = app.tokens.sign(of, RECENT * 1_000);
  const attempt = { token, body: person(['admin']) };
  expect((await send('POST', '/users', attempt)).body).toMatchObject({ status: 403, code: 'forbidden' });
  const operator = await tokenOfOperator(RECENT);
  expect((await send('POST', '/auth/logout', { token: operator })).status).toBe(204);
  expect((await send('DELETE', `/tenants/${tenant.id}`, { token: operator })).status).toBe(401);
  expect((await confirm(operator, OPERATOR.password)).status).toBe(401);
  const end = { token: tenant.adminToken, body: { active: false } };
  expect((await send('PATCH', `/users/${member.id}`, end)).status).toBe(200);
  expect((await confirm(token, member.password)).status).toBe(401);
});

describe('a confirmation', () => {
  const admins = (token: string, by = service): Promise<Answer> =>
    by.send('POST', '/users', { token, body: person(['admin']) });

  it('answers an access token of the same session, which is not stored by caches, and has a row in the audit', async () => {
    const old = await tokenOfAdmin(RECENT);
    const { status, body, headers } = await confirm(old, ADMIN.password);
    expect(status).toBe(200);
    expect(body).toEqual({ accessToken: expect.any(String) as string, tokenType: 'Bearer', expiresIn: 900 });
    expect(headers['cache-control']).toBe('no-store');
    const { principal } = app.tokens.read(old);
    expect(app.tokens.read(body.accessToken).principal).toEqual(principal);
    const audit = await send<PageOf<{ target: unknown }>>('GET', `/audit?action=auth.confirmed&limit=1`, {
      token: tenant.adminToken,
    });
    expect(audit.body.data).toMatchObject([{ target: { kind: 'session', id: principal.sessionId } }]);
  });

  it('confirms no other session of the same user', async () => {
    const [one, other] = [await tokenOfAdmin(RECENT), await tokenOfAdmin(RECENT)];
    const { accessToken } = (await confirm(one, ADMIN.password)).body;
    expectNeeded(await admins(other));
    expect((await admins(accessToken)).status).toBe(201);
  });

  it('ends with its session', async () => {
    const { accessToken } = (await confirm(await tokenOfAdmin(RECENT), ADMIN.password)).body;
    expect((await send('POST', '/auth/logout', { token: accessToken })).status).toBe(204);
    expect((await admins(accessToken)).status).toBe(401);
  });

  it('with a wrong password is refused and audited, and too many delay the next, even with the right password', async () => {
    const limited = await startServiceForTest({ env: { SIGN_IN_FAILURES_ACCOUNT: '2' } });
    const own = await limited.createTenant();
    const token = await tokenOfAdmin(RECENT, limited, own);
    for (let guess = 0; guess < 2; guess += 1)
      expect((await confirm(token, 'not-the-password', limited)).body).toMatchObject({ code: 'wrong-password' });
    const { status, headers } = await confirm(token, ADMIN.password, limited);
    expect(status).toBe(429);
    expect(Number(headers['retry-after'])).toBeGreaterThan(0);
    expectNeeded(await admins(token, limited));
    await expect
      .poll(async () => {
        const url = '/audit?action=auth.confirmation-failed';
        return (await limited.send<PageOf<unknown>>('GET', url, { token })).body.data.length;
      })
      .toBe(2);
  });
});

describe('a refresh', () => {
  const signIn = async (): Promise<{ accessToken: string; refreshToken: string }> => {
    const body = { tenant: tenant.slug, email: ADMIN.email, password: ADMIN.password };
    return (await send<{ accessToken: string; refreshToken: string }>('POST', '/auth/login', { body })).body;
  };
  const refreshed = async (refreshToken: string): Promise<{ accessToken: string; refreshToken: string }> =>
    (await send<{ accessToken: string; refreshToken: string }>('POST', '/auth/refresh', { body: { refreshToken } }))
      .body;
  const age = async (accessToken: string, seconds: number): Promise<void> => {
    const { sessionId } = app.tokens.read(accessToken).principal;
    const { dbName } = await rowOf(service, tenant);
    await asSuperuser(dbName, (db) =>
      sql`update sessions set created_at = created_at - ${seconds} * interval '1 second' where id = ${sessionId}`.execute(
        db,
      ),
    );
  };
  const act = (token: string): Promise<Answer> => send('POST', '/users', { token, body: person(['admin']) });

  it('keeps the time of the sign-in, by the clock of the session’s database', async () => {
    const first = await signIn();
    expect((await act(first.accessToken)).status).toBe(201);
    await age(first.accessToken, RECENT - 60);
    const second = await refreshed(first.refreshToken);
    expect((await act(second.accessToken)).status).toBe(201);
    await age(first.accessToken, 60);
    const third = await refreshed(second.refreshToken);
    expectNeeded(await act(third.accessToken));
    // The answer to this refresh was lost: the same token is presented again.
    expectNeeded(await act((await refreshed(second.refreshToken)).accessToken));
    // A confirmation is not passed on to the next token.
    const { accessToken } = (await confirm(third.accessToken, ADMIN.password)).body;
    expect((await act(accessToken)).status).toBe(201);
    expectNeeded(await act((await refreshed(third.refreshToken)).accessToken));
  });
});

describe.each([
  ['without Redis', false],
  ['with Redis', true],
])('on two replicas %s', (_name, shared) => {
  it.skipIf(shared && noRedis !== undefined)(
    'an old sign-in is refused, and a confirmation counts, on both',
    async () => {
      const redis = shared ? await startRedis() : undefined;
      if (redis) onTestFinished(() => redis.close());
      const env = redis ? { REDIS_URL: redis.url } : {};
      const own = await createRegistry();
      const one = await startServiceForTest({ registry: own, env });
      const other = await startServiceForTest({ registry: own, env, operator: false });
      const replicas: readonly TestService[] = [one, other];
      const operator = await tokenOfOperator(RECENT, one);
      const { accessToken } = (await confirm(operator, OPERATOR.password, one)).body;
      for (const replica of replicas) {
        const { send } = replica;
        const { id } = await replica.createTenant(unique());
        expectNeeded(await send('DELETE', `/tenants/${id}`, { token: operator }));
        expect((await send('DELETE', `/tenants/${id}`, { token: accessToken })).status).toBe(204);
      }
      expect((await one.send('POST', '/auth/logout', { token: accessToken })).status).toBe(204);
      for (const { send } of replicas)
        await expect.poll(async () => (await send('GET', '/auth/me', { token: accessToken })).status).toBe(401);
    },
  );
});
