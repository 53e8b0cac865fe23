// A write waits for a connection or a hash until its caller is revoked. Derived from the route table: every route that writes into
// a tenant's database × the ways of revoking, through another replica.
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import type { RouteEntry } from '../../src/auth/route-access.js';
import {
  ADMIN,
  asSuperuser,
  createRegistry,
  startService,
  type Answer,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { addUser, rowOf } from '../support/tenants.js';
import { bodyOf, everythingIn, nameOf, REVOKED, UNKNOWN_ID } from '../support/writes.js';

/** After this wait (ms) a write checks its caller again; the product checks after 500 ms. */
const LONG_ENOUGH = 600;

/** Every replica knows of a change within this time (ms), which is also long enough. */
const KNOWN_EVERYWHERE = 1_000;

/** Writes that take no connection of the tenant's pool, and why. */
const exceptions: Readonly<Record<string, string>> = {
  'PATCH /tenants/:id': 'changes the registry, and the tenant’s database only after that',
};

let home: TestService;
let other: TestService;
let passwordHash: string;

beforeAll(async () => {
  const registry = await createRegistry();
  home = await startService({ registry, env: { HASH_CONCURRENCY: '1' } });
  other = await startService({ registry, operator: false });
  passwordHash = await home.app.engine.passwords.hash(ADMIN.password, 'tests');
});
afterAll(() => Promise.all([home.close(), other.close()]));

const writes = (): RouteEntry[] =>
  home.app.routeTable.filter(
    (route) =>
      !['GET', 'HEAD'].includes(route.method) &&
      ['tenant', 'platform'].includes(route.access.scope) &&
      !(nameOf(route) in exceptions),
  );

interface Caller {
  readonly id: string;
  readonly token: string;
}

interface Prepared {
  readonly tenant: TestTenant;
  readonly database: string;
  readonly targets: Readonly<Record<string, string>>;
}

/** Makes a tenant with an object of every kind as a target. Its pool has one connection besides its lane, or only one. */
async function prepareTenant(max = 2): Promise<Prepared> {
  const tenant = await home.createTenant();
  await succeed(
    home.send('PATCH', `/tenants/${tenant.id}`, {
      token: home.operatorToken,
      body: { poolOptions: { max, acquireTimeout: 10_000 } },
    }),
  );
  const make = async (url: string, body: object): Promise<string> => {
    const made = await home.send<{ id: string }>('POST', url, { token: tenant.adminToken, body });
    expect(made.status, made.text).toBe(201);
    return made.body.id;
  };
  await make('/roles', { name: 'reader', permissions: ['products:read'] });
  const targets = {
    roles: await make('/roles', { name: 'target', permissions: ['products:read'] }),
    products: await make('/products', { name: 'Target', price: '1.00' }),
    users: (await addUser(home, tenant)).id,
    auth: UNKNOWN_ID,
  };
  return { tenant, database: (await rowOf(home, tenant)).dbName, targets };
}

async function succeed(answer: Promise<Answer>): Promise<void> {
  const { status, text } = await answer;
  expect([200, 204], text).toContain(status);
}

/** Makes an admin that the replica knows: its admission waits for no database. */
async function addCaller(tenant: TestTenant, database: string): Promise<Caller> {
  const caller = await addUser(home, tenant, { roles: ['admin'] });
  await asSuperuser(database, (db) =>
    sql`update users set password = ${passwordHash} where id = ${caller.id}`.execute(db),
  );
  await succeed(home.send('GET', '/auth/me', { token: caller.token }));
  return caller;
}

/** Holds the only connection of the tenant's pool until `release` is called. */
async function holdConnection({ id }: TestTenant): Promise<() => Promise<void>> {
  let release = (): void => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  let held = (): void => undefined;
  const holding = new Promise<void>((resolve) => (held = resolve));
  const work = home.app.engine.tenantPools
    .database(id)
    .transaction()
    .execute(async (trx) => {
      await sql`select 1`.execute(trx);
      held();
      await released;
    })
    // A suspended tenant's connections are ended.
    .catch(() => undefined);
  await holding;
  return async () => {
    release();
    await work;
  };
}

function request(route: RouteEntry, { token }: Caller, targets: Prepared['targets']): Promise<Answer> {
  const url = route.url.replace(':id', targets[route.url.split('/')[1] ?? ''] ?? UNKNOWN_ID);
  const body = bodyOf(route) ?? undefined;
  return home.send(route.method as 'POST', url, { token, body });
}

function codeOf({ text }: Answer): string {
  return text === '' ? '' : ((JSON.parse(text) as { code?: string }).code ?? '');
}

function isRefusal({ status, code }: { readonly status: number; readonly code: string }): boolean {
  return [401, 403].includes(status) && REVOKED.includes(code);
}

interface Way {
  readonly revoke: (tenant: TestTenant, callers: readonly Caller[]) => Promise<unknown>;
  /** True if the route does not need the right that this way revokes. */
  readonly passes?: (route: RouteEntry) => boolean;
  /** Opens the tenant's database again, which the comparison needs. */
  readonly reopen?: (tenant: TestTenant) => Promise<unknown>;
}

const each =
  (act: (tenant: TestTenant, caller: Caller) => Promise<Answer>): Way['revoke'] =>
  (tenant, callers) =>
    Promise.all(callers.map((caller) => succeed(act(tenant, caller))));

const ways: Readonly<Record<string, Way>> = {
  deactivated: {
    revoke: each(({ adminToken: token }, { id }) =>
      other.send('PATCH', `/users/${id}`, { token, body: { active: false } }),
    ),
  },
  deleted: { revoke: each(({ adminToken: token }, { id }) => other.send('DELETE', `/users/${id}`, { token })) },
  demoted: {
    revoke: each(({ adminToken: token }, { id }) =>
      other.send('PATCH', `/users/${id}`, { token, body: { roles: ['reader'] } }),
    ),
    // About the caller's own account: no role is needed.
    passes: ({ access }) => access.permission === 'self',
  },
  'logged out': { revoke: each((_tenant, { token }) => other.send('POST', '/auth/logout', { token })) },
  'signed out with its tenant': {
    revoke: ({ id }) => succeed(other.send('POST', `/tenants/${id}/sign-out`, { token: home.operatorToken })),
  },
  'suspended with its tenant': {
    revoke: ({ id }) => succeed(other.send('POST', `/tenants/${id}/suspend`, { token: home.operatorToken })),
    reopen: ({ id }) => succeed(home.send('POST', `/tenants/${id}/resume`, { token: home.operatorToken })),
  },
};

describe('a write that waits for a connection while its caller is', { timeout: 60_000 }, () => {
  it.each(Object.keys(ways))('%s through another replica gets 401 or 403 and changes nothing', async (how) => {
    const way = ways[how];
    if (!way) throw new Error('no way');
    const routes = writes().filter((route) => !way.passes?.(route));
    expect(routes.length).toBeGreaterThanOrEqual(10);
    const { tenant, database, targets } = await prepareTenant();
    const calls: { route: RouteEntry; caller: Caller }[] = [];
    for (const route of routes) calls.push({ route, caller: await addCaller(tenant, database) });
    const release = await holdConnection(tenant);
    const answers = calls.map(async ({ route, caller }) => {
      const answer = await request(route, caller, targets);
      return { name: nameOf(route), status: answer.status, code: codeOf(answer) };
    });
    await vi.waitUntil(() => home.app.engine.tenantPools.inspect(tenant.id)?.waiting === routes.length, {
      timeout: 30_000,
    });
    const open = await everythingIn(database);
    await way.revoke(
      tenant,
      calls.map(({ caller }) => caller),
    );
    await sleep(KNOWN_EVERYWHERE);
    const before = way.reopen ? open : await everythingIn(database);
    await release();
    expect((await Promise.all(answers)).filter((answer) => !isRefusal(answer))).toEqual([]);
    await way.reopen?.(tenant);
    expect(await everythingIn(database)).toEqual(before);
  });

  it('left alone is served, and its second admission takes no second connection', async () => {
    const routes = writes();
    const { tenant, database, targets } = await prepareTenant(1);
    const calls: { route: RouteEntry; caller: Caller }[] = [];
    for (const route of routes) calls.push({ route, caller: await addCaller(tenant, database) });
    const release = await holdConnection(tenant);
    const answers = calls.map(async ({ route, caller }) => {
      const answer = await request(route, caller, targets);
      return { name: nameOf(route), status: answer.status, code: codeOf(answer) };
    });
    await vi.waitUntil(() => home.app.engine.tenantPools.inspect(tenant.id)?.waiting === routes.length, {
      timeout: 30_000,
    });
    await sleep(LONG_ENOUGH);
    // Clears all caches; a second connection is not available.
    await home.app.engine.events.publish({ kind: 'any' });
    await release();
    const served = [200, 201, 204, 404, 409];
    expect((await Promise.all(answers)).filter(({ status }) => !served.includes(status))).toEqual([]);
  });
});

it('a write that waits for its hash changes nothing if its caller is demoted meanwhile', async () => {
  const { tenant, database } = await prepareTenant();
  const caller = await addCaller(tenant, database);
  const hash = home.app.engine.passwords.hash.bind(home.app.engine.passwords);
  let letGo: () => void = () => undefined;
  const held = new Promise<void>((resolve) => (letGo = resolve));
  const hashing = vi.spyOn(home.app.engine.passwords, 'hash').mockImplementation(async (...args) => {
    await held;
    return hash(...args);
  });
  const [route] = writes().filter((entry) => nameOf(entry) === 'POST /users');
  if (!route) throw new Error('there is no POST /users');
  const answer = request(route, caller, {});
  await vi.waitFor(() => {
    expect(hashing).toHaveBeenCalled();
  });
  await succeed(other.send('PATCH', `/users/${caller.id}`, { token: tenant.adminToken, body: { roles: ['reader'] } }));
  const before = await everythingIn(database);
  letGo();
  const { status, body } = await answer;
  expect([status, body['code']]).toEqual([403, 'forbidden']);
  expect(await everythingIn(database)).toEqual(before);
});

it('tries every write of a tenant’s users, except those that are named as exceptions', () => {
  const names = home.app.routeTable.map(nameOf);
  for (const name of Object.keys(exceptions)) expect(names).toContain(name);
  expect(writes().length).toBeGreaterThanOrEqual(14);
});
