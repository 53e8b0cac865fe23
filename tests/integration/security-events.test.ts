// Every security event that a running service can have, with its line and its count. tests/unit/security-events.test.ts has the
// limits of the lines.
import { readFileSync } from 'node:fs';
import { request as httpRequest } from 'node:http';
import { connect, type AddressInfo } from 'node:net';
import { once } from 'node:events';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { faultsOf } from '../../src/observability/log-fields.js';
import { securityEvents, type SecurityEventName } from '../../src/observability/security-catalogue.js';
import {
  ADMIN,
  beginSession,
  connectAs,
  OPERATOR,
  startService,
  startServiceForTest,
  type Send,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { parseExposition } from '../support/exposition.js';

interface Line extends Record<string, unknown> {
  readonly level: string;
  readonly event?: SecurityEventName;
}

/** For what is written a moment after the answer (ms): long, because a machine can be busy. */
const PATIENCE = 10_000;

const written: string[] = [];
const logStream = { write: (text: string) => void written.push(text) };
const lines = (): Line[] => written.map((text) => JSON.parse(text) as Line);
const eventLines = (): Line[] => lines().filter(({ security }) => security === true);

let service: TestService;
let send: Send;
let operatorToken: string;
let tenant: TestTenant;
let operatorId: string;

beforeAll(async () => {
  service = await startService({ env: { LOG_LEVEL: 'info' }, overrides: { logStream } });
  ({ send, operatorToken } = service);
  tenant = await service.createTenant('acme');
  const me = await send<{ operator: { id: string } }>('GET', '/auth/me', { token: operatorToken });
  operatorId = me.body.operator.id;
});
afterAll(() => service.close());

async function countOf(event: SecurityEventName, of: TestService = service): Promise<number> {
  const { body } = await of.app.engine.metrics.expose();
  return parseExposition(body).sum('tenantry_security_events_total', { event }) ?? 0;
}

/** What an act adds: the lines of security events, once there is one of the given name. Each must be counted. */
async function during(
  event: SecurityEventName,
  act: () => Promise<unknown>,
  of: TestService = service,
): Promise<Line[]> {
  const before = eventLines().length;
  const counted = await countOf(event, of);
  await act();
  const added = await vi.waitFor(() => {
    const found = eventLines().slice(before);
    expect(found.map((line) => line.event)).toContain(event);
    return found;
  }, PATIENCE);
  expect(await countOf(event, of)).toBe(counted + added.filter((line) => line.event === event).length);
  return added;
}

/** The fields that every event of a request has. */
const ofRequest = (): object => ({
  security: true,
  reqId: expect.any(String) as string,
  address: expect.any(String) as string,
});

let people = 0;
const newUser = async (roles?: string[]): ReturnType<TestService['createUser']> =>
  service.createUser(tenant, `person-${(people += 1)}@example.com`, roles);

/** From an address of its own, because of some events only the first of an address in a minute has a line. */
let addresses = 0;
async function fromNewAddress(path: string, headers: Readonly<Record<string, string>>): Promise<number> {
  addresses += 1;
  const answer = await service.app.inject({ url: path, headers, remoteAddress: `198.51.100.${addresses}` });
  return answer.statusCode;
}
const bearer = (token: string): { authorization: string } => ({ authorization: `Bearer ${token}` });

describe('coming in', () => {
  it('a failed sign-in of a user is an event with the reason and the account, and without what was typed', async () => {
    const user = await newUser();
    const body = { tenant: 'acme', email: user.email, password: 'typed-by-mistake' };
    const [line] = await during('sign-in-failed', () => send('POST', '/auth/login', { body }));
    expect(line).toMatchObject({
      ...ofRequest(),
      level: 'info',
      realm: 'tenant',
      reason: 'wrong-password',
      tenantId: tenant.id,
      targetId: user.id,
    });
    expect(JSON.stringify(line)).not.toMatch(/typed-by-mistake|example\.com/);
  });

  it.each([
    ['an unknown tenant', '/auth/login', { tenant: 'is-this-my-password', ...OPERATOR }, 'tenant', 'unknown-tenant'],
    [
      'an unknown operator',
      '/auth/operator/login',
      { email: 'no@example.com', password: 'x' },
      'operator',
      'unknown-operator',
    ],
    ['an operator', '/auth/operator/login', { ...OPERATOR, password: 'x' }, 'operator', 'wrong-password'],
  ])('a failed sign-in of %s is an event of its realm', async (_, url, body, realm, reason) => {
    const [line] = await during('sign-in-failed', () => send('POST', url, { body }));
    expect(line).toMatchObject({ realm, reason });
    expect(JSON.stringify(line)).not.toContain('is-this-my-password');
  });

  it('an operator who signs in is an event', async () => {
    const [line] = await during('operator-signed-in', () => send('POST', '/auth/operator/login', { body: OPERATOR }));
    expect(line).toMatchObject({ ...ofRequest(), operatorId, sessionId: expect.any(String) as string });
  });

  it('sign-ins and confirmations that must wait are one event for each wait', async () => {
    const strict = await startServiceForTest({
      env: { LOG_LEVEL: 'info', SIGN_IN_FAILURES_ACCOUNT: '1' },
      overrides: { logStream },
    });
    const one = await strict.createTenant('strict');
    const signIn = { tenant: 'strict', email: ADMIN.email, password: 'wrong' };
    const throttled = await during(
      'sign-in-throttled',
      async () => {
        for (let time = 0; time < 5; time += 1) await strict.send('POST', '/auth/login', { body: signIn });
      },
      strict,
    );
    expect(throttled.filter(({ event }) => event === 'sign-in-throttled')).toMatchObject([
      { ...ofRequest(), level: 'warn', realm: 'tenant', on: 'account' },
    ]);
    const confirmed = await during(
      'confirmation-throttled',
      async () => {
        for (let time = 0; time < 5; time += 1)
          await strict.send('POST', '/auth/password', {
            token: one.adminToken,
            body: { currentPassword: 'wrong', newPassword: 'another-long-password' },
          });
      },
      strict,
    );
    const own = confirmed.filter(({ event }) => event?.startsWith('confirmation'));
    expect(own).toMatchObject([
      { event: 'confirmation-failed', realm: 'tenant', tenantId: one.id, userId: one.adminId },
      { event: 'confirmation-throttled', on: 'account', tenantId: one.id, userId: one.adminId },
    ]);
  });

  it('a refresh token that comes a second time is an event, and so is one that is made up', async () => {
    const user = await newUser();
    const body = { tenant: 'acme', email: user.email, password: user.password };
    const { body: signedIn } = await send<{ refreshToken: string }>('POST', '/auth/login', { body });
    const refresh = async (refreshToken: string): Promise<string> =>
      (await send<{ refreshToken: string }>('POST', '/auth/refresh', { body: { refreshToken } })).body.refreshToken;
    const second = await refresh(signedIn.refreshToken);
    await refresh(second);
    const added = await during('refresh-token-reused', () => refresh(signedIn.refreshToken));
    expect(added).toMatchObject([
      { ...ofRequest(), level: 'warn', realm: 'tenant', tenantId: tenant.id, targetId: user.id },
      { event: 'refresh-token-refused', route: '/auth/refresh' },
    ]);
    expect(JSON.stringify(added)).not.toContain(signedIn.refreshToken);
  });
});

describe('being refused', () => {
  it.each([
    ['made up', () => 'garbage', 'header'],
    ['with another algorithm', (token: string) => `eyJhbGciOiJub25lIn0.${token.split('.')[1] ?? ''}.`, 'header'],
    [
      'with another signature',
      (token: string) => `${token.split('.').slice(0, 2).join('.')}.${'A'.repeat(86)}`,
      'signature',
    ],
    [
      'with other claims under the same signature',
      (token: string) => token.replace(/\.[^.]+\./, `.${Buffer.from('{"sub":"me"}').toString('base64url')}.`),
      'signature',
    ],
  ])('an access token %s is an event', async (_, forge, reason) => {
    const [line] = await during('access-token-refused', async () => {
      expect(await fromNewAddress('/products', bearer(forge(tenant.adminToken)))).toBe(401);
    });
    expect(line).toMatchObject({ ...ofRequest(), level: 'warn', reason, route: '/products', method: 'GET' });
    expect(line?.['address']).toBe(`198.51.100.${addresses}`);
  });

  it('no token, and an expired token, are no events', async () => {
    const expired = service.app.tokens;
    const token = expired.sign({ kind: 'user', tenantId: tenant.id, userId: tenant.adminId, sessionId: tenant.id });
    const before = eventLines().length;
    expect(await fromNewAddress('/products', {})).toBe(401);
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() + 3_600_000 });
    try {
      expect(await fromNewAddress('/products', bearer(token))).toBe(401);
    } finally {
      vi.useRealTimers();
    }
    expect(eventLines().slice(before)).toEqual([]);
  });

  it('an ended session, an account that is not active and a suspended tenant are events', async () => {
    const left = await newUser();
    await send('POST', '/auth/logout', { token: left.token });
    const [ended] = await during('ended-session-used', () => fromNewAddress('/products', bearer(left.token)));
    expect(ended).toMatchObject({ ...ofRequest(), tenantId: tenant.id, userId: left.id, route: '/products' });

    const gone = await newUser();
    const database = (await service.app.engine.tenantDirectory.find(tenant.id))?.dbName ?? '';
    const handle = connectAs<TenantDatabase>(database);
    // Without ending the sessions, as a statement of a person would.
    await handle.db.updateTable('users').set({ active: false }).where('id', '=', gone.id).execute();
    await handle.close(0);
    await service.app.engine.events.publish({ kind: 'user', tenantId: tenant.id, userId: gone.id });
    const [inactive] = await during('inactive-account-used', () => fromNewAddress('/products', bearer(gone.token)));
    expect(inactive).toMatchObject({ ...ofRequest(), tenantId: tenant.id, userId: gone.id });

    const other = await service.createTenant('sleeping');
    await send('POST', `/tenants/${other.id}/suspend`, { token: operatorToken });
    const [asleep] = await during('suspended-tenant-used', () => fromNewAddress('/products', bearer(other.adminToken)));
    expect(asleep).toMatchObject({ ...ofRequest(), tenantId: other.id });
  });

  it('an act that needs a recent sign-in is an event', async () => {
    const account = { kind: 'user', tenantId: tenant.id, userId: tenant.adminId } as const;
    const old = await beginSession(service.app, account, 600_000);
    const body = { ...ADMIN, email: 'second-admin@example.com', roles: ['admin'] };
    const [refused] = await during('old-sign-in-used', () => send('POST', '/users', { token: old, body }));
    expect(refused).toMatchObject({ ...ofRequest(), tenantId: tenant.id, userId: tenant.adminId, route: '/users' });
  });

  it('a missing permission, another scope and another tenant are events', async () => {
    const member = await newUser();
    const [forbidden] = await during('forbidden', () => fromNewAddress('/users', bearer(member.token)));
    expect(forbidden).toMatchObject({ ...ofRequest(), tenantId: tenant.id, userId: member.id, route: '/users' });
    const [scope] = await during('forbidden', () => fromNewAddress('/tenants', bearer(member.token)));
    expect(scope).toMatchObject({ route: '/tenants', tenantId: tenant.id, userId: member.id });
    const other = await service.createTenant('other');
    const [mismatch] = await during('tenant-mismatch', () =>
      fromNewAddress(`/tenants/${other.id}`, bearer(tenant.adminToken)),
    );
    expect(mismatch).toMatchObject({
      level: 'warn',
      tenantId: tenant.id,
      userId: tenant.adminId,
      route: '/tenants/:id',
    });
    expect(JSON.stringify(mismatch)).not.toContain(other.id);
  });

  it('a rate limit is one event for an address in a minute, however many requests are refused', async () => {
    const limited = await startServiceForTest({
      env: { LOG_LEVEL: 'info', RATE_LIMIT_MAX: '1' },
      overrides: { logStream },
    });
    const before = eventLines().length;
    for (let time = 0; time < 20; time += 1) await limited.app.inject({ url: '/users', remoteAddress: '192.0.2.1' });
    expect(eventLines().slice(before)).toMatchObject([{ event: 'rate-limited', level: 'info', address: '192.0.2.1' }]);
    expect(await countOf('rate-limited', limited)).toBe(19);
  });

  it('a request that two servers could read differently is an event', async () => {
    const { app } = service;
    await app.listen({ port: 0, host: '127.0.0.1' });
    const { port } = app.server.address() as AddressInfo;
    await during('ambiguous-request', async () => {
      const socket = connect(port, '127.0.0.1');
      socket.write('GET /health/live HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n');
      await once(socket, 'data');
      socket.destroy();
    });
    const request = httpRequest({ port, host: '127.0.0.1', path: '/health/live' }).end();
    await once(request, 'response');
    request.destroy();
  });

  it('a server that CLUSTER_HOSTS does not name is an event', async () => {
    const body = {
      name: 'elsewhere',
      host: '169.254.169.254',
      provisionerUser: 'p',
      provisionerPassword: 'a-password-of-a-server',
      connectionBudget: 10,
    };
    const [line] = await during('cluster-host-refused', () =>
      send('POST', '/clusters', { token: operatorToken, body }),
    );
    expect(line).toMatchObject({ ...ofRequest(), operatorId, level: 'warn', route: '/clusters' });
    expect(JSON.stringify(line)).not.toContain('a-password-of-a-server');
  });
});

describe('changes', () => {
  it('of a user are events: roles, state, password, address and removal', async () => {
    const { adminToken: token } = tenant;
    const created = await during('user-created', newUser);
    const targetId = String(created.find(({ event }) => event === 'user-created')?.['targetId']);
    const change = (body: object) => () => send('PATCH', `/users/${targetId}`, { token, body });
    const of = { ...ofRequest(), tenantId: tenant.id, userId: tenant.adminId, targetId };

    expect(await during('user-roles-changed', change({ roles: ['admin'] }))).toMatchObject([of]);
    expect(await during('email-changed', change({ email: 'new-address@example.com' }))).toMatchObject([of]);
    const reset = await during('password-reset', change({ password: 'a-password-of-the-admin' }));
    expect(reset).toMatchObject([of, { ...of, event: 'sessions-ended', sessions: 1 }]);
    expect(await during('user-deactivated', change({ active: false }))).toMatchObject([of]);
    expect(await during('user-activated', change({ active: true }))).toMatchObject([of]);
    expect(await during('user-removed', () => send('DELETE', `/users/${targetId}`, { token }))).toMatchObject([of]);
    expect(written.join('')).not.toMatch(/new-address@example\.com|a-password-of-the-admin/);
  });

  it('of one’s own password are an event, by both routes and for both realms', async () => {
    const user = await newUser();
    const own = { tenantId: tenant.id, userId: user.id };
    const body = { currentPassword: user.password, newPassword: 'the-next-password' };
    const first = await during('password-changed', () => send('POST', '/auth/password', { token: user.token, body }));
    expect(first).toMatchObject([own]);
    const patch = { currentPassword: 'the-next-password', password: 'the-password-after-it' };
    const second = await during('password-changed', () =>
      send('PATCH', `/users/${user.id}`, { token: user.token, body: patch }),
    );
    expect(second).toMatchObject([own]);
    const operators = await during('password-changed', () =>
      send('POST', '/auth/password', {
        token: operatorToken,
        body: { currentPassword: OPERATOR.password, newPassword: OPERATOR.password },
      }),
    );
    expect(operators).toMatchObject([{ operatorId }]);
    expect(operators[0]).not.toHaveProperty('tenantId');
  });

  it('that are refused or fail are no events', async () => {
    const user = await newUser();
    const before = eventLines().length;
    await send('PATCH', `/users/${user.id}`, { token: tenant.adminToken, body: { roles: ['no-such-role'] } });
    await send('PATCH', `/users/${tenant.adminId}`, { token: tenant.adminToken, body: { active: false } });
    await send('PATCH', `/users/${tenant.id}`, { token: tenant.adminToken, body: { active: false } });
    await send('DELETE', `/roles/${tenant.id}`, { token: tenant.adminToken });
    expect(eventLines().slice(before)).toEqual([]);
  });

  it('of a role are events', async () => {
    const { adminToken: token } = tenant;
    const role = { name: 'keeper', permissions: ['products:read'] };
    const [created] = await during('role-created', () => send('POST', '/roles', { token, body: role }));
    const targetId = String(created?.['targetId']);
    const of = { ...ofRequest(), tenantId: tenant.id, userId: tenant.adminId, targetId };
    expect(created).toMatchObject(of);
    const body = { permissions: ['products:read', 'products:write'] };
    const changed = await during('role-changed', () => send('PATCH', `/roles/${targetId}`, { token, body }));
    expect(changed).toMatchObject([{ ...of, fields: ['permissions'] }]);
    expect(await during('role-removed', () => send('DELETE', `/roles/${targetId}`, { token }))).toMatchObject([of]);
  });

  it('of a tenant are events, each once', async () => {
    const created = await during('tenant-created', () => service.createTenant('whole-life'));
    const tenantId = String(created[0]?.['tenantId']);
    const of = { ...ofRequest(), tenantId, operatorId };
    expect(created).toMatchObject([of]);
    const act =
      (path: string, method: 'POST' | 'DELETE' = 'POST') =>
      () =>
        send(method, `/tenants/${tenantId}${path}`, { token: operatorToken });
    expect(await during('tenant-signed-out', act('/sign-out'))).toMatchObject([of]);
    expect(await during('database-password-changed', act('/rotate-password'))).toMatchObject([of]);
    expect(await during('tenant-suspended', act('/suspend'))).toMatchObject([of]);
    const before = eventLines().length;
    expect((await act('/suspend')()).status).toBe(200);
    expect(eventLines()).toHaveLength(before);
    expect(await during('tenant-resumed', act('/resume'))).toMatchObject([of]);
    expect(await during('tenant-deleted', act('', 'DELETE'))).toMatchObject([of]);
    expect(await during('tenant-restored', act('/restore'))).toMatchObject([of]);
    await act('', 'DELETE')();
    expect(await during('tenant-purged', act('/purge'))).toMatchObject([of]);
  });

  it('of a tenant’s status through PATCH are events as well', async () => {
    const { id } = await service.createTenant('patched');
    const patch = (active: boolean) => () =>
      send('PATCH', `/tenants/${id}`, { token: operatorToken, body: { active } });
    expect(await during('tenant-suspended', patch(false))).toMatchObject([{ tenantId: id, operatorId }]);
    expect(await during('tenant-resumed', patch(true))).toMatchObject([{ tenantId: id, operatorId }]);
  });
});

it('audit entries that cannot be written are an event', async () => {
  const unknown = '01900000-0000-7000-8000-00000000ffff';
  const [line] = await during('audit-lost', async () => {
    service.app.engine.audit.laterInTenant(unknown, { actor: { kind: 'none' }, action: 'auth.logout' });
  });
  expect(line).toMatchObject({ level: 'error', tenantId: unknown, rows: 1, err: { type: 'AppError' } });
});

it('no line of a security event has a field that the catalogue does not give it', () => {
  const ofRequest = ['reqId', 'traceId', 'address', 'userId', 'operatorId'];
  const always = ['level', 'time', 'msg', 'security', 'event', 'leftOut', ...ofRequest];
  const beyond = eventLines().flatMap(({ event, ...line }) => {
    const own: readonly string[] = event ? securityEvents[event].fields : [];
    return Object.keys(line)
      .filter((key) => !always.includes(key) && !own.includes(key))
      .map((key) => `${String(event)}: ${key}`);
  });
  expect(beyond).toEqual([]);
  expect(lines().flatMap(faultsOf)).toEqual([]);
});

/** Events that another file causes, because they need a broken server, another key, or the start of a process. */
const ELSEWHERE: Partial<Record<SecurityEventName, string>> = {
  'cluster-registered': 'tests/integration/clusters.test.ts',
  'cluster-changed': 'tests/integration/clusters.test.ts',
  'cluster-removed': 'tests/integration/clusters.test.ts',
  'evidence-refused': 'tests/faults/evidence-attacks.test.ts',
  'wrong-database': 'tests/integration/tenant-pools.test.ts',
  'reencryption-begun': 'tests/integration/reencryption.test.ts',
  'passwords-reencrypted': 'tests/integration/reencryption.test.ts',
  'key-unused': 'tests/integration/reencryption.test.ts',
  'key-missing': 'tests/integration/reencryption.test.ts',
  'password-unreadable': 'tests/integration/reencryption.test.ts',
  'weak-setup': 'tests/process/migrate.test.ts',
};

it('every event of the catalogue was caused here, or is by the file that is named', () => {
  const seen = new Set(eventLines().map(({ event }) => event));
  for (const event of Object.keys(securityEvents) as SecurityEventName[]) {
    const file = ELSEWHERE[event];
    if (file === undefined) expect(seen, event).toContain(event);
    else expect(readFileSync(file, 'utf8').includes(`'${event}'`), `${file}: ${event}`).toBe(true);
  }
});
