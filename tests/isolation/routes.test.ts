// Isolation as the API enforces it, derived from the route table: on every route for a tenant's users, tenant A tries to reach
// tenant B. A route that cannot be tried fails here until its resource is in tests/support/route-resources.ts. Within a tenant,
// each of these routes needs a permission, and is refused without it.
import { sql } from 'kysely';
import { afterAll, describe, expect, it } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant } from '../../db/registry/tenant-queries.js';
import type { RouteEntry } from '../../src/auth/route-access.js';
import { permissions } from '../../src/auth/permissions.js';
import {
  asSuperuser,
  beginSession,
  connectAs,
  createRegistry,
  startService,
  type Answer,
  type TestTenant,
} from '../support/app.js';
import { resources, type Resource } from '../support/route-resources.js';

/** Every client may call these. A new one must be added here on purpose. */
const publicRoutes = [
  'POST /auth/login',
  'POST /auth/operator/login',
  'POST /auth/refresh',
  'GET /health/live',
  'GET /health/ready',
  'GET /.well-known/jwks.json',
  'GET /',
  'GET /docs',
  'GET /docs/json',
  'GET /docs/yaml',
  'GET /docs/static/index.html',
  'GET /docs/static/swagger-initializer.js',
  'GET /docs/static/theme/icon.svg',
  'GET /docs/static/*',
];

/** Every user may call these, because they are about its own account. A new one must be added here on purpose. */
const selfRoutes = [
  'GET /auth/me',
  'GET /auth/sessions',
  'DELETE /auth/sessions/:id',
  'POST /auth/logout',
  'POST /auth/logout-all',
  'POST /auth/confirm',
  'POST /auth/password',
];

/** The same if the path names the user; for other users they need a permission. */
const orSelfRoutes = ['GET /users/:id', 'PATCH /users/:id'];

// The routes are needed while the tests are being listed, hence no beforeAll.
const registry = await createRegistry();
const home = await startService({ registry });
const a = await home.createTenant('reaching-a');
const b = await home.createTenant('reached-b');
const member = await home.createUser(a, 'member@example.com');
/** Another process on the same registry. Only A sends requests to it: it has no reason to build a pool for B. */
const reached = await startService({ registry });
afterAll(() => Promise.all([home.close(), reached.close()]));

const routes = home.app.routeTable;
const within = (...scopes: RouteEntry['access']['scope'][]): (readonly [string, RouteEntry])[] =>
  routes.filter(({ access }) => scopes.includes(access.scope)).map((route) => [nameOf(route), route]);

/** Part of every text in B's rows. */
const OF_B = 'only-in-b';
const idsOfB: string[] = [b.id, b.slug, b.adminId];

describe.each(within('tenant', 'platform'))('%s', (_name, route) => {
  it('gives tenant A nothing of tenant B, and changes nothing of B', async () => {
    const attempt = await attemptOn(route);
    const before = await everythingOfB();
    const headers = {
      'x-tenant-id': b.id,
      'x-tenant': b.slug,
      host: `${b.slug}.example.com`,
      'x-http-method-override': 'GET',
    };
    const query = `?tenantId=${b.id}&tenant=${b.slug}`;

    const answers: [string, Answer, readonly number[]][] = [];
    const reach = async (
      how: string,
      expected: readonly number[],
      options: Parameters<typeof reached.send>[2],
      suffix = '',
    ): Promise<void> => {
      const body = attempt.body('made-by-a');
      answers.push([
        how,
        await reached.send(attempt.method, attempt.url + suffix, { ...(body && { body }), ...options }),
        expected,
      ]);
    };
    // With an id of B in the path, the answer is 403 or 404; without one, A works in its own tenant, whatever the request names.
    const refused = [403, 404];
    const plain = attempt.namesB ? refused : [200, 201, 204];
    await reach('as it is', plain, { token: await signedIn(a) });
    await reach('headers', attempt.namesB ? refused : [200, 201, 204, 409], { token: await signedIn(a), headers });
    await reach(
      'query',
      [...(attempt.namesB ? refused : [200, 201, 204, 409]), 400],
      { token: await signedIn(a) },
      query,
    );
    await reach('as a member', [...plain, 403, 409], { token: await signedIn(a, member.id) });
    for (const key of ['tenantId', 'tenant', 'tenant_id']) {
      const body = attempt.body('made-by-a');
      if (body) await reach(`body ${key}`, [400], { token: await signedIn(a), body: { ...body, [key]: b.id } });
    }

    for (const [how, { status, text }, expected] of answers) {
      expect(expected, `${how}: ${text}`).toContain(status);
      for (const secret of [OF_B, ...idsOfB]) expect(text, how).not.toContain(secret);
    }
    expect(await everythingOfB()).toEqual(before);
  });

  it('accepts the same request from B, which shows that the refusal is about A', async () => {
    const attempt = await attemptOn(route);
    const body = attempt.body(`${OF_B}-${unique()}`);
    const { status, text } = await home.send(attempt.method, attempt.url, {
      token: await signedIn(b),
      ...(body && { body }),
    });
    expect([200, 201, 204], text).toContain(status);
  });

  it('answers 401 without a token', async () => {
    const attempt = await attemptOn(route);
    const body = attempt.body('nobody');
    const { status, headers } = await reached.send(attempt.method, attempt.url, body && { body });
    expect(status).toBe(401);
    expect(headers['www-authenticate']).toBe('Bearer');
  });
});

const lists = within('tenant').filter(([, { method, url }]) => method === 'GET' && !url.includes(':'));

it.each(lists)('%s refuses A a cursor of B', async (_name, route) => {
  for (let row = 0; row < 2; row += 1) await makeIn(b, pathOf(route.url));
  const { body } = await home.send<{ nextCursor: string }>('GET', `${route.url}?limit=1`, { token: await signedIn(b) });
  expect(body.nextCursor).toEqual(expect.any(String));
  const url = `${route.url}?limit=1&cursor=${encodeURIComponent(body.nextCursor)}`;
  expect((await reached.send('GET', url, { token: await signedIn(a) })).body).toMatchObject({
    status: 400,
    code: 'invalid-cursor',
  });
  expect((await home.send('GET', url, { token: await signedIn(b) })).status).toBe(200);
});

const collections = within('tenant').filter(([, { method, url }]) => method === 'POST' && !url.includes(':'));

it.each(collections)('%s lets A use every value that B uses, even a unique one', async (_name, { url }) => {
  const body = resourceOf(url).make?.(`${OF_B}-${unique()}`);
  expect((await home.send('POST', url, { token: await signedIn(b), body })).status).toBe(201);
  // A unique value is unique within one tenant: its second use is refused for B, and not for A. Some resources have none.
  const again = ['/products', '/roles', '/users'].includes(url) ? [409] : [201, 409];
  expect(again).toContain((await home.send('POST', url, { token: await signedIn(b), body: { ...body } })).status);
  expect((await reached.send('POST', url, { token: await signedIn(a), body })).status).toBe(201);
});

describe.each(within('operator'))('%s, for operators', (_name, route) => {
  it('refuses every token of a tenant, even for its own tenant, and changes nothing', async () => {
    const before = await everythingOfB();
    for (const [token, id] of [
      [await signedIn(a), b.id],
      [await signedIn(a), a.id],
      [await signedIn(a, member.id), a.id],
    ] as const) {
      const attempt = await attemptOn(route, id);
      const body = attempt.body('made-by-a');
      const { status, text } = await reached.send(attempt.method, attempt.url, { token, ...(body && { body }) });
      expect(status, text).toBe(403);
      for (const secret of idsOfB) expect(text).not.toContain(secret);
    }
    expect(await everythingOfB()).toEqual(before);
    expect(await findTenant(home.app.engine.registry, a.id)).toMatchObject({ status: 'active' });
  });
});

describe('a permission', () => {
  const tenantRoutes = within('tenant', 'platform');
  const named = (routes: typeof tenantRoutes): string[] => routes.map(([name]) => name).sort();

  it('is declared by every route that a user may call, except the routes about the user’s own account', () => {
    const bare = tenantRoutes.filter(
      ([, { access }]) => !(permissions as readonly unknown[]).includes(access.permission),
    );
    expect(named(bare)).toEqual([...selfRoutes].sort());
    expect(new Set(bare.map(([, { access }]) => access.permission))).toEqual(new Set(['self']));
    expect(named(tenantRoutes.filter(([, { access }]) => access.orSelf))).toEqual([...orSelfRoutes].sort());
  });

  it('is a permission to write on every route that writes, and a permission to read on every other', () => {
    for (const [name, { method, access }] of tenantRoutes) {
      if (access.permission !== 'self')
        expect(access.permission, name).toMatch(method === 'GET' ? /:read$/ : /:write$/);
    }
  });

  // The caller holds all other permissions: only the missing one can be the reason of the refusal.
  const guarded = tenantRoutes.filter(([, { access }]) => access.permission !== 'self');
  const withoutIt = new Map<string, Promise<string>>();
  const tokenWithout = async (missing: string): Promise<string> => {
    const admin = { ...b, adminToken: await signedIn(b) };
    const name = `all-but-${missing.replace(':', '-')}`;
    const body = { name, permissions: permissions.filter((permission) => permission !== missing) };
    const made = await home.send('POST', '/roles', { token: admin.adminToken, body });
    expect(made.status, made.text).toBe(201);
    return (await home.createUser(admin, `${name}@example.com`, [name])).token;
  };

  it.each(guarded)('is required on %s: without it the answer is 403, and nothing changes', async (_name, route) => {
    const permission = String(route.access.permission);
    const token = withoutIt.get(permission) ?? tokenWithout(permission);
    withoutIt.set(permission, token);
    const attempt = await attemptOn(route);
    const body = attempt.body(`${OF_B}-${unique()}`);
    await token;
    const before = await everythingOfB();
    const answer = await home.send(attempt.method, attempt.url, { token: await token, ...(body && { body }) });
    expect(answer.body).toMatchObject({ status: 403, code: 'forbidden' });
    expect(answer.body['detail']).toContain(`"${permission}"`);
    expect(await everythingOfB()).toEqual(before);
  });
});

it.each(within('tenant'))('%s refuses an operator', async (_name, route) => {
  const attempt = await attemptOn(route);
  const body = attempt.body('made-by-an-operator');
  const { status } = await reached.send(attempt.method, attempt.url, {
    token: reached.operatorToken,
    ...(body && { body }),
  });
  expect(status).toBe(403);
});

it('lists every public route by name', () => {
  expect(
    within('public')
      .map(([name]) => name)
      .sort(),
  ).toEqual([...publicRoutes].sort());
});

it('knows every scope that a route can have', () => {
  expect(within('public', 'operator', 'tenant', 'platform')).toHaveLength(routes.length);
});

it.each([
  ['GET', '/unheard-of', 'GET /unheard-of'],
  ['POST', '/products/:id/copies', 'POST /products/:id/copies'],
  ['GET', '/products/:id/images/:image', 'GET /products/:id/images/:image'],
])('fails for a route that it cannot attempt: %s %s', async (method, url, name) => {
  await expect(attemptOn({ method, url, access: { scope: 'tenant', permission: 'self' } })).rejects.toThrow(
    `no attempt for ${name}`,
  );
});

it('a process that served only A built no pool for B', () => {
  expect(reached.app.engine.tenantPools.stats().pools).toBe(1);
});

/** A token of a new session: some of the routes end the session that they are called with. */
function signedIn(tenant: TestTenant, userId = tenant.adminId): Promise<string> {
  return beginSession(home.app, { kind: 'user', tenantId: tenant.id, userId });
}

function sessionOf(token: string): string {
  return home.app.tokens.read(token).principal.sessionId;
}

interface Attempt {
  readonly method: 'GET' | 'POST' | 'PATCH' | 'DELETE';
  readonly url: string;
  /** Whether the path contains an id of B. */
  readonly namesB: boolean;
  /** A valid body, new each time, or none if the route takes none. */
  readonly body: (label: string) => Record<string, unknown> | undefined;
}

/**
 * A request on the route that is valid except for the tenant.
 *
 * @param id the target, instead of a new object of B
 * @throws Error naming the route, if tests/support/route-resources.ts does not cover it
 */
async function attemptOn(route: RouteEntry, id?: string): Promise<Attempt> {
  const { method, url } = route;
  const gap = (what: string): Error =>
    new Error(`no attempt for ${nameOf(route)}: ${what} in the list of tests/support/route-resources.ts`);
  if (!isMethod(method)) throw gap(`the method ${method} is not known; say how to attempt it`);
  const path = pathOf(url);
  const resource = resources[path];
  if (!resource) throw gap(`put a line for ${path}`);
  if (url.replace('/:id', '').includes(':')) throw gap('say how to fill its parameters');

  const rest = url.slice(path.length) || '/';
  const fixed = resource.bodies?.[`${method} ${rest}`];
  const { make } = resource;
  const takesBody = method === 'POST' || method === 'PATCH';
  const isCreate = method === 'POST' && rest === '/' && make;
  if (takesBody && fixed === undefined && !isCreate) throw gap(`put a body for "${method} ${rest}"`);

  const namesB = url.includes('/:id');
  return {
    method,
    url: namesB ? url.replace(':id', id ?? (await makeIn(b, path))) : url,
    namesB,
    body: (label) => (isCreate ? make(`${label}-${unique()}`) : (fixed ?? undefined)),
  };
}

/** Makes an object of the resource in a tenant, and returns its id. */
async function makeIn(tenant: TestTenant, path: string): Promise<string> {
  const { make, id } = resourceOf(path);
  if (!make) {
    if (!id)
      throw new Error(
        `no attempt for ${path}/:id: say how to make one in the list of tests/support/route-resources.ts`,
      );
    return id({ ...tenant, beginSession: async () => sessionOf(await signedIn(tenant)) });
  }
  const made = await home.send<{ id: string }>('POST', path, {
    token: await signedIn(tenant),
    body: make(`${OF_B}-${unique()}`),
  });
  if (made.status !== 201) throw new Error(`POST ${path} answered ${made.status}: ${made.text}`);
  idsOfB.push(made.body.id);
  return made.body.id;
}

/** Every row of every table of B's database, and B's row in the registry. */
async function everythingOfB(): Promise<Record<string, unknown>> {
  const { dbName } = (await findTenant(home.app.engine.registry, b.id)) ?? {};
  const tables = await asSuperuser(dbName ?? '', async (db) => {
    const { rows } = await sql<{ name: string }>`
      select oid::regclass::text as name from pg_class where relkind = 'r' and relnamespace::regnamespace::text
      in ('public', 'migration') order by 1`.execute(db);
    const dump: Record<string, unknown> = {};
    for (const { name } of rows) {
      const content = await sql`select t as row from ${sql.table(name)} t order by t::text`.execute(db);
      dump[name] = content.rows;
    }
    return dump;
  });
  expect(Object.keys(tables)).toContain('products');
  const central = connectAs<Registry>(registry);
  const row = await central.db.selectFrom('tenants').selectAll().where('id', '=', b.id).execute();
  await central.close(0);
  return { ...tables, registry: row };
}

function isMethod(method: string): method is Attempt['method'] {
  return ['GET', 'POST', 'PATCH', 'DELETE'].includes(method);
}

function nameOf({ method, url }: RouteEntry): string {
  return `${method} ${url}`;
}

/** `/products` of `/products/:id/stock`. */
function pathOf(url: string): string {
  return /^\/[^/]+/.exec(url)?.[0] ?? url;
}

function resourceOf(url: string): Resource {
  return resources[pathOf(url)] ?? {};
}

let made = 0;
function unique(): string {
  return String((made += 1));
}
