// The audit: each act leaves its row, in the right database and without a secret, and the rows can be listed.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { createAuditTrail, MAX_WAITING } from '../../src/audit/trail.js';
import {
  ADMIN,
  asSuperuser,
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

interface Row {
  readonly id: string;
  readonly at: string;
  readonly actor: { readonly kind: string; readonly id: string | null };
  readonly action: string;
  readonly target: { readonly kind: string; readonly id: string } | null;
  readonly address: string | null;
  readonly userAgent: string | null;
  readonly requestId: string | null;
  readonly details: Readonly<Record<string, unknown>>;
}

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const UNKNOWN_ID = '01900000-0000-7000-8000-00000000ffff';

let registry: string;
let service: TestService;
let tenant: TestTenant;
let operatorId: string;
beforeAll(async () => {
  registry = await createRegistry();
  service = await startService({ registry });
  tenant = await service.createTenant('audited');
  const me = await service.send<{ operator: { id: string } }>('GET', '/auth/me', { token: service.operatorToken });
  operatorId = me.body.operator.id;
});
afterAll(() => service.close());

/** The tenant's rows, the newest first. */
async function rowsOf(of: TestTenant, query = '', at = service): Promise<Row[]> {
  const { status, body, text } = await at.send<PageOf<Row>>('GET', `/audit?limit=100${query}`, {
    token: of.adminToken,
  });
  expect(status, text).toBe(200);
  return body.data;
}

/** What operators did to it, the newest first. */
async function actsOn(tenantId: string, query = ''): Promise<Row[]> {
  const { status, body, text } = await service.send<PageOf<Row>>(
    'GET',
    `/tenants/${tenantId}/audit?limit=100${query}`,
    { token: service.operatorToken },
  );
  expect(status, text).toBe(200);
  return body.data;
}

/** The registry's rows of an action, the newest first. */
async function central(action: string, at = service): Promise<Record<string, unknown>[]> {
  return at.app.engine.registry
    .selectFrom('audit')
    .selectAll()
    .where('action', '=', action)
    .orderBy('id', 'desc')
    .execute();
}

/** Asks until there are so many rows: those of refused sign-ins are written after the answer. */
async function eventually<T>(least: number, look: () => Promise<readonly T[]>): Promise<readonly T[]> {
  const deadline = performance.now() + 5_000;
  for (;;) {
    const found = await look();
    if (found.length >= least || performance.now() > deadline) return found;
    await sleep(50);
  }
}

const login = (body: object, headers: Record<string, string> = {}): Promise<Answer> =>
  service.send('POST', '/auth/login', { body, headers });

describe('signing in', () => {
  it('leaves a row with who, when, from where and in which request', async () => {
    const headers = { 'user-agent': 'a browser of sorts', 'x-request-id': 'sign-in-of-the-test' };
    const before = Date.now();
    const { status } = await login({ tenant: tenant.slug, email: ADMIN.email, password: ADMIN.password }, headers);
    expect(status).toBe(200);
    const [row] = await rowsOf(tenant, '&action=auth.login');
    expect(row).toEqual({
      id: expect.stringMatching(UUID) as string,
      at: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/) as string,
      actor: { kind: 'user', id: tenant.adminId },
      action: 'auth.login',
      target: { kind: 'session', id: expect.stringMatching(UUID) as string },
      address: '127.0.0.1',
      userAgent: 'a browser of sorts',
      requestId: 'sign-in-of-the-test',
      details: {},
    });
    expect(Math.abs(Date.parse(row?.at ?? '') - before)).toBeLessThan(60_000);
  });

  it('leaves a row in the registry for an operator', async () => {
    await service.send('POST', '/auth/operator/login', { body: OPERATOR });
    const [row] = await central('auth.login');
    expect(row).toMatchObject({
      actor_kind: 'operator',
      actor_id: operatorId,
      target_kind: 'session',
      tenant_id: null,
    });
  });

  it('stores no more than 256 characters of the client’s User-Agent', async () => {
    const headers = { 'user-agent': 'x'.repeat(5_000) };
    await login({ tenant: tenant.slug, email: ADMIN.email, password: ADMIN.password }, headers);
    expect((await rowsOf(tenant, '&action=auth.login'))[0]?.userAgent).toBe('x'.repeat(256));
  });
});

describe('a refused sign-in', () => {
  it('leaves a row with the account and the reason in the tenant’s database', async () => {
    const own = await service.createTenant('refusals');
    const inactive = await service.createUser(own, 'inactive@example.com');
    await service.send('PATCH', `/users/${inactive.id}`, { token: own.adminToken, body: { active: false } });
    await login({ tenant: own.slug, email: ADMIN.email, password: 'not the password' });
    await login({ tenant: own.id, email: 'nobody@example.com', password: 'not the password' });
    await login({ tenant: own.slug, email: inactive.email, password: inactive.password });
    const rows = await eventually(3, () => rowsOf(own, '&action=auth.login-failed'));
    expect(rows.map(({ actor, target, details }) => ({ actor: actor.kind, target: target?.id, ...details }))).toEqual([
      { actor: 'none', target: inactive.id, reason: 'inactive-user' },
      { actor: 'none', target: undefined, reason: 'unknown-user' },
      { actor: 'none', target: own.adminId, reason: 'wrong-password' },
    ]);
    expect(rows.map(({ address, requestId }) => [address, requestId === null])).toEqual(
      Array(3).fill(['127.0.0.1', false]),
    );
  });

  it('leaves a row in the registry if no tenant’s database can store it', async () => {
    const suspended = await service.createTenant('refusals-suspended');
    const { email, password } = ADMIN;
    await service.send('PATCH', `/tenants/${suspended.id}`, { token: service.operatorToken, body: { active: false } });
    await login({ tenant: suspended.slug, email, password });
    await login({ tenant: 'no-such-tenant', email, password });
    await service.send('POST', '/auth/operator/login', { body: { ...OPERATOR, password: 'not the password' } });
    await service.send('POST', '/auth/operator/login', { body: { email: 'nobody@example.com', password } });
    const rows = await eventually(4, () => central('auth.login-failed'));
    expect(rows.map(({ tenant_id, target_id, details }) => ({ tenant_id, target_id, details }))).toEqual([
      { tenant_id: null, target_id: null, details: { reason: 'unknown-operator' } },
      { tenant_id: null, target_id: operatorId, details: { reason: 'wrong-password' } },
      { tenant_id: null, target_id: null, details: { reason: 'unknown-tenant' } },
      { tenant_id: suspended.id, target_id: null, details: { reason: 'suspended-tenant' } },
    ]);
  });

  it('is answered before its row is written, and no request waits for the writing', async () => {
    const own = await startServiceForTest();
    const there = await own.createTenant('locked-audit');
    const { dbName } = (await findTenant(own.app.engine.registry, there.id)) ?? {};
    await asSuperuser(dbName ?? '', (db) =>
      db.transaction().execute(async (trx) => {
        await sql`lock table audit in exclusive mode`.execute(trx);
        const body = { tenant: there.slug, email: ADMIN.email, password: 'not the password' };
        for (let attempt = 0; attempt < 3; attempt += 1) {
          expect((await own.send('POST', '/auth/login', { body })).status).toBe(401);
          await sleep(250);
        }
        const { rows } = await sql`select id from audit where action = 'auth.login-failed'`.execute(trx);
        expect(rows).toEqual([]);
      }),
    );
    const rows = await eventually(3, () => rowsOf(there, '&action=auth.login-failed', own));
    expect(rows).toHaveLength(3);
  });

  it('gets its time from the database, whatever the clock of the process says', async () => {
    const own = await service.createTenant();
    const attempt = (password: string): Promise<Answer> => login({ tenant: own.slug, email: ADMIN.email, password });
    vi.useFakeTimers({ toFake: ['Date'], now: Date.now() - 3_600_000 });
    try {
      expect((await attempt(ADMIN.password)).status).toBe(200);
      expect((await attempt('not the password')).status).toBe(401);
      await sleep(50);
      expect((await attempt(ADMIN.password)).status).toBe(200);
    } finally {
      vi.useRealTimers();
    }
    const failures = await eventually(1, () => rowsOf(own, '&action=auth.login-failed'));
    expect(failures).toHaveLength(1);
    const times = (await rowsOf(own)).map(({ at }) => Date.now() - Date.parse(at));
    for (const ago of times) expect(Math.abs(ago)).toBeLessThan(1_800_000);
  });

  it('is still written when the process stops', async () => {
    const own = await startService({ registry: await createRegistry() });
    const there = await own.createTenant('stopping');
    const { dbName } = (await findTenant(own.app.engine.registry, there.id)) ?? {};
    await own.send('POST', '/auth/login', { body: { tenant: there.slug, email: ADMIN.email, password: 'wrong' } });
    await own.close();
    const { rows } = await asSuperuser(dbName ?? '', (db) =>
      sql`select action from audit where action = 'auth.login-failed'`.execute(db),
    );
    expect(rows).toHaveLength(1);
  });

  it('is only counted if too many wait, and one row has the count; other tenants lose no row', async () => {
    const flooded = await service.createTenant('flooded');
    const quiet = await service.createTenant('quiet');
    const trail = createAuditTrail({
      registry: service.app.engine.registry,
      tenantDb: (id) => service.app.engine.tenantPools.database(id),
      findTenant: (tenant) => service.app.engine.tenantDirectory.findBySlugOrId(tenant),
      onError: (error) => {
        throw error;
      },
    });
    const entry = { actor: { kind: 'none' }, action: 'auth.login-failed' } as const;
    for (let count = 0; count < MAX_WAITING + 37; count += 1) trail.laterInTenant(flooded.id, entry);
    trail.laterInTenant(quiet.id, entry);
    await trail.close();
    expect(await rowsOf(flooded, '&action=auth.login-failed')).toHaveLength(MAX_WAITING);
    expect((await rowsOf(flooded, '&action=audit.dropped')).map(({ details }) => details)).toEqual([{ rows: 37 }]);
    expect(await rowsOf(quiet, '&action=auth.login-failed')).toHaveLength(1);
    expect(await rowsOf(quiet, '&action=audit.dropped')).toEqual([]);
  });

  it('that cannot be written is logged with the number of lost rows, and other tenants lose no row', async () => {
    const errors: { tenantId: string | undefined; rows: number }[] = [];
    const trail = createAuditTrail({
      registry: service.app.engine.registry,
      tenantDb: (id) => service.app.engine.tenantPools.database(id),
      findTenant: (tenant) => service.app.engine.tenantDirectory.findBySlugOrId(tenant),
      onError: (_error, context) => void errors.push(context),
    });
    const other = await service.createTenant('not-concerned');
    const entry = { actor: { kind: 'none' }, action: 'auth.login-failed' } as const;
    trail.laterInTenant(UNKNOWN_ID, entry);
    trail.laterInTenant(UNKNOWN_ID, entry);
    trail.laterInTenant(other.id, entry);
    await trail.close();
    expect(errors).toEqual([{ tenantId: UNKNOWN_ID, rows: 2 }]);
    expect(await rowsOf(other, '&action=auth.login-failed')).toHaveLength(1);
  });
});

describe('attempts that are refused without a check', () => {
  it('are logged without their input if their tenant cannot be looked up', async () => {
    const errors: unknown[] = [];
    const trail = createAuditTrail({
      registry: service.app.engine.registry,
      tenantDb: (id) => service.app.engine.tenantPools.database(id),
      findTenant: () => Promise.reject(new Error('the registry does not answer')),
      onError: (_error, context) => void errors.push(context),
    });
    trail.laterAtTenant('canary-typed', { actor: { kind: 'none' }, action: 'auth.throttled' });
    await trail.close();
    expect(errors).toEqual([{ tenantId: undefined, rows: 1 }]);
  });

  it('leave one row for each wait, in the database of the failures, however many attempts there are', async () => {
    const own = await startServiceForTest({ env: { SIGN_IN_FAILURES_ACCOUNT: '1' } });
    const there = await own.createTenant('throttled');
    const suspended = await own.createTenant('throttled-suspended');
    await own.send('POST', `/tenants/${suspended.id}/suspend`, { token: own.operatorToken });
    const refuse = async (path: string, sent: { token?: string; body: object }): Promise<void> => {
      await own.send('POST', path, sent);
      const statuses = [await own.send('POST', path, sent), await own.send('POST', path, sent)].map(
        ({ status }) => status,
      );
      expect(statuses).toEqual([429, 429]);
    };
    const password = 'not the password';
    await refuse('/auth/login', { body: { tenant: there.slug, email: ADMIN.email, password } });
    await refuse('/auth/password', {
      token: there.adminToken,
      body: { currentPassword: password, newPassword: 'canary-new-password' },
    });
    await refuse('/auth/login', { body: { tenant: suspended.id, email: ADMIN.email, password } });
    await refuse('/auth/login', { body: { tenant: 'no-such-tenant', email: ADMIN.email, password } });
    await refuse('/auth/operator/login', { body: { email: OPERATOR.email, password } });

    const inTenant = await eventually(2, () => rowsOf(there, '&action=auth.throttled', own));
    // In any order, because the database dates them when they are written.
    expect(new Set(inTenant.map(({ actor, details }) => ({ actor, details })))).toEqual(
      new Set([
        { actor: { kind: 'user', id: there.adminId }, details: { attempt: 'confirmation', on: 'account' } },
        { actor: { kind: 'none', id: null }, details: { attempt: 'login', on: 'account' } },
      ]),
    );
    const inRegistry = await eventually(3, () => central('auth.throttled', own));
    // Sorted, because each place of failures has its own queue, and the order of writing is open.
    expect(inRegistry.map(({ tenant_id }) => tenant_id).sort()).toEqual([suspended.id, null, null]);
  });
});

describe('ending a session', () => {
  interface Tokens {
    readonly accessToken: string;
    readonly refreshToken: string;
  }
  const { email, password } = ADMIN;
  const begin = async (of: TestTenant): Promise<Tokens> =>
    (await login({ tenant: of.slug, email, password })).body as unknown as Tokens;
  const refresh = async (refreshToken: string): Promise<Answer<Tokens & Problem>> =>
    service.send('POST', '/auth/refresh', { body: { refreshToken } });

  it('leaves a row for each way to end it, with the session or the account', async () => {
    const own = await service.createTenant('sessions-that-end');
    const [first, second, third] = [await begin(own), await begin(own), await begin(own)];
    const sessions = (await rowsOf(own, '&action=auth.login')).slice(0, 3).map(({ target }) => target?.id);
    const [, ofSecond = '', ofFirst = ''] = sessions;
    await service.send('POST', '/auth/logout', { token: first.accessToken });
    await service.send('DELETE', `/auth/sessions/${ofSecond}`, { token: third.accessToken });
    await service.send('DELETE', `/auth/sessions/${ofSecond}`, { token: third.accessToken });
    await service.send('POST', '/auth/logout-all', { token: third.accessToken });
    expect((await refresh(second.refreshToken)).status).toBe(401);
    const again = await begin(own);
    const { body } = await service.send<PageOf<Row>>('GET', '/audit', { token: again.accessToken });
    expect(body.data.slice(1, 4).map(({ actor, action, target }) => ({ actor, action, target }))).toEqual([
      {
        action: 'auth.logout-all',
        target: { kind: 'user', id: own.adminId },
        actor: { kind: 'user', id: own.adminId },
      },
      {
        action: 'session.revoked',
        target: { kind: 'session', id: ofSecond },
        actor: { kind: 'user', id: own.adminId },
      },
      { action: 'auth.logout', target: { kind: 'session', id: ofFirst }, actor: { kind: 'user', id: own.adminId } },
    ]);
  });

  it('leaves a row if a refresh token is used again, with the account and the session that ended', async () => {
    const own = await service.createTenant('sessions-reused');
    const { refreshToken } = await begin(own);
    const [login] = await rowsOf(own, '&action=auth.login');
    const next = await refresh(refreshToken);
    await refresh(next.body.refreshToken);
    expect(await rowsOf(own, '&action=auth.refresh-reused')).toEqual([]);
    for (let attempt = 0; attempt < 2; attempt += 1) expect((await refresh(refreshToken)).status).toBe(401);
    const rows = await rowsOf(own, '&action=auth.refresh-reused');
    expect(rows.map(({ actor, target, details, address }) => ({ actor, target, details, address }))).toEqual([
      {
        actor: { kind: 'none', id: null },
        target: { kind: 'user', id: own.adminId },
        details: { session: login?.target?.id },
        address: '127.0.0.1',
      },
    ]);
  });

  it('leaves a row in the registry for operators, as their password changes do', async () => {
    const own = await startServiceForTest();
    const { token, body } = { token: own.operatorToken, body: OPERATOR };
    const other = await own.send<Tokens>('POST', '/auth/operator/login', { body });
    await own.send('POST', '/auth/password', {
      token,
      body: { currentPassword: 'wrong', newPassword: 'canary-new-password' },
    });
    const change = { currentPassword: OPERATOR.password, newPassword: 'canary-new-password' };
    expect((await own.send('POST', '/auth/password', { token, body: change })).status).toBe(204);
    expect((await own.send('POST', '/auth/refresh', { body: { refreshToken: other.body.refreshToken } })).status).toBe(
      401,
    );
    await own.send('POST', '/auth/logout', { token });
    const look = (): Promise<{ action: string; text: string }[]> =>
      own.app.engine.registry
        .selectFrom('audit')
        .select(['action', sql<string>`audit::text`.as('text')])
        .orderBy('at')
        .orderBy('id')
        .execute();
    const rows = await eventually(5, () => look());
    // The refusal is written a moment after its answer, and so perhaps after the acts that followed.
    const refusal = 'auth.confirmation-failed';
    expect(rows.map(({ action }) => action).filter((action) => action !== refusal)).toEqual([
      'auth.login',
      'auth.login',
      'operator.updated',
      'auth.logout',
    ]);
    expect(rows.map(({ action }) => action)).toContain(refusal);
    expect(rows.map(({ text }) => text).join()).not.toContain('canary');
  });

  it('is an operator’s act on the tenant if all its sessions are ended', async () => {
    const own = await service.createTenant('sessions-of-all');
    await service.send('POST', `/tenants/${own.id}/sign-out`, { token: service.operatorToken });
    expect((await actsOn(own.id)).map(({ action }) => action)).toEqual(['tenant.signed-out', 'tenant.created']);
  });
});

describe('a change to a user', () => {
  it('leaves a row with the names of the fields, and with the values before and after of roles and active only', async () => {
    const { id } = await service.createUser(tenant, 'changed@example.com');
    const body = { email: 'new-canary@example.com', password: 'canary-password-12', roles: ['admin'], active: false };
    expect((await service.send('PATCH', `/users/${id}`, { token: tenant.adminToken, body })).status).toBe(200);
    expect((await service.send('DELETE', `/users/${id}`, { token: tenant.adminToken })).status).toBe(204);
    const rows = (await rowsOf(tenant, `&target=${id}`)).filter(({ target }) => target?.kind === 'user');
    expect(rows.map(({ actor, action, details }) => ({ actor, action, details }))).toEqual([
      {
        actor: { kind: 'user', id: tenant.adminId },
        action: 'user.deleted',
        details: { roles: ['admin'], active: false },
      },
      {
        actor: { kind: 'user', id: tenant.adminId },
        action: 'user.updated',
        details: {
          fields: ['email', 'active', 'roles', 'password'],
          changes: { roles: { from: ['member'], to: ['admin'] }, active: { from: true, to: false } },
        },
      },
      {
        actor: { kind: 'user', id: tenant.adminId },
        action: 'user.created',
        details: { roles: ['member'], active: true },
      },
    ]);
    expect(JSON.stringify(rows)).not.toContain('canary');
  });

  it('leaves no row if it is refused', async () => {
    const before = await rowsOf(tenant);
    const send = (method: 'POST' | 'PATCH' | 'DELETE', url: string, body?: object): Promise<Answer> =>
      service.send(method, url, { token: tenant.adminToken, ...(body && { body }) });
    const { email } = ADMIN;
    expect(
      (await send('POST', '/users', { email, password: 'user-password-123', firstName: 'A', lastName: 'B' })).status,
    ).toBe(409);
    expect((await send('PATCH', `/users/${UNKNOWN_ID}`, { firstName: 'A' })).status).toBe(404);
    expect((await send('PATCH', `/users/${tenant.adminId}`, { roles: ['member'] })).status).toBe(409);
    expect((await send('DELETE', `/users/${tenant.adminId}`)).status).toBe(409);
    expect((await send('DELETE', `/users/${UNKNOWN_ID}`)).status).toBe(404);
    expect(await rowsOf(tenant)).toEqual(before);
  });

  it('is rolled back if its row cannot be written', async () => {
    const own = await service.createTenant('no-room');
    const { dbName } = (await findTenant(service.app.engine.registry, own.id)) ?? {};
    await asSuperuser(dbName ?? '', (db) =>
      sql`alter table audit add constraint full_up check (false) not valid`.execute(db),
    );
    const body = { email: 'half@example.com', password: 'user-password-123', firstName: 'H', lastName: 'H' };
    expect((await service.send('POST', '/users', { token: own.adminToken, body })).status).toBe(500);
    const { body: page } = await service.send<PageOf<{ email: string }>>('GET', '/users', { token: own.adminToken });
    expect(page.data.map(({ email }) => email)).toEqual([ADMIN.email]);
  });

  it('leaves a row if the user’s own password was wrong', async () => {
    const body = { password: 'a-new-password-1', currentPassword: 'not the password' };
    expect((await service.send('PATCH', `/users/${tenant.adminId}`, { token: tenant.adminToken, body })).status).toBe(
      403,
    );
    const rows = await eventually(1, () => rowsOf(tenant, '&action=auth.confirmation-failed'));
    expect(rows.map(({ actor }) => actor)).toEqual([{ kind: 'user', id: tenant.adminId }]);
  });
});

describe('an operator’s act on a tenant', () => {
  it('leaves a row in the registry, which stays after the tenant’s purge', async () => {
    const { id } = await service.createTenant('with-a-history');
    const operator = { token: service.operatorToken };
    const patch = (body: object): Promise<Answer> => service.send('PATCH', `/tenants/${id}`, { ...operator, body });
    await patch({ poolOptions: { max: 2, timeout: 900 } });
    await patch({ name: 'Another name', poolOptions: { max: 3 }, limits: { users: 9 } });
    await patch({ readCache: false });
    await patch({ active: false });
    await patch({ active: true, slug: 'with-another-slug' });
    await service.send('DELETE', `/tenants/${id}`, operator);
    await service.send('POST', `/tenants/${id}/restore`, operator);
    await service.send('DELETE', `/tenants/${id}`, operator);
    await service.send('POST', `/tenants/${id}/purge`, operator);
    const acts = await actsOn(id);
    expect(acts.map(({ actor, action, target, details }) => ({ actor, action, target, details }))).toEqual(
      [
        ['tenant.purged', {}],
        ['tenant.deleted', {}],
        ['tenant.restored', { status: 'active' }],
        ['tenant.deleted', {}],
        [
          'tenant.resumed',
          {
            fields: ['slug', 'active'],
            changes: {
              slug: { from: 'with-a-history', to: 'with-another-slug' },
              active: { from: false, to: true },
            },
          },
        ],
        ['tenant.suspended', { fields: ['active'], changes: { active: { from: true, to: false } } }],
        ['tenant.updated', { fields: ['readCache'], changes: { readCache: { from: true, to: false } } }],
        [
          'tenant.updated',
          {
            fields: ['name', 'poolOptions', 'limits'],
            changes: {
              name: { from: 'Tenant with-a-history', to: 'Another name' },
              poolOptions: { from: { max: 2 }, to: { max: 3 } },
              limits: { from: { users: null }, to: { users: 9 } },
            },
          },
        ],
        [
          'tenant.updated',
          {
            fields: ['poolOptions'],
            changes: { poolOptions: { from: { max: null, timeout: null }, to: { max: 2, timeout: 900 } } },
          },
        ],
        ['tenant.created', {}],
      ].map(([action, details]) => ({
        actor: { kind: 'operator', id: operatorId },
        action,
        target: { kind: 'tenant', id },
        details,
      })),
    );
  });

  it('leaves no row if it is refused', async () => {
    const { id } = await service.createTenant('refused-acts');
    const before = await actsOn(id);
    const body = { slug: tenant.slug };
    const { status } = await service.send('PATCH', `/tenants/${id}`, { token: service.operatorToken, body });
    expect(status).toBe(409);
    expect(await actsOn(id)).toEqual(before);
    await service.send('DELETE', `/tenants/${UNKNOWN_ID}`, { token: service.operatorToken });
    expect(await actsOn(UNKNOWN_ID)).toEqual([]);
  });

  it('leaves no row in the tenant’s own audit; an act of the tenant’s admin leaves one in both', async () => {
    const own = await service.createTenant('self-named');
    const operator = { token: service.operatorToken, body: { name: 'By an operator' } };
    await service.send('PATCH', `/tenants/${own.id}`, operator);
    await service.send('PATCH', `/tenants/${own.id}`, { token: own.adminToken, body: { name: 'By its admin' } });
    const inTenant = await eventually(1, () => rowsOf(own, '&action=tenant.updated'));
    const byAdmin = { kind: 'user', id: own.adminId };
    expect(inTenant.map(({ actor, details }) => ({ actor, details }))).toEqual([
      {
        actor: byAdmin,
        details: { fields: ['name'], changes: { name: { from: 'By an operator', to: 'By its admin' } } },
      },
    ]);
    expect((await actsOn(own.id, '&action=tenant.updated')).map(({ actor }) => actor)).toEqual([
      byAdmin,
      { kind: 'operator', id: operatorId },
    ]);
  });
});

describe.each([
  ['GET /audit', () => '/audit', () => tenant.adminToken],
  ['GET /tenants/:id/audit', () => `/tenants/${tenant.id}/audit`, () => service.operatorToken],
])('%s', (_route, url, token) => {
  beforeAll(async () => {
    for (const name of ['One', 'Two', 'Three'])
      await service.send('PATCH', `/tenants/${tenant.id}`, { token: tenant.adminToken, body: { name } });
    await eventually(3, () => rowsOf(tenant, '&action=tenant.updated'));
  });

  const read = async (query: string): Promise<PageOf<Row>> => {
    const { status, body, text } = await service.send<PageOf<Row>>('GET', `${url()}?${query}`, { token: token() });
    expect(status, text).toBe(200);
    return body;
  };

  it('answers the newest rows first, page by page, each row once', async () => {
    const whole = (await read('limit=100')).data;
    const times = whole.map(({ at }) => at);
    expect(times).toEqual([...times].sort().reverse());
    const paged: Row[] = [];
    let cursor = '';
    do {
      const page = await read(`limit=2${cursor}`);
      expect(page.data.length).toBeLessThanOrEqual(2);
      paged.push(...page.data);
      cursor = page.nextCursor === null ? '' : `&cursor=${encodeURIComponent(page.nextCursor)}`;
    } while (cursor !== '');
    expect(paged).toEqual(whole);
    expect(paged.length).toBeGreaterThan(3);
  });

  it('filters by action, actor and time', async () => {
    const whole = (await read('limit=100')).data;
    const of = async (query: string): Promise<string[]> => (await read(`limit=100&${query}`)).data.map(({ id }) => id);
    const ids = (rows: Row[]): string[] => rows.map(({ id }) => id);
    const middle = whole[1]?.at ?? '';
    expect(await of('action=tenant.updated')).toEqual(ids(whole.filter(({ action }) => action === 'tenant.updated')));
    expect(await of(`actor=${tenant.adminId}`)).toEqual(ids(whole.filter(({ actor }) => actor.id === tenant.adminId)));
    expect(await of(`from=${middle}`)).toEqual(ids(whole.filter(({ at }) => at >= middle)));
    expect(await of(`to=${middle}`)).toEqual(ids(whole.filter(({ at }) => at < middle)));
    expect(await of(`from=${middle}&action=tenant.updated&actor=${UNKNOWN_ID}`)).toEqual([]);
  });

  it.each([
    'action=everything',
    'actor=me',
    'from=yesterday',
    'from=0000-01-01T00:00:00Z',
    'to=1969-12-31T23:59:59Z',
    'to=2026-01-31',
    `to=2026-01-31T00:00:00.${'0'.repeat(200)}Z`,
    'sort=at',
    'search=x',
    'limit=101',
  ])('refuses ?%s', async (query) => {
    const { status, body } = await service.send<Problem>('GET', `${url()}?${query}`, { token: token() });
    expect([status, body.code]).toEqual([400, 'invalid-request']);
  });

  it('refuses a cursor of another filter', async () => {
    const { nextCursor } = await read('limit=1');
    const cursor = encodeURIComponent(nextCursor ?? '');
    const other = `${url()}?limit=1&action=tenant.updated&cursor=${cursor}`;
    const { body } = await service.send<Problem>('GET', other, { token: token() });
    expect(body.code).toBe('invalid-cursor');
  });

  it('answers no other role', async () => {
    const member = await service.createUser(tenant, `member-${url().length}@example.com`);
    expect((await service.send('GET', url(), { token: member.token })).status).toBe(403);
    expect((await service.send('GET', url())).status).toBe(401);
    const other = await service.createTenant();
    const status = async (by: string): Promise<number> => (await service.send('GET', url(), { token: by })).status;
    if (token() === tenant.adminToken) expect(await status(service.operatorToken)).toBe(403);
    else expect([await status(tenant.adminToken), await status(other.adminToken)]).toEqual([200, 404]);
  });
});

it('the list of a tenant’s audit filters by target', async () => {
  const { id } = await service.createUser(tenant, 'targeted@example.com');
  expect((await rowsOf(tenant, `&target=${id}`)).map(({ action }) => action)).toEqual(['user.created']);
});

describe('what an operator did', () => {
  it('is read by operators, with the tenant that it concerns, and by no user', async () => {
    const own = await service.createTenant('seen-by-operators');
    const read = (query: string, token = service.operatorToken): Promise<Answer<PageOf<Row & { tenantId: string }>>> =>
      service.send('GET', `/operators/audit?${query}`, { token });
    const created = await read(`tenant=${own.id}`);
    expect(created.body.data.map(({ action, tenantId, actor }) => ({ action, tenantId, actor }))).toEqual([
      { action: 'tenant.created', tenantId: own.id, actor: { kind: 'operator', id: operatorId } },
    ]);
    expect((await service.send('POST', '/auth/operator/login', { body: OPERATOR })).status).toBe(200);
    const logins = (await read(`action=auth.login&actor=${operatorId}`)).body.data;
    expect(logins[0]).toMatchObject({ actor: { kind: 'operator', id: operatorId }, tenantId: null });
    expect((await read(`target=${String(logins[0]?.target?.id)}`)).body.data).toEqual([logins[0]]);
    expect((await read('', own.adminToken)).status).toBe(403);
  });

  it('is shown to the tenant’s admin without the operator’s address, client and request', async () => {
    const own = await service.createTenant();
    const change = { token: service.operatorToken, body: { limits: { users: 7 } } };
    expect((await service.send('PATCH', `/tenants/${own.id}`, change)).status).toBe(200);
    const self = { token: own.adminToken, body: { name: 'Own name' } };
    expect((await service.send('PATCH', `/tenants/${own.id}`, self)).status).toBe(200);
    const shown = await service.send<PageOf<Row>>('GET', `/tenants/${own.id}/audit`, { token: own.adminToken });
    const [byItself, limited, created] = shown.body.data;
    expect(byItself).toMatchObject({ actor: { kind: 'user', id: own.adminId }, address: '127.0.0.1' });
    expect(limited).toMatchObject({
      actor: { kind: 'operator', id: operatorId },
      action: 'tenant.updated',
      address: null,
      userAgent: null,
      requestId: null,
      details: { fields: ['limits'], changes: { limits: { from: { users: null }, to: { users: 7 } } } },
    });
    expect(created?.action).toBe('tenant.created');
    expect((await actsOn(own.id))[1]).toMatchObject({ address: '127.0.0.1' });
  });
});

describe('every filter', () => {
  const indexes = async (database: string): Promise<string[]> => {
    const { rows } = await asSuperuser(database, (db) =>
      sql<{ columns: string }>`
        select substring(indexdef from '[(](.*)[)]$') as columns from pg_indexes where tablename = 'audit'`.execute(db),
    );
    return rows.map(({ columns }) => columns);
  };

  it('has an index that ends in the order of the list', async () => {
    const { dbName } = (await findTenant(service.app.engine.registry, tenant.id)) ?? {};
    expect(await indexes(dbName ?? '')).toEqual(
      expect.arrayContaining(['at, id', 'action, at, id', 'actor_id, at, id', 'target_id, at, id']),
    );
    expect(await indexes(registry)).toEqual(
      expect.arrayContaining([
        ...['at, id', 'action, at, id', 'actor_id, at, id', 'target_id, at, id'],
        ...['tenant_id, at, id', 'tenant_id, action, at, id', 'tenant_id, actor_id, at, id'],
      ]),
    );
  });
});

it('the audit holds no secret, whichever act used one', async () => {
  const own = await service.createTenant('canaries');
  const secret = 'canary-of-the-audit';
  const operator = { token: service.operatorToken };
  const admin = { token: own.adminToken };
  const person = { email: 'person@example.com', password: `${secret}-1`, firstName: 'P', lastName: 'Q' };
  const made = await service.send<{ id: string }>('POST', '/users', { ...admin, body: person });
  const signedIn = await login({ tenant: own.slug, email: person.email, password: person.password });
  const token = String(signedIn.body['accessToken']);
  const refreshTokens = [String(signedIn.body['refreshToken'])];
  for (let step = 0; step < 2; step += 1) {
    const { body } = await service.send('POST', '/auth/refresh', { body: { refreshToken: refreshTokens.at(-1) } });
    refreshTokens.push(String(body['refreshToken']));
  }
  const third = await login({ tenant: own.slug, email: person.email, password: person.password });
  await service.send('POST', '/auth/refresh', { body: { refreshToken: refreshTokens[0] } });
  const again = String(third.body['accessToken']);
  const itself = { token: again, body: { password: `${secret}-2`, currentPassword: person.password } };
  expect((await service.send('PATCH', `/users/${made.body.id}`, itself)).status).toBe(200);
  await service.send('PATCH', `/users/${made.body.id}`, {
    ...admin,
    body: { password: `${secret}-3`, email: `${secret}@example.com` },
  });
  await service.send('PATCH', `/users/${own.adminId}`, {
    ...admin,
    body: { password: `${secret}-4`, currentPassword: `${secret}-5` },
  });
  await login({ tenant: own.slug, email: person.email, password: `${secret}-6` });
  await login({ tenant: own.slug, email: `${secret}@nowhere.example`, password: `${secret}-7` });
  await login({ tenant: secret, email: person.email, password: `${secret}-8` });
  for (const email of [OPERATOR.email, `${secret}@nowhere.example`])
    await service.send('POST', '/auth/operator/login', { body: { email, password: `${secret}-9` } });
  const another = { name: 'Second', slug: 'second-of-canaries', admin: { ...ADMIN, password: `${secret}-10` } };
  const second = await service.send<{ id: string }>('POST', '/tenants', { ...operator, body: another });
  await service.send('PATCH', `/tenants/${second.body.id}`, { ...operator, body: { name: 'Second again' } });
  await service.send('PATCH', `/tenants/${own.id}`, { ...admin, body: { name: 'Canaries too' } });
  await service.send('POST', '/auth/password', {
    token: again,
    body: { currentPassword: `${secret}-2`, newPassword: `${secret}-11` },
  });
  await service.send('POST', '/auth/logout-all', { token: again });
  await service.send('DELETE', `/users/${made.body.id}`, admin);
  await service.send('DELETE', `/tenants/${second.body.id}`, operator);
  await service.send('POST', `/tenants/${second.body.id}/purge`, operator);
  await eventually(1, () => rowsOf(own, '&action=tenant.updated'));

  const { dbName } = (await findTenant(service.app.engine.registry, own.id)) ?? {};
  const texts: string[] = [];
  for (const database of [registry, dbName ?? '']) {
    const { rows } = await asSuperuser(database, (db) =>
      sql<{ text: string }>`select a::text as text from audit a`.execute(db),
    );
    texts.push(...rows.map(({ text }) => text));
  }
  expect(texts.length).toBeGreaterThan(15);
  expect(texts.join()).toContain('auth.refresh-reused');
  for (const each of [secret, '$argon2id$', 'SCRAM-', token, again, ...refreshTokens])
    for (const text of texts) expect(text).not.toContain(each);
});
