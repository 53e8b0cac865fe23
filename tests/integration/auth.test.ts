// Signing in, which routes a token opens, and how soon a revoked token is refused.
import { createHmac } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import {
  ADMIN,
  OPERATOR,
  startService,
  startServiceForTest,
  type Answer,
  type Send,
  type TestService,
  type TestTenant,
} from '../support/app.js';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}$/;
const UNKNOWN_ID = '01900000-0000-7000-8000-00000000ffff';
/** Every replica knows of a change after this time (ms). */
const PROMISE = 1_000;

interface SignedIn {
  accessToken: string;
  tokenType: string;
  expiresIn: number;
  user: { id: string; email: string; roles: string[] };
}

let service: TestService;
let send: Send;
let tenant: TestTenant;
beforeAll(async () => {
  service = await startService();
  send = service.send;
  tenant = await service.createTenant('acme');
});
afterAll(() => service.close());

function signIn(body: object, to: Send = send): Promise<Answer<SignedIn>> {
  return to('POST', '/auth/login', { body });
}

/** An answer as a client would compare it with another: without the parts that differ between any two requests. */
function comparable({ status, headers, body }: Answer): object {
  const { 'x-request-id': _id, date: _date, ...rest } = headers;
  return { status, headers: rest, body: { ...body, requestId: '' } };
}

describe('POST /auth/login', () => {
  it.each([
    ['slug', () => tenant.slug],
    ['id', () => tenant.id],
  ])('signs in by the tenant’s %s', async (_, name) => {
    const answer = await signIn({ tenant: name(), email: ADMIN.email, password: ADMIN.password });
    expect(answer.status).toBe(200);
    expect(answer.body).toEqual({
      accessToken: expect.stringMatching(/^[\w-]+\.[\w-]+\.[\w-]+$/) as string,
      refreshToken: expect.stringMatching(/^[\w-]{108}$/) as string,
      tokenType: 'Bearer',
      expiresIn: 900,
      user: {
        id: tenant.adminId,
        email: ADMIN.email,
        firstName: ADMIN.firstName,
        lastName: ADMIN.lastName,
        active: true,
        roles: ['admin'],
        createdAt: expect.stringMatching(/Z$/) as string,
        updatedAt: expect.stringMatching(/Z$/) as string,
      },
    });
    expect(tenant.adminId).toMatch(UUID);
    expect((await send('GET', '/auth/me', { token: answer.body.accessToken })).status).toBe(200);
  });

  it('accepts the e-mail address in any case', async () => {
    const answer = await signIn({ tenant: 'acme', email: ADMIN.email.toUpperCase(), password: ADMIN.password });
    expect(answer.status).toBe(200);
    expect(answer.body.user.email).toBe(ADMIN.email);
  });

  it('accepts the password only in its own case', async () => {
    expect((await signIn({ tenant: 'acme', email: ADMIN.email, password: ADMIN.password.toUpperCase() })).status).toBe(
      401,
    );
  });

  it('answers the same for an unknown tenant, an unknown user, an inactive user, a wrong password and a suspended tenant', async () => {
    const inactive = await service.createUser(tenant, 'inactive@example.com');
    await send('PATCH', `/users/${inactive.id}`, { token: tenant.adminToken, body: { active: false } });
    const suspended = await service.createTenant('suspended-at-sign-in');
    await send('PATCH', `/tenants/${suspended.id}`, { token: service.operatorToken, body: { active: false } });

    const { email, password } = ADMIN;
    const failures = await Promise.all(
      [
        { tenant: 'acme', email, password: 'not-the-password' },
        { tenant: 'no-such-tenant', email, password },
        { tenant: UNKNOWN_ID, email, password },
        { tenant: tenant.id.toUpperCase(), email, password },
        { tenant: 'acme', email: 'nobody@example.com', password },
        { tenant: 'acme', email: inactive.email, password: inactive.password },
        { tenant: suspended.slug, email, password },
        { tenant: suspended.id, email, password },
      ].map((body) => signIn(body)),
    );
    const [first, ...others] = failures.map((answer) => comparable(answer as unknown as Answer));
    expect(first).toMatchObject({
      status: 401,
      headers: { 'www-authenticate': 'Bearer', 'cache-control': 'no-store' },
      body: { status: 401, code: 'invalid-credentials', title: 'Sign-in failed' },
    });
    for (const other of others) expect(other).toEqual(first);
  });

  it('names missing and unknown keys', async () => {
    const answer = await send<{ errors: { path: string }[] }>('POST', '/auth/login', {
      body: { tenant: 'acme', email: 'no address', role: 'admin' },
    });
    expect(answer.status).toBe(400);
    expect(answer.body.errors.map(({ path }) => path).sort()).toEqual(['/email', '/password', '/role']);
  });
});

describe('POST /auth/operator/login', () => {
  it('signs an operator in', async () => {
    const answer = await send<{ accessToken: string }>('POST', '/auth/operator/login', { body: OPERATOR });
    expect(answer.status).toBe(200);
    expect(answer.body).toEqual({
      accessToken: expect.stringMatching(/^[\w-]+\.[\w-]+\.[\w-]+$/) as string,
      refreshToken: expect.stringMatching(/^[\w-]{108}$/) as string,
      tokenType: 'Bearer',
      expiresIn: 900,
      operator: { id: expect.stringMatching(UUID) as string, email: OPERATOR.email },
    });
    expect((await send('GET', '/tenants', { token: answer.body.accessToken })).status).toBe(200);
  });

  it('answers the same for an unknown operator, a wrong password and an inactive operator', async () => {
    const other = await startServiceForTest();
    const answers = [
      await other.send('POST', '/auth/operator/login', { body: { ...OPERATOR, password: 'not-the-password' } }),
      await other.send('POST', '/auth/operator/login', { body: { ...OPERATOR, email: 'nobody@example.com' } }),
    ];
    await other.app.engine.registry.updateTable('operators').set({ active: false }).execute();
    answers.push(await other.send('POST', '/auth/operator/login', { body: OPERATOR }));
    const [first, ...others] = answers.map(comparable);
    expect(first).toMatchObject({ status: 401, body: { code: 'invalid-credentials' } });
    for (const answer of others) expect(answer).toEqual(first);
  });

  it('does not sign in a tenant’s user', async () => {
    const { email, password } = ADMIN;
    expect((await send('POST', '/auth/operator/login', { body: { email, password } })).status).toBe(401);
  });
});

describe('GET /auth/me', () => {
  it('answers with the user and its tenant', async () => {
    const answer = await send('GET', '/auth/me', { token: tenant.adminToken });
    expect(answer.status).toBe(200);
    expect(answer.body).toMatchObject({
      tenantId: tenant.id,
      user: { id: tenant.adminId, email: ADMIN.email, roles: ['admin'] },
    });
    expect(answer.body).not.toHaveProperty('operator');
  });

  it('answers with the operator', async () => {
    const answer = await send('GET', '/auth/me', { token: service.operatorToken });
    expect(answer.status).toBe(200);
    expect(answer.body).toMatchObject({ operator: { email: OPERATOR.email, active: true } });
    expect(answer.body).not.toHaveProperty('user');
    expect(answer.body).not.toHaveProperty('tenantId');
  });
});

describe('passwords', () => {
  it('appear in no answer, neither as text nor as hash', async () => {
    const answers = [
      await signIn({ tenant: 'acme', email: ADMIN.email, password: ADMIN.password }),
      await signIn({ tenant: 'acme', email: ADMIN.email, password: 'not-the-password' }),
      await signIn({ tenant: 'acme', email: ADMIN.email, password: `${ADMIN.password}\0` }),
      await send('POST', '/auth/operator/login', { body: OPERATOR }),
      await send('GET', '/auth/me', { token: tenant.adminToken }),
      await send('GET', '/auth/me', { token: service.operatorToken }),
      await send('GET', '/users', { token: tenant.adminToken }),
    ];
    for (const { text } of answers) {
      expect(text).not.toContain(ADMIN.password);
      expect(text).not.toContain('not-the-password');
      expect(text).not.toContain(OPERATOR.password);
      expect(text).not.toMatch(/argon2|"password/i);
    }
  });
});

describe('the sign-in limit', () => {
  it('answers 429 with Retry-After, to the right password too, and does not affect other routes', async () => {
    const limited = await startServiceForTest({ env: { SIGN_IN_LIMIT: '5' } });
    const { send } = limited;
    const { adminToken } = await limited.createTenant('limited');
    const attempt = (password: string): Promise<Answer<SignedIn>> =>
      signIn({ tenant: 'limited', email: ADMIN.email, password }, send);
    for (let count = 0; count < 3; count += 1) expect((await attempt('not-the-password')).status).toBe(401);
    // A success counts as well.
    for (let count = 0; count < 2; count += 1) expect((await attempt(ADMIN.password)).status).toBe(200);

    const wrong = await attempt('not-the-password');
    expect(wrong.status).toBe(429);
    expect(wrong.body).toMatchObject({ status: 429, code: 'rate-limited' });
    expect(Number(wrong.headers['retry-after'])).toBeGreaterThan(0);
    expect(Number(wrong.headers['retry-after'])).toBeLessThanOrEqual(60);
    expect(wrong.headers['cache-control']).toBe('no-store');

    const right = await attempt(ADMIN.password);
    // Both count seconds, and the next one may have begun.
    const same = ({ headers, ...answer }: Answer): object =>
      comparable({ ...answer, headers: { ...headers, 'retry-after': '', ratelimit: '' } });
    expect(same(right as unknown as Answer)).toEqual(same(wrong as unknown as Answer));

    expect((await send('GET', '/auth/me', { token: adminToken })).status).toBe(200);
    expect((await send('GET', '/products', { token: adminToken })).status).toBe(200);
  });

  it('counts sign-ins of users and of operators together', async () => {
    const { send } = await startServiceForTest({ env: { SIGN_IN_LIMIT: '3' } });
    expect((await send('POST', '/auth/operator/login', { body: OPERATOR })).status).toBe(200);
    const asUser = { tenant: 'none', email: ADMIN.email, password: ADMIN.password };
    expect((await signIn(asUser, send)).status).toBe(401);
    expect((await signIn(asUser, send)).status).toBe(401);
    expect((await send('POST', '/auth/operator/login', { body: OPERATOR })).status).toBe(429);
    expect((await signIn(asUser, send)).status).toBe(429);
  });

  it('counts each address separately', async () => {
    const { app } = await startServiceForTest({ env: { SIGN_IN_LIMIT: '2' } });
    const from = async (remoteAddress: string): Promise<number> => {
      const { statusCode } = await app.inject({
        method: 'POST',
        url: '/auth/operator/login',
        payload: OPERATOR,
        remoteAddress,
      });
      return statusCode;
    };
    expect([await from('10.0.0.1'), await from('10.0.0.1'), await from('10.0.0.1')]).toEqual([200, 200, 429]);
    expect(await from('10.0.0.2')).toBe(200);
  });
});

describe('failed sign-ins', () => {
  const wrong = { ...OPERATOR, password: 'not-the-password' };

  /** A service, and how it answers an attempt from an address: `200`, `401`, or the seconds to wait. */
  async function throttled(env: Record<string, string>): Promise<{
    readonly limited: TestService;
    readonly from: (address: string, body: object, headers?: Record<string, string>) => Promise<number>;
  }> {
    const limited = await startServiceForTest({ env });
    const from = async (remoteAddress: string, body: object, headers = {}): Promise<number> => {
      const url = 'tenant' in body ? '/auth/login' : '/auth/operator/login';
      const answer = await limited.app.inject({ method: 'POST', url, payload: body, remoteAddress, headers });
      if (answer.statusCode !== 429) return answer.statusCode;
      expect(answer.json()).toEqual({
        type: 'urn:tenantry:error:rate-limited',
        title: 'Too many requests',
        status: 429,
        code: 'rate-limited',
        requestId: expect.any(String) as string,
      });
      expect(answer.headers['cache-control']).toBe('no-store');
      return Number(answer.headers['retry-after']);
    };
    return { limited, from };
  }

  const bad = (tenant: string, email = ADMIN.email): object => ({ tenant, email, password: 'not-the-password' });
  const good = (tenant: string): object => ({ tenant, email: ADMIN.email, password: ADMIN.password });

  it('on one account delay the next attempt, even with the right password, before any hashing and any query', async () => {
    const { limited, from } = await throttled({ SIGN_IN_FAILURES_ACCOUNT: '3' });
    const { slug } = await limited.createTenant();
    for (const last of [1, 2, 3]) expect(await from(`10.0.0.${last}`, bad(slug))).toBe(401);
    const hashing = vi.spyOn(limited.app.engine.passwords, 'verify');
    const asking = vi.spyOn(limited.app.engine.tenantDirectory, 'findBySlugOrId');
    expect(await from('10.0.0.4', bad(slug))).toBe(1);
    expect(await from('10.0.0.5', good(slug))).toBe(1);
    expect(hashing).not.toHaveBeenCalled();
    expect(asking).not.toHaveBeenCalled();
    expect(await from('10.0.0.6', bad(slug, 'somebody-else@example.com'))).toBe(401);
  });

  it('lock no account: after the wait the right password is accepted, and the failures are forgotten', async () => {
    const { limited, from } = await throttled({ SIGN_IN_FAILURES_ACCOUNT: '2' });
    const { slug } = await limited.createTenant();
    await from('10.0.0.1', bad(slug));
    await from('10.0.0.1', bad(slug));
    const wait = await from('10.0.0.1', good(slug));
    await delay(wait * 1_000);
    expect(await from('10.0.0.1', good(slug))).toBe(200);
    expect([await from('10.0.0.1', bad(slug)), await from('10.0.0.1', bad(slug))]).toEqual([401, 401]);
  });

  it('are counted together for the tenant’s slug and its id', async () => {
    const { limited, from } = await throttled({ SIGN_IN_FAILURES_ACCOUNT: '3' });
    const { slug, id } = await limited.createTenant();
    expect([await from('10.0.0.1', bad(slug)), await from('10.0.0.1', bad(id))]).toEqual([401, 401]);
    expect(await from('10.0.0.1', bad(slug))).toBe(401);
    const asking = vi.spyOn(limited.app.engine.tenantDirectory, 'findBySlugOrId');
    expect([await from('10.0.0.1', good(slug)), await from('10.0.0.1', good(id))]).toEqual([1, 1]);
    expect(asking).not.toHaveBeenCalled();
  });

  it('are counted in the same way for a tenant, a user or an operator that does not exist', async () => {
    const { limited, from } = await throttled({ SIGN_IN_FAILURES_ACCOUNT: '2' });
    const { slug } = await limited.createTenant();
    const suspended = await limited.createTenant();
    await limited.send('PATCH', `/tenants/${suspended.id}`, { token: limited.operatorToken, body: { active: false } });
    for (const body of [
      bad(slug),
      bad(slug, 'nobody@example.com'),
      bad('no-such-tenant'),
      bad(UNKNOWN_ID),
      good(suspended.slug),
      wrong,
      { ...wrong, email: 'nobody@example.com' },
    ]) {
      const answers = [await from('10.0.0.1', body), await from('10.0.0.1', body), await from('10.0.0.1', body)];
      expect(answers, JSON.stringify(body)).toEqual([401, 401, 1]);
    }
  });

  it('within one tenant delay the whole tenant, whatever the account and the address', async () => {
    const { limited, from } = await throttled({ SIGN_IN_FAILURES_TENANT: '3' });
    const [one, other] = [await limited.createTenant(), await limited.createTenant()];
    for (const last of [1, 2, 3]) expect(await from(`10.0.0.${last}`, bad(one.slug, `${last}@example.com`))).toBe(401);
    expect(await from('10.0.0.4', good(one.id))).toBe(1);
    expect(await from('10.0.0.4', good(other.slug))).toBe(200);
    expect(await from('10.0.0.4', OPERATOR)).toBe(200);
  });

  it('from one address delay that address everywhere, even with a made-up X-Forwarded-For, and no success clears them', async () => {
    const { limited, from } = await throttled({ SIGN_IN_FAILURES_ADDRESS: '3' });
    const { slug } = await limited.createTenant();
    const answers = [
      await from('2001:db8::1', bad(slug), { 'x-forwarded-for': '192.0.2.1' }),
      await from('2001:db8::2', good(slug), { 'x-forwarded-for': '192.0.2.2' }),
      await from('2001:db8::3', bad('no-such-tenant'), { 'x-forwarded-for': '192.0.2.3' }),
      await from('2001:db8::4', wrong, { 'x-forwarded-for': '192.0.2.4' }),
      await from('2001:db8::5', good(slug), { 'x-forwarded-for': '192.0.2.5' }),
      await from('2001:db8::6', OPERATOR, { 'x-forwarded-for': '192.0.2.6' }),
    ];
    expect(answers).toEqual([401, 200, 401, 401, 1, 1]);
    expect(await from('2001:db8:0:1::1', good(slug))).toBe(200);
  });

  it('of an operator delay the next attempt, and do not affect tenants', async () => {
    const { limited, from } = await throttled({ SIGN_IN_FAILURES_ACCOUNT: '3' });
    const { slug } = await limited.createTenant();
    for (const last of [1, 2, 3]) expect(await from(`10.0.0.${last}`, wrong)).toBe(401);
    expect(await from('10.0.0.4', OPERATOR)).toBe(1);
    expect(await from('10.0.0.4', good(slug))).toBe(200);
  });
});

describe('access tokens', () => {
  it.each([
    ['GET', '/users'],
    ['POST', '/products'],
    ['GET', '/auth/me'],
    ['GET', '/tenants'],
  ] as const)('are required for %s %s', async (method, url) => {
    const answer = await send(method, url);
    expect(answer.status).toBe(401);
    expect(answer.headers['www-authenticate']).toBe('Bearer');
    expect(answer.body).toMatchObject({ code: 'unauthenticated' });
  });

  it('that were not issued by the service get 401 with a challenge', async () => {
    const [header = '', claims = '', signature = ''] = tenant.adminToken.split('.');
    const signed = `${header}.${claims}`;
    const none = Buffer.from('{"alg":"none","typ":"JWT"}').toString('base64url');
    const tokens = [
      'garbage',
      'a.b.c',
      '.'.repeat(2_000),
      'x'.repeat(10_000),
      `${signed}.`,
      `${signed}.${signature.slice(1)}`,
      `${none}.${claims}.`,
      `${signed}.${createHmac('sha256', 'another-secret-of-some-length-0123456789').update(signed).digest('base64url')}`,
      `${tenant.adminToken}.${signature}`,
    ];
    for (const token of tokens) {
      const answer = await send('GET', '/users', { token });
      expect([token, answer.status]).toEqual([token, 401]);
      expect(answer.headers['www-authenticate']).toBe('Bearer');
    }
    for (const authorization of [
      '',
      'Bearer',
      'Bearer ',
      'Basic YTpi',
      tenant.adminToken,
      `Token ${tenant.adminToken}`,
    ]) {
      const answer = await send('GET', '/users', { headers: { authorization } });
      expect([authorization, answer.status]).toEqual([authorization, 401]);
      expect(answer.headers['www-authenticate']).toBe('Bearer');
    }
  });

  it('count only in the Authorization header', async () => {
    const { adminToken } = tenant;
    expect((await send('GET', `/auth/me?access_token=${adminToken}`)).status).toBe(401);
    expect((await send('GET', '/auth/me', { headers: { cookie: `token=${adminToken}` } })).status).toBe(401);
  });

  it('of an operator are refused on every tenant route', async () => {
    const token = service.operatorToken;
    for (const [method, url, body] of [
      ['GET', '/users', undefined],
      ['POST', '/users', {}],
      ['GET', `/users/${tenant.adminId}`, undefined],
      ['GET', '/products', undefined],
      ['POST', '/products', { name: 'x', price: '1' }],
    ] as const) {
      const answer = await send(method, url, { token, body });
      expect([url, answer.status, answer.body['code']]).toEqual([url, 403, 'forbidden']);
    }
  });

  it('of a tenant’s user are refused on every operator route', async () => {
    const token = tenant.adminToken;
    for (const [method, url, body] of [
      ['GET', '/tenants', undefined],
      ['POST', '/tenants', { name: 'x', admin: ADMIN }],
      ['DELETE', `/tenants/${tenant.id}`, undefined],
    ] as const) {
      const answer = await send(method, url, { token, body });
      expect([url, answer.status, answer.body['code']]).toEqual([url, 403, 'forbidden']);
    }
  });
});

describe('the answers of /auth', () => {
  it('are stored in no cache, even if they are errors', async () => {
    const { email, password } = ADMIN;
    const answers = [
      await signIn({ tenant: 'acme', email, password }),
      await signIn({ tenant: 'acme', email, password: 'not-the-password' }),
      await send('POST', '/auth/login', { body: {} }),
      await send('POST', '/auth/login', { body: '{', headers: { 'content-type': 'application/json' } }),
      await send('POST', '/auth/login', { body: 'x', headers: { 'content-type': 'text/plain' } }),
      await send('POST', '/auth/login', { body: { email: 'x'.repeat(100_000) } }),
      await send('POST', '/auth/operator/login', { body: OPERATOR }),
      await send('POST', '/auth/operator/login', { body: { ...OPERATOR, password: 'not-the-password' } }),
      await send('GET', '/auth/me', { token: tenant.adminToken }),
      await send('GET', '/auth/me'),
    ];
    expect(answers.map(({ status }) => status)).toEqual([200, 401, 400, 400, 415, 413, 200, 401, 200, 401]);
    for (const { headers } of answers) expect(headers['cache-control']).toBe('no-store');
  });
});

describe('a change of an account affects its tokens', () => {
  it('at once in the same process: a user is deactivated, deleted or demoted', async () => {
    const token = tenant.adminToken;
    const user = { ...(await service.createUser(tenant, 'short-lived@example.com')) };
    const me = async (): Promise<number> => (await send('GET', '/auth/me', { token: user.token })).status;
    expect(await me()).toBe(200);
    await send('PATCH', `/users/${user.id}`, { token, body: { active: false } });
    const refused = await send('GET', '/auth/me', { token: user.token });
    expect(refused.status).toBe(401);
    expect(refused.headers['www-authenticate']).toBe('Bearer');
    await send('PATCH', `/users/${user.id}`, { token, body: { active: true } });
    // Its session has ended; it signs in again.
    expect(await me()).toBe(401);
    const again = await signIn({ tenant: tenant.slug, email: user.email, password: user.password });
    user.token = again.body.accessToken;
    expect(await me()).toBe(200);

    const list = async (): Promise<number> => (await send('GET', '/users', { token: user.token })).status;
    expect(await list()).toBe(403);
    await send('PATCH', `/users/${user.id}`, { token, body: { roles: ['admin'] } });
    expect(await list()).toBe(200);
    await send('PATCH', `/users/${user.id}`, { token, body: { roles: ['member'] } });
    expect(await list()).toBe(403);

    await send('DELETE', `/users/${user.id}`, { token });
    expect(await me()).toBe(401);
  });

  it('at once in the same process: a tenant is suspended, resumed or deleted', async () => {
    const token = service.operatorToken;
    const other = await service.createTenant('comes-and-goes');
    const me = (): Promise<Answer> => send('GET', '/auth/me', { token: other.adminToken });
    expect((await me()).status).toBe(200);
    await send('PATCH', `/tenants/${other.id}`, { token, body: { active: false } });
    expect((await me()).body).toMatchObject({ status: 403, code: 'tenant-suspended' });
    expect((await send('GET', '/products', { token: other.adminToken })).body).toMatchObject({
      code: 'tenant-suspended',
    });
    expect((await send('GET', `/tenants/${other.id}`, { token: other.adminToken })).status).toBe(403);
    await send('PATCH', `/tenants/${other.id}`, { token, body: { active: true } });
    expect((await me()).status).toBe(200);
    await send('DELETE', `/tenants/${other.id}`, { token });
    expect((await me()).body).toMatchObject({ status: 403, code: 'forbidden' });
    expect((await signIn({ tenant: other.slug, email: ADMIN.email, password: ADMIN.password })).status).toBe(401);
  });

  it('within a second in another process', async () => {
    const { database } = service.config.registry.connection;
    const second = await startServiceForTest({ registry: database });
    const token = tenant.adminToken;
    const [deactivated, deleted, demoted] = await Promise.all([
      service.createUser(tenant, 'deactivated@example.com'),
      service.createUser(tenant, 'deleted@example.com'),
      service.createUser(tenant, 'demoted@example.com', ['admin']),
    ]);
    const [suspended, removed] = await Promise.all([
      service.createTenant('suspended-elsewhere'),
      service.createTenant('deleted-elsewhere'),
    ]);
    const there = async (): Promise<number[]> => {
      const answers = await Promise.all([
        second.send('GET', '/auth/me', { token: deactivated.token }),
        second.send('GET', '/auth/me', { token: deleted.token }),
        second.send('GET', '/users', { token: demoted.token }),
        second.send('GET', '/auth/me', { token: suspended.adminToken }),
        second.send('GET', '/auth/me', { token: removed.adminToken }),
      ]);
      return answers.map(({ status }) => status);
    };
    expect(await there()).toEqual([200, 200, 200, 200, 200]);

    const changes = await Promise.all([
      send('PATCH', `/users/${deactivated.id}`, { token, body: { active: false } }),
      send('DELETE', `/users/${deleted.id}`, { token }),
      send('PATCH', `/users/${demoted.id}`, { token, body: { roles: ['member'] } }),
      send('PATCH', `/tenants/${suspended.id}`, { token: service.operatorToken, body: { active: false } }),
      send('DELETE', `/tenants/${removed.id}`, { token: service.operatorToken }),
    ]);
    expect(changes.map(({ status }) => status)).toEqual([200, 204, 200, 200, 204]);
    // The token is used all the time: a read must not extend the life of a cached answer.
    const until = performance.now() + PROMISE;
    while (performance.now() < until) {
      await there();
      await delay(50);
    }
    expect(await there()).toEqual([401, 401, 403, 403, 403]);
  });

  it('within a second if an operator is deactivated in the registry', async () => {
    const { app, send, operatorToken } = await startServiceForTest();
    expect((await send('GET', '/tenants', { token: operatorToken })).status).toBe(200);
    await app.engine.registry.updateTable('operators').set({ active: false }).execute();
    await delay(PROMISE);
    expect((await send('GET', '/tenants', { token: operatorToken })).status).toBe(401);
  });
});
