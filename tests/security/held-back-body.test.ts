// A request whose body is held back until its caller is revoked. Derived from the route table: every route that reads a body
// × every way of revoking, on the replica that has the request and on another. And on routes that need no body: a content
// type without a body.
import { subscribe, unsubscribe } from 'node:diagnostics_channel';
import { once } from 'node:events';
import type { IncomingMessage } from 'node:http';
import { connect, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { insertOperator } from '../../db/registry/operator-queries.js';
import type { RouteEntry } from '../../src/auth/route-access.js';
import {
  asSuperuser,
  beginSession,
  createRegistry,
  startService,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { addUser, rowOf } from '../support/tenants.js';
import { exchange, listen, parseAnswer, sendBytes, type Received } from '../support/wire.js';
import { bodyOf, everythingIn, everythingInRegistry, nameOf, REVOKED, UNKNOWN_ID } from '../support/writes.js';

/** An admission of this age (ms) is repeated; the product reuses one for 250 ms. */
const OLD_ENOUGH = 350;

/** Every replica knows of a change within this time (ms). */
const KNOWN_EVERYWHERE = 1_000;

/** Routes with a body and without admission, and why. */
const exceptions: Readonly<Record<string, string>> = {
  'POST /auth/login': 'public: the body itself says who calls',
  'POST /auth/operator/login': 'public: the body itself says who calls',
  'POST /auth/refresh': 'public: the refresh token in the body is looked up when it is used',
};

let home: TestService;
let other: TestService;
let port: number;
let registry: string;
/** Every route that may read a body and does not admit every client. */
let guarded: RouteEntry[];
/** By name: the routes whose own options have a schema of a body. */
let withBody: Set<string>;

beforeAll(async () => {
  registry = await createRegistry();
  home = await startService({ registry });
  other = await startService({ registry, operator: false });
  port = await listen(home);
  const { paths } = home.app.swagger() as { paths: Record<string, Record<string, { requestBody?: object }>> };
  withBody = new Set(home.app.routeTable.filter(hasBodySchema).map(nameOf));
  function hasBodySchema({ method, url }: RouteEntry): boolean {
    const path = url.replaceAll(/:(\w+)/g, '{$1}');
    const operations = paths[path] ?? paths[`${path}/`] ?? paths[path.replace(/\/$/, '')];
    return operations?.[method.toLowerCase()]?.requestBody !== undefined;
  }
  guarded = home.app.routeTable.filter(
    ({ method, access }) => !['GET', 'HEAD'].includes(method) && access.scope !== 'public',
  );
});
afterAll(() => Promise.all([home.close(), other.close()]));

interface HeldBack {
  readonly name: string;
  /** Sends the body, and reads the answer. */
  finish(): Promise<Received>;
}

/** Sends the head of a request. Returns when the service has read it. */
async function sendHead(route: RouteEntry, token: string, id: string): Promise<HeldBack> {
  const body = bodyOf(route);
  const text = body === null ? '0\r\n\r\n' : JSON.stringify(body);
  const length = body === null ? 'transfer-encoding: chunked' : `content-length: ${Buffer.byteLength(text)}`;
  const marker = `${nameOf(route)} ${token.slice(-12)}`;
  const socket: Socket = connect(port, '127.0.0.1');
  await once(socket, 'connect');
  const arrived = new Promise<void>((resolve) => {
    const look = (message: unknown): void => {
      if ((message as { request: IncomingMessage }).request.headers['x-marker'] !== marker) return;
      unsubscribe('http.server.request.start', look);
      resolve();
    };
    subscribe('http.server.request.start', look);
  });
  socket.write(
    `${route.method} ${route.url.replace(':id', id)} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-marker: ${marker}\r\n` +
      `authorization: Bearer ${token}\r\ncontent-type: application/json\r\n${length}\r\n\r\n`,
  );
  await arrived;
  return {
    name: nameOf(route),
    async finish() {
      socket.write(text);
      const chunks: Buffer[] = [];
      for await (const chunk of socket) chunks.push(chunk as Buffer);
      return parseAnswer(Buffer.concat(chunks).toString());
    },
  };
}

interface Caller {
  readonly id: string;
  readonly token: string;
}

async function expectRevoked(held: readonly HeldBack[]): Promise<void> {
  const answers = await Promise.all(held.map(async (one) => ({ name: one.name, ...(await one.finish()) })));
  const told = answers.map(({ name, status, text }) => ({
    name,
    status,
    code: text === '' ? '' : (JSON.parse(text) as { code?: string }).code,
  }));
  expect(told.filter(({ status, code = '' }) => ![401, 403].includes(status) || !REVOKED.includes(code))).toEqual([]);
}

async function succeed(answer: Promise<{ status: number; text: string }>): Promise<void> {
  const { status, text } = await answer;
  expect([200, 204], text).toContain(status);
}

interface Way {
  readonly how: string;
  /** Revokes the callers, one by one or together. */
  readonly revoke: (by: TestService, tenant: TestTenant, callers: readonly Caller[]) => Promise<unknown>;
  /** True if the route does not need the right that this way revokes. */
  readonly passes?: (route: RouteEntry) => boolean;
  /** True if it affects the whole tenant: the test then uses a separate tenant. */
  readonly whole?: true;
  /** Opens the tenant's closed database again, which the comparison needs. */
  readonly reopen?: (tenant: TestTenant) => Promise<unknown>;
}

const each =
  (act: (by: TestService, tenant: TestTenant, caller: Caller) => Promise<{ status: number; text: string }>) =>
  (by: TestService, tenant: TestTenant, callers: readonly Caller[]): Promise<unknown> =>
    Promise.all(callers.map((caller) => succeed(act(by, tenant, caller))));

const ways: readonly Way[] = [
  {
    how: 'deactivated',
    revoke: each((by, { adminToken: token }, { id }) =>
      by.send('PATCH', `/users/${id}`, { token, body: { active: false } }),
    ),
  },
  { how: 'deleted', revoke: each((by, { adminToken: token }, { id }) => by.send('DELETE', `/users/${id}`, { token })) },
  {
    how: 'demoted',
    revoke: each((by, { adminToken: token }, { id }) =>
      by.send('PATCH', `/users/${id}`, { token, body: { roles: ['reader'] } }),
    ),
    // About the caller's own account: no role is needed.
    passes: ({ access }) => access.permission === 'self',
  },
  { how: 'logged out', revoke: each((by, _tenant, { token }) => by.send('POST', '/auth/logout', { token })) },
  {
    how: 'logged out everywhere',
    revoke: each((by, _tenant, { token }) => by.send('POST', '/auth/logout-all', { token })),
  },
  {
    how: 'signed out with its tenant',
    revoke: (by, { id }) => succeed(by.send('POST', `/tenants/${id}/sign-out`, { token: home.operatorToken })),
    whole: true,
  },
  {
    how: 'suspended with its tenant',
    revoke: (by, { id }) => succeed(by.send('POST', `/tenants/${id}/suspend`, { token: home.operatorToken })),
    whole: true,
    reopen: ({ id }) => succeed(home.send('POST', `/tenants/${id}/resume`, { token: home.operatorToken })),
  },
];

const operatorWays: readonly {
  how: string;
  revoke: (by: TestService, callers: readonly Caller[]) => Promise<unknown>;
}[] = [
  {
    how: 'logged out',
    revoke: (by, callers) =>
      Promise.all(callers.map(({ token }) => succeed(by.send('POST', '/auth/logout', { token })))),
  },
  {
    how: 'deactivated',
    revoke: async (by, callers) => {
      for (const { id } of callers) {
        await asSuperuser(registry, (db) => sql`update operators set active = false where id = ${id}`.execute(db));
        await by.app.engine.events.publish({ kind: 'operator', operatorId: id });
      }
    },
  },
];

const replicas = ['the replica that has the request', 'another replica'] as const;
const crossed = <T extends { how: string }>(list: readonly T[]): [string, string, T][] =>
  list.flatMap((way) => replicas.map((replica): [string, string, T] => [way.how, replica, way]));

interface Prepared {
  readonly tenant: TestTenant;
  readonly targets: Readonly<Record<string, string>>;
}

/** For ways that affect single accounts: making a tenant takes longer than trying all its routes. */
let shared: Promise<Prepared> | undefined;
const sharedTenant = (): Promise<Prepared> => (shared ??= prepareTenant());

/** Makes a tenant with a role that only reads, and an object of every kind as a target. */
async function prepareTenant(): Promise<Prepared> {
  const tenant = await home.createTenant();
  const token = tenant.adminToken;
  const make = async (url: string, body: object): Promise<string> => {
    const { status, text, body: made } = await home.send<{ id: string }>('POST', url, { token, body });
    expect(status, text).toBe(201);
    return made.id;
  };
  await make('/roles', { name: 'reader', permissions: ['products:read'] });
  const targets = {
    roles: await make('/roles', { name: 'target', permissions: ['products:read'] }),
    products: await make('/products', { name: 'Target', price: '1.00' }),
    users: (await addUser(home, tenant)).id,
    tenants: tenant.id,
    auth: UNKNOWN_ID,
  };
  return { tenant, targets };
}

/** Makes a caller for each route, known to the replica: its first admission then waits for no database. */
function callersFor(routes: readonly RouteEntry[], make: () => Promise<Caller>): Promise<Caller[]> {
  return Promise.all(
    routes.map(async () => {
      const caller = await make();
      await succeed(home.send('GET', '/auth/me', { token: caller.token }));
      return caller;
    }),
  );
}

async function holdBack(
  routes: readonly RouteEntry[],
  callers: readonly Caller[],
  targets: Readonly<Record<string, string>>,
): Promise<HeldBack[]> {
  const held = await Promise.all(
    routes.map((route, n) =>
      sendHead(route, callers[n]?.token ?? '', targets[route.url.split('/')[1] ?? ''] ?? UNKNOWN_ID),
    ),
  );
  await sleep(OLD_ENOUGH);
  return held;
}

const ofUsers = (): RouteEntry[] => guarded.filter(({ access }) => access.scope !== 'operator');
const ofOperators = (): RouteEntry[] => guarded.filter(({ access }) => access.scope !== 'tenant');

describe('a user who sends the head of a request, and the body only after being', { timeout: 60_000 }, () => {
  it.each(crossed(ways))('%s through %s, gets 401 or 403 and changes nothing', async (_how, replica, way) => {
    const routes = ofUsers().filter((route) => !way.passes?.(route));
    const { tenant, targets } = await (way.whole ? prepareTenant() : sharedTenant());
    const { dbName } = await rowOf(home, tenant);
    const callers = await callersFor(routes, () => addUser(home, tenant, { roles: ['admin'] }));
    const held = await holdBack(routes, callers, targets);
    const open = await everythingIn(dbName);
    await way.revoke(replica === replicas[0] ? home : other, tenant, callers);
    if (replica !== replicas[0]) await sleep(KNOWN_EVERYWHERE);
    const before = way.reopen ? open : await everythingIn(dbName);
    await expectRevoked(held);
    await way.reopen?.(tenant);
    expect(await everythingIn(dbName)).toEqual(before);
  });

  it('left alone, is served, which shows that the refusals come from the revocation', async () => {
    const routes = ofUsers();
    const { tenant, targets } = await prepareTenant();
    const callers = await callersFor(routes, () => addUser(home, tenant, { roles: ['admin'] }));
    for (const held of await holdBack(routes, callers, targets)) {
      const { status, text } = await held.finish();
      expect(text === '' ? status : (JSON.parse(text) as { code?: string }).code, held.name).not.toSatisfy(
        (code: unknown) => REVOKED.includes(String(code)),
      );
    }
  });
});

describe('an operator who sends the head of a request, and the body only after being', { timeout: 60_000 }, () => {
  let operators = 0;
  const addOperator = async (): Promise<Caller> => {
    const email = `operator-${(operators += 1)}@example.com`;
    await insertOperator(home.app.engine.registry, { email, passwordHash: 'x' });
    const { rows } = await asSuperuser(registry, (db) =>
      sql<{ id: string }>`select id from operators where email = ${email}`.execute(db),
    );
    const id = rows[0]?.id ?? '';
    return { id, token: await beginSession(home.app, { kind: 'operator', operatorId: id }) };
  };

  it.each(crossed(operatorWays))('%s through %s, gets 401 or 403 and changes nothing', async (_how, replica, way) => {
    const routes = ofOperators();
    const { tenant } = await sharedTenant();
    const callers = await callersFor(routes, addOperator);
    const held = await holdBack(routes, callers, { tenants: tenant.id });
    await way.revoke(replica === replicas[0] ? home : other, callers);
    if (replica !== replicas[0]) await sleep(KNOWN_EVERYWHERE);
    const before = [await rowOf(home, tenant), await everythingInRegistry(registry)];
    await expectRevoked(held);
    expect([await rowOf(home, tenant), await everythingInRegistry(registry)]).toEqual(before);
  });
});

describe('the list of routes', () => {
  it('contains every route that reads a body, except those that are named as exceptions', () => {
    const names = home.app.routeTable.filter((route) => withBody.has(nameOf(route))).map(nameOf);
    expect(names.length).toBeGreaterThanOrEqual(13);
    const tried = new Set(guarded.map(nameOf));
    expect(names.filter((name) => !tried.has(name)).sort()).toEqual(Object.keys(exceptions).sort());
  });

  it('agrees with each route’s schema on whether the route needs a body', () => {
    expect(guarded.map((route) => [nameOf(route), bodyOf(route) !== null])).toEqual(
      guarded.map((route) => [nameOf(route), withBody.has(nameOf(route))]),
    );
  });
});

describe('a content type without a body', () => {
  const types = [
    'application/json',
    'application/json; charset=utf-16',
    'text/plain',
    'multipart/form-data',
    'nonsense',
  ];

  const ofNoLength = 'content-length: 0\r\n\r\n';
  const inNoChunks = 'transfer-encoding: chunked\r\n\r\n0\r\n\r\n';

  it('is ignored on every route that needs no body', { timeout: 60_000 }, async () => {
    const routes = guarded.filter((route) => !withBody.has(nameOf(route)));
    expect(routes.length).toBeGreaterThanOrEqual(15);
    const { tenant } = await sharedTenant();
    for (const route of routes) {
      const asOne = async (framing: string, type?: string): Promise<{ status: number; code: unknown }> => {
        const token =
          route.access.scope === 'operator'
            ? home.operatorToken
            : await beginSession(home.app, { kind: 'user', tenantId: tenant.id, userId: tenant.adminId });
        const head = `${route.method} ${route.url.replace(':id', UNKNOWN_ID)} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n`;
        const typed = type === undefined ? '' : `content-type: ${type}\r\n`;
        const raw = await sendBytes(port, `${head}authorization: Bearer ${token}\r\n${typed}${framing}`);
        const { status, text } = parseAnswer(raw);
        return { status, code: text === '' ? undefined : (JSON.parse(text) as { code?: unknown }).code };
      };
      const plain = await asOne(ofNoLength);
      expect([200, 202, 204, 404], nameOf(route)).toContain(plain.status);
      expect(await asOne(inNoChunks), `${nameOf(route)}, in no chunks`).toEqual(plain);
      for (const type of types)
        for (const framing of [ofNoLength, inNoChunks])
          expect(await asOne(framing, type), `${nameOf(route)} with ${type}, ${framing}`).toEqual(plain);
    }
  });

  it('does not let a route that needs no body take a body of another type: 415', async () => {
    const text = 'transfer-encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n';
    const head = 'POST /auth/logout HTTP/1.1\r\nhost: x\r\nconnection: close\r\n';
    const { adminToken } = await home.createTenant();
    const raw = await sendBytes(
      port,
      `${head}authorization: Bearer ${adminToken}\r\ncontent-type: text/plain\r\n${text}`,
    );
    expect(parseAnswer(raw).status).toBe(415);
  });

  it('does not prevent a logout or a removal', async () => {
    const tenant = await home.createTenant();
    const { body: product } = await home.send<{ id: string }>('POST', '/products', {
      token: tenant.adminToken,
      body: { name: 'Gone', price: '1.00' },
    });
    const headers = { authorization: `Bearer ${tenant.adminToken}`, 'content-type': 'application/json' };
    expect((await exchange(port, 'DELETE', `/products/${product.id}`, { headers })).status).toBe(204);
    expect((await exchange(port, 'POST', '/auth/logout', { headers })).status).toBe(204);
    expect((await exchange(port, 'GET', '/auth/me', { headers })).status).toBe(401);
  });

  it('gets 400 on a route that needs a body', async () => {
    const { tenant } = await sharedTenant();
    for (const name of withBody) {
      const [method = '', url = ''] = name.split(' ');
      const route = home.app.routeTable.find((entry) => nameOf(entry) === name);
      const token =
        route?.access.scope === 'tenant' || route?.access.scope === 'platform'
          ? await beginSession(home.app, { kind: 'user', tenantId: tenant.id, userId: tenant.adminId })
          : home.operatorToken;
      const headers = {
        authorization: `Bearer ${token}`,
        'content-type': 'application/json',
        'content-length': '0',
      };
      const answer = await exchange(port, method, url.replace(':id', UNKNOWN_ID), { headers });
      expect([name, answer.status]).toEqual([name, 400]);
    }
  });
});
