// Sessions: when a refresh token works, how a session ends, and that every replica knows of its end within a second.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { createRefreshTokens } from '../../src/auth/refresh-tokens.js';
import type { Principal } from '../../src/auth/tokens.js';
import {
  ADMIN,
  asSuperuser,
  createRegistry,
  OPERATOR,
  startService,
  type Answer,
  type TestService,
  type TestTenant,
} from '../support/app.js';

/** Every replica knows of a change after this time (ms). */
const PROMISE = 1_000;

interface SignedIn {
  readonly accessToken: string;
  readonly refreshToken: string;
}

interface SessionRow {
  readonly id: string;
  readonly current: boolean;
  readonly userAgent: string;
  readonly address: string;
}

let service: TestService;
/** Another process on the same registry. */
let replica: TestService;
let tenant: TestTenant;
let registry: string;
beforeAll(async () => {
  registry = await createRegistry();
  service = await startService({ registry });
  replica = await startService({ registry });
  tenant = await service.createTenant('sessions');
});
afterAll(() => Promise.all([service.close(), replica.close()]));

let users = 0;

/** A separate user for each test, so that its sessions belong to the test. */
async function newUser(): Promise<{ id: string; email: string; password: string; signIn: () => Promise<SignedIn> }> {
  users += 1;
  const user = await service.createUser(tenant, `user-${users}@example.com`);
  await call('POST', '/auth/logout-all', user.token);
  return { ...user, signIn: () => signIn(user.email, user.password) };
}

async function signIn(email: string, password: string): Promise<SignedIn> {
  const answer = await service.send<SignedIn>('POST', '/auth/login', {
    body: { tenant: tenant.slug, email, password },
    headers: { 'user-agent': 'a test' },
  });
  expect(answer.status, answer.text).toBe(200);
  return answer.body;
}

function call(
  method: 'GET' | 'POST' | 'DELETE',
  url: string,
  token?: string,
  body?: unknown,
  by = service,
): Promise<Answer> {
  return by.send(method, url, { token, ...(body !== undefined && { body }) });
}

/** Whether the session of an admitted request lives, without waiting. */
function peek({ app }: TestService, principal: Principal): boolean | undefined {
  const { sessions, tenantDirectory } = app.engine;
  return sessions.peek(principal, tenantDirectory.peek(tenant.id) ?? null);
}

const refresh = (refreshToken: string, by = service): Promise<Answer<SignedIn>> =>
  by.send<SignedIn>('POST', '/auth/refresh', { body: { refreshToken } });

async function expectRefused(answer: Promise<Answer<SignedIn>>): Promise<void> {
  const { status, body, headers } = await answer;
  expect([status, (body as unknown as { code: string }).code]).toEqual([401, 'invalid-refresh-token']);
  expect(headers['www-authenticate']).toBe('Bearer');
}

const me = async (token: string, by = service): Promise<number> =>
  (await call('GET', '/auth/me', token, undefined, by)).status;

async function databaseName(): Promise<string> {
  return (await service.app.engine.tenantDirectory.find(tenant.id))?.dbName ?? '';
}

async function inDatabase(statement: ReturnType<typeof sql>): Promise<void> {
  await asSuperuser(await databaseName(), (db) => statement.execute(db));
}

/** Makes the user's last refresh a day old. */
async function passDay(userId: string): Promise<void> {
  await inDatabase(sql`update sessions set refreshed_at = now() - interval '1 day' where account_id = ${userId}`);
}

describe('a refresh token', () => {
  it('works once, gives the next one, and keeps the session', async () => {
    const user = await newUser();
    const first = await user.signIn();
    const second = await refresh(first.refreshToken);
    expect(second.status).toBe(200);
    expect(second.headers['cache-control']).toBe('no-store');
    expect(second.body).toEqual({
      accessToken: expect.any(String) as string,
      refreshToken: expect.stringMatching(/^[\w-]{108}$/) as string,
      tokenType: 'Bearer',
      expiresIn: 900,
    });
    expect(second.body.refreshToken).not.toBe(first.refreshToken);
    const sid = (token: string): string => service.app.tokens.read(token).principal.sessionId;
    expect(sid(second.body.accessToken)).toBe(sid(first.accessToken));
    expect(await me(second.body.accessToken)).toBe(200);
    expect(await me(first.accessToken)).toBe(200);
    expect((await refresh(second.body.refreshToken)).status).toBe(200);
  });

  it('that is used again ends its session on every replica, and no other session', async () => {
    const user = await newUser();
    const [first, other] = [await user.signIn(), await user.signIn()];
    expect(await me(first.accessToken, replica)).toBe(200);
    const second = await refresh(first.refreshToken);
    const third = await refresh(second.body.refreshToken);
    expect(third.status).toBe(200);
    await expectRefused(refresh(first.refreshToken));
    await expectRefused(refresh(third.body.refreshToken));
    expect(await me(third.body.accessToken)).toBe(401);
    await expect.poll(() => me(third.body.accessToken, replica), { timeout: PROMISE }).toBe(401);
    expect(await me(other.accessToken)).toBe(200);
    expect((await refresh(other.refreshToken)).status).toBe(200);
  });

  it('gets the same successor at any later time, until that successor is presented', async () => {
    const user = await newUser();
    const first = await user.signIn();
    const second = await refresh(first.refreshToken);
    for (const by of [service, replica]) {
      await passDay(user.id);
      const again = await refresh(first.refreshToken, by);
      expect(again.body.refreshToken).toBe(second.body.refreshToken);
      expect(await me(again.body.accessToken)).toBe(200);
    }
    const third = await refresh(second.body.refreshToken);
    expect(third.status).toBe(200);
    await expectRefused(refresh(first.refreshToken));
    await expectRefused(refresh(third.body.refreshToken));
    expect(await me(third.body.accessToken)).toBe(401);
  });

  it('does not get its successor after the session has ended', async () => {
    const user = await newUser();
    const first = await user.signIn();
    const second = await refresh(first.refreshToken);
    await inDatabase(sql`update sessions set expires_at = now() where account_id = ${user.id}`);
    await expectRefused(refresh(first.refreshToken));
    await expectRefused(refresh(second.body.refreshToken));
  });

  it('is signed with the first of REFRESH_TOKEN_KEYS; older ones still work, and their reuse is detected', async () => {
    const [own, former] = [Buffer.alloc(32, 1), Buffer.alloc(32, 2)];
    const keyring = `own:${own.toString('base64')},former:${former.toString('base64')}`;
    const keyed = await startService({ registry, env: { REFRESH_TOKEN_KEYS: keyring } });
    try {
      const user = await newUser();
      const first = await user.signIn();
      const second = await refresh(first.refreshToken, keyed);
      expect(second.status).toBe(200);
      const genuine = (key: Buffer): boolean | undefined =>
        createRefreshTokens([key]).read(second.body.refreshToken)?.genuine;
      const derived = service.config.encryptionKeys.map(({ key }) => key);
      expect([own, former, ...derived].map(genuine)).toEqual([true, false, false]);
      const third = await refresh(second.body.refreshToken, keyed);
      expect(third.status).toBe(200);
      await expectRefused(refresh(first.refreshToken, keyed));
      expect(await me(third.body.accessToken)).toBe(401);
    } finally {
      await keyed.close();
    }
  });

  it.each([
    ['while that key is behind the new one', true],
    ['after that key is gone', false],
  ])('signed with a former key works, and its reuse ends its session, %s', async (_when, kept) => {
    const keyOf = (byte: number): string => `k${byte}:${Buffer.alloc(32, byte).toString('base64')}`;
    const former = await startService({ registry, env: { REFRESH_TOKEN_KEYS: keyOf(1) } });
    const latter = await startService({
      registry,
      env: { REFRESH_TOKEN_KEYS: kept ? `${keyOf(2)},${keyOf(1)}` : keyOf(2) },
    });
    try {
      const user = await newUser();
      const { refreshToken } = await user.signIn();
      const first = await refresh(refreshToken, former);
      const second = await refresh(first.body.refreshToken, latter);
      expect((await refresh(first.body.refreshToken, latter)).body.refreshToken).toBe(second.body.refreshToken);
      const third = await refresh(second.body.refreshToken, latter);
      expect(third.status).toBe(200);
      await expectRefused(refresh(first.body.refreshToken, latter));
      expect(await me(third.body.accessToken, latter)).toBe(401);
    } finally {
      await Promise.all([former.close(), latter.close()]);
    }
  });

  it('ends its session when it is reused after its key is gone, if it is one of the last 128', async () => {
    const keyOf = (byte: number): string => `k${byte}:${Buffer.alloc(32, byte).toString('base64')}`;
    const former = await startService({ registry, env: { REFRESH_TOKEN_KEYS: keyOf(1) } });
    const latter = await startService({ registry, env: { REFRESH_TOKEN_KEYS: keyOf(2) } });
    try {
      const user = await newUser();
      const tokens: string[] = [];
      let { refreshToken } = await user.signIn();
      // The first token is signed with a key that both know.
      for (let index = 0; index < 130; index += 1) {
        const next = await refresh(refreshToken, former);
        expect(next.status).toBe(200);
        tokens.push((refreshToken = next.body.refreshToken));
      }
      const current = async (): Promise<number> => {
        const { sessionId } = createRefreshTokens([Buffer.alloc(32, 1)]).read(refreshToken) ?? {};
        const { rows } = await asSuperuser(await databaseName(), (db) =>
          sql`select from sessions where id = ${sessionId}`.execute(db),
        );
        return rows.length;
      };
      const [tooOld = '', oldest = ''] = tokens;
      await expectRefused(refresh(tooOld, latter));
      expect(await current()).toBe(1);
      await expectRefused(refresh(oldest, latter));
      expect(await current()).toBe(0);
    } finally {
      await Promise.all([former.close(), latter.close()]);
    }
  });

  it('presented fifty times at once to two replicas has one successor', async () => {
    const user = await newUser();
    const { refreshToken } = await user.signIn();
    const answers = await Promise.all(
      Array.from({ length: 50 }, (_, index) => refresh(refreshToken, index % 2 === 0 ? service : replica)),
    );
    expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 50 }, () => 200));
    expect(new Set(answers.map(({ body }) => body.refreshToken)).size).toBe(1);
    const sessions = await call('GET', '/auth/sessions', answers[0]?.body.accessToken);
    expect(sessions.body['data']).toHaveLength(1);
    const [next, ...others] = await Promise.all(answers.slice(0, 5).map(({ body }) => refresh(body.refreshToken)));
    expect(others.map(({ body }) => body.refreshToken)).toEqual(others.map(() => next?.body.refreshToken));
  });

  it.each<[string, (of: SignedIn) => string]>([
    ['an access token', ({ accessToken }) => accessToken.slice(0, 108)],
    ['of a made-up secret', ({ refreshToken }) => changed(refreshToken, 40)],
    ['of another tenant’s id', ({ refreshToken }) => changed(refreshToken, 3)],
    ['of another session’s id', ({ refreshToken }) => changed(refreshToken, 20)],
    ['said to be an operator’s', ({ refreshToken }) => changed(refreshToken, 0)],
    ['cut short', ({ refreshToken }) => refreshToken.slice(0, -1)],
    ['empty of meaning', () => 'x'],
  ])('%s is refused, and ends no session', async (_what, tamper) => {
    const user = await newUser();
    const signedIn = await user.signIn();
    await expectRefused(refresh(tamper(signedIn)));
    expect((await refresh(signedIn.refreshToken)).status).toBe(200);
  });

  it('is refused as an access token', async () => {
    const user = await newUser();
    const { refreshToken } = await user.signIn();
    expect(await me(refreshToken)).toBe(401);
  });

  it('is stored as a hash only, and written to no log', async () => {
    const user = await newUser();
    const { refreshToken } = await user.signIn();
    const { rows } = await asSuperuser(await databaseName(), (db) =>
      sql<{ row: string }>`select t::text as row from sessions t where account_id = ${user.id}`.execute(db),
    );
    const secret = Buffer.from(refreshToken, 'base64url').subarray(33, 65);
    expect(rows).toHaveLength(1);
    for (const form of [refreshToken, secret.toString('base64url'), secret.toString('hex'), secret.toString('base64')])
      expect(rows[0]?.row).not.toContain(form);
  });

  it('is refused for a suspended tenant and for a deactivated user', async () => {
    const other = await service.createTenant();
    const { body } = await service.send<SignedIn>('POST', '/auth/login', {
      body: { tenant: other.slug, email: ADMIN.email, password: ADMIN.password },
    });
    const operator = service.operatorToken;
    await service.send('PATCH', `/tenants/${other.id}`, { token: operator, body: { active: false } });
    await expectRefused(refresh(body.refreshToken));
    await service.send('PATCH', `/tenants/${other.id}`, { token: operator, body: { active: true } });
    expect((await refresh(body.refreshToken)).status).toBe(200);

    const user = await newUser();
    const signedIn = await user.signIn();
    await service.send('PATCH', `/users/${user.id}`, { token: tenant.adminToken, body: { active: false } });
    await expectRefused(refresh(signedIn.refreshToken));
  });

  it.each([
    {},
    { refreshToken: '' },
    { refreshToken: 5 },
    { refreshToken: 'x'.repeat(109) },
    { refreshToken: 'x', a: 1 },
  ])('in a body like %j gets 400', async (body) => {
    expect((await call('POST', '/auth/refresh', undefined, body)).status).toBe(400);
  });
});

describe('a session', () => {
  it('counts as suspended while its tenant is suspended, and works again after the resumption', async () => {
    const { id, adminToken } = await service.createTenant();
    const { tokens } = service.app;
    const { sessions, tenantDirectory } = service.app.engine;
    const { principal } = tokens.read(adminToken);
    const setActive = (active: boolean): Promise<Answer> =>
      service.send('PATCH', `/tenants/${id}`, { token: service.operatorToken, body: { active } });
    expect(await sessions.lives(principal)).toBe(true);
    expect((await setActive(false)).status).toBe(200);
    // Admission has let the request in; this check comes later.
    expect(sessions.peek(principal, tenantDirectory.peek(id) ?? null)).toBeUndefined();
    await expect(sessions.lives(principal)).rejects.toMatchObject({ code: 'tenant-suspended' });
    expect((await setActive(true)).status).toBe(200);
    expect(await sessions.lives(principal)).toBe(true);
  });

  it('ends after its idle time without a refresh, and at its absolute time in any case', async () => {
    const brief = await startService({
      registry,
      env: { ACCESS_TOKEN_TTL: '60', SESSION_IDLE_TTL: '60', SESSION_TTL: '120' },
    });
    try {
      const user = await newUser();
      const login = (): Promise<Answer<SignedIn>> =>
        brief.send<SignedIn>('POST', '/auth/login', {
          body: { tenant: tenant.slug, email: user.email, password: user.password },
        });
      const age = (seconds: number): Promise<void> =>
        inDatabase(sql`update sessions set created_at = created_at - ${seconds} * interval '1 second',
          refreshed_at = refreshed_at - ${seconds} * interval '1 second',
          expires_at = expires_at - ${seconds} * interval '1 second' where account_id = ${user.id}`);
      const idle = (await login()).body;
      await age(61);
      await expectRefused(refresh(idle.refreshToken, brief));
      expect(await me(idle.accessToken, brief)).toBe(401);

      let token = (await login()).body.refreshToken;
      for (const seconds of [50, 50]) {
        await age(seconds);
        const next = await refresh(token, brief);
        expect(next.status).toBe(200);
        token = next.body.refreshToken;
      }
      await age(25);
      await expectRefused(refresh(token, brief));
    } finally {
      await brief.close();
    }
  });

  it('that another replica extended continues after its cached end, and otherwise ends then', async () => {
    const user = await newUser();
    const [kept, idle] = [await user.signIn(), await user.signIn()];
    const { principal } = service.app.tokens.read(kept.accessToken);
    const end = 2_000;
    await inDatabase(sql`
      update sessions set expires_at = now() + ${end} * interval '1 millisecond' where account_id = ${user.id}`);
    const askedAt = performance.now();
    for (const { accessToken } of [kept, idle]) expect(await me(accessToken, replica)).toBe(200);
    expect(peek(replica, principal)).toBe(true);
    expect((await refresh(kept.refreshToken)).status).toBe(200);
    await sleep(end - (performance.now() - askedAt) + 200);
    expect(peek(replica, principal)).toBeUndefined();
    expect(await me(kept.accessToken, replica)).toBe(200);
    expect(peek(replica, principal)).toBe(true);
    expect(await me(idle.accessToken, replica)).toBe(401);
  });

  it('ends by the clock of its database, whatever the clock of the process says', async () => {
    const user = await newUser();
    const { principal } = service.app.tokens.read((await user.signIn()).accessToken);
    vi.spyOn(Date, 'now').mockReturnValue(Date.now() + 365 * 86_400_000);
    try {
      expect(await service.app.engine.sessions.lives(principal)).toBe(true);
      expect(peek(service, principal)).toBe(true);
    } finally {
      vi.restoreAllMocks();
    }
  });

  it('that has expired is deleted at a later sign-in', async () => {
    const user = await newUser();
    await user.signIn();
    await inDatabase(sql`update sessions set expires_at = now() - interval '1 second' where account_id = ${user.id}`);
    await user.signIn();
    const { rows } = await asSuperuser(await databaseName(), (db) =>
      sql`select from sessions where expires_at <= now()`.execute(db),
    );
    expect(rows).toHaveLength(0);
  });

  it('is one of a hundred at most: the longest unused one ends', async () => {
    const user = await newUser();
    const oldest = await user.signIn();
    await inDatabase(sql`insert into sessions (id, account_id, address, user_agent, token_hash, expires_at, refreshed_at)
      select gen_random_uuid(), ${user.id}, '', '', n::text, now() + interval '1 day', now() + interval '1 second'
      from generate_series(1, 99) n`);
    expect(await me(oldest.accessToken)).toBe(200);
    await inDatabase(sql`update sessions set refreshed_at = now() - interval '1 hour'
      where id = ${service.app.tokens.read(oldest.accessToken).principal.sessionId}`);
    const newest = await user.signIn();
    expect(await me(oldest.accessToken)).toBe(401);
    expect(await me(newest.accessToken)).toBe(200);
  });

  it('is shown only to its owner, and ended only by its owner', async () => {
    const [user, other] = [await newUser(), await newUser()];
    const [here, there, foreign] = [await user.signIn(), await user.signIn(), await other.signIn()];
    const list = async (): Promise<SessionRow[]> =>
      (await call('GET', '/auth/sessions', here.accessToken)).body['data'] as SessionRow[];
    const listed = await list();
    expect(listed).toHaveLength(2);
    expect(listed[0]).toMatchObject({ userAgent: 'a test', address: '127.0.0.1' });
    expect(listed.filter(({ current }) => current)).toHaveLength(1);

    const idOf = (token: string): string => service.app.tokens.read(token).principal.sessionId;
    const end = async (id: string): Promise<number> =>
      (await call('DELETE', `/auth/sessions/${id}`, here.accessToken)).status;
    expect(await end(idOf(foreign.accessToken))).toBe(404);
    expect(await me(foreign.accessToken)).toBe(200);
    expect(await me(there.accessToken, replica)).toBe(200);
    expect(await end(idOf(there.accessToken))).toBe(204);
    expect(await end(idOf(there.accessToken))).toBe(404);
    expect(await me(there.accessToken)).toBe(401);
    await expect.poll(() => me(there.accessToken, replica), { timeout: PROMISE }).toBe(401);
    await expectRefused(refresh(there.refreshToken));
    expect(await list()).toHaveLength(1);
  });

  it('ends at a logout, on every replica within a second, as does its refresh token', async () => {
    const user = await newUser();
    const [gone, stays] = [await user.signIn(), await user.signIn()];
    expect(await me(gone.accessToken, replica)).toBe(200);
    expect((await call('POST', '/auth/logout', gone.accessToken)).status).toBe(204);
    expect(await me(gone.accessToken)).toBe(401);
    await expect.poll(() => me(gone.accessToken, replica), { timeout: PROMISE }).toBe(401);
    await expectRefused(refresh(gone.refreshToken));
    expect(await me(stays.accessToken)).toBe(200);
  });

  it('ends with all others at logout-all', async () => {
    const user = await newUser();
    const all = [await user.signIn(), await user.signIn(), await user.signIn()];
    for (const { accessToken } of all) expect(await me(accessToken, replica)).toBe(200);
    expect((await call('POST', '/auth/logout-all', all[0]?.accessToken)).status).toBe(204);
    for (const { accessToken, refreshToken } of all) {
      expect(await me(accessToken)).toBe(401);
      await expect.poll(() => me(accessToken, replica), { timeout: PROMISE }).toBe(401);
      await expectRefused(refresh(refreshToken));
    }
  });

  it('that changes its user’s password continues, and the others end; a change by another user ends all', async () => {
    const user = await newUser();
    const [own, other] = [await user.signIn(), await user.signIn()];
    expect(await me(other.accessToken, replica)).toBe(200);
    const change = (currentPassword: string, newPassword: string): Promise<Answer> =>
      call('POST', '/auth/password', own.accessToken, { currentPassword, newPassword });
    expect((await change('not the password', 'a-new-password-1')).body).toMatchObject({ code: 'wrong-password' });
    expect(await me(other.accessToken)).toBe(200);
    expect((await change(user.password, 'a-new-password-1')).status).toBe(204);
    expect(await me(own.accessToken)).toBe(200);
    expect(await me(other.accessToken)).toBe(401);
    await expect.poll(() => me(other.accessToken, replica), { timeout: PROMISE }).toBe(401);
    await expectRefused(refresh(other.refreshToken));
    expect((await refresh(own.refreshToken)).status).toBe(200);
    await signIn(user.email, 'a-new-password-1');

    const body = { password: 'a-new-password-2' };
    await service.send('PATCH', `/users/${user.id}`, { token: tenant.adminToken, body });
    expect(await me(own.accessToken)).toBe(401);
  });

  it.each([
    ['password', sql`password = 'another hash'`],
    ['being active', sql`active = false`],
  ])('does not begin if the %s changes between the check of the password and the beginning', async (_what, changes) => {
    const user = await newUser();
    const answer = await whileChanging(
      await databaseName(),
      sql`update users set ${changes} where id = ${user.id}`,
      () =>
        service.send('POST', '/auth/login', {
          body: { tenant: tenant.slug, email: user.email, password: user.password },
        }),
    );
    expect([answer.status, answer.body['code']]).toEqual([401, 'invalid-credentials']);
    await asSuperuser(await databaseName(), async (db) => {
      const { rows } = await sql`select id from sessions where account_id = ${user.id}`.execute(db);
      expect(rows).toEqual([]);
      await expect
        .poll(async () => {
          const { rows: failures } = await sql<{ reason: string }>`
            select details ->> 'reason' as reason from audit
            where action = 'auth.login-failed' and target_id = ${user.id}`.execute(db);
          return failures.map(({ reason }) => reason);
        })
        .toEqual(['changed-meanwhile']);
    });
  });

  it('of a tenant that an operator signed out does not count, even if a backup brings it back', async () => {
    const other = await service.createTenant();
    const before = other.adminToken;
    expect(await me(before, replica)).toBe(200);
    expect((await call('POST', `/tenants/${other.id}/sign-out`, service.operatorToken)).status).toBe(204);
    // The row still exists, as after a restore.
    expect(await me(before)).toBe(401);
    await expect.poll(() => me(before, replica), { timeout: PROMISE }).toBe(401);
    const { body } = await service.send<SignedIn>('POST', '/auth/login', {
      body: { tenant: other.slug, email: ADMIN.email, password: ADMIN.password },
    });
    expect(await me(body.accessToken)).toBe(200);
    expect((await refresh(body.refreshToken)).status).toBe(200);
    const unknown = '01900000-0000-7000-8000-00000000ffff';
    expect((await call('POST', `/tenants/${unknown}/sign-out`, service.operatorToken)).status).toBe(404);
  });

  it('belongs to one user: a token of another user that names it is refused', async () => {
    const [user, other] = [await newUser(), await newUser()];
    const { sessionId } = service.app.tokens.read((await user.signIn()).accessToken).principal;
    const forged = service.app.tokens.sign({ kind: 'user', tenantId: tenant.id, userId: other.id, sessionId });
    expect(await me(forged)).toBe(401);
  });
});

describe('an operator', () => {
  const login = async (password = OPERATOR.password): Promise<Answer<SignedIn>> =>
    service.send<SignedIn>('POST', '/auth/operator/login', { body: { email: OPERATOR.email, password } });

  it('has sessions in the registry, which can be refreshed, listed and ended', async () => {
    const first = (await login()).body;
    const second = await refresh(first.refreshToken, replica);
    expect(second.status).toBe(200);
    expect(await me(second.body.accessToken, replica)).toBe(200);
    const listed = await call('GET', '/auth/sessions', second.body.accessToken);
    expect((listed.body['data'] as SessionRow[]).length).toBeGreaterThan(1);
    expect((await call('POST', '/auth/logout', second.body.accessToken)).status).toBe(204);
    expect(await me(second.body.accessToken)).toBe(401);
    await expect.poll(() => me(second.body.accessToken, replica), { timeout: PROMISE }).toBe(401);
    await expectRefused(refresh(second.body.refreshToken));
  });

  it('loses a session whose refresh token is reused, even after the key of that token is gone', async () => {
    const keyed = (byte: number): Promise<TestService> =>
      startService({ registry, env: { REFRESH_TOKEN_KEYS: `k${byte}:${Buffer.alloc(32, byte).toString('base64')}` } });
    const [former, latter] = [await keyed(1), await keyed(2)];
    try {
      const old = await refresh((await login()).body.refreshToken, former);
      const next = await refresh(old.body.refreshToken, former);
      const last = await refresh(next.body.refreshToken, former);
      expect(await me(last.body.accessToken, latter)).toBe(200);
      await expectRefused(refresh(old.body.refreshToken, latter));
      expect(await me(last.body.accessToken, latter)).toBe(401);
    } finally {
      await Promise.all([former.close(), latter.close()]);
    }
  });

  it('gets no session if the password changes between its check and the beginning', async () => {
    const name = service.config.registry.connection.database;
    const change = sql`update operators set password = 'another hash' where email = ${OPERATOR.email}`;
    const before = await asSuperuser(name, (db) =>
      sql<{ password: string }>`select password from operators where email = ${OPERATOR.email}`.execute(db),
    );
    const answer = await whileChanging(name, change, () => login());
    expect(answer.status).toBe(401);
    await asSuperuser(name, (db) =>
      sql`update operators set password = ${before.rows[0]?.password} where email = ${OPERATOR.email}`.execute(db),
    );
    expect((await login()).status).toBe(200);
  });

  it('ends its other sessions by changing its password', async () => {
    const [own, other] = [(await login()).body, (await login()).body];
    const change = (currentPassword: string, newPassword: string): Promise<Answer> =>
      call('POST', '/auth/password', own.accessToken, { currentPassword, newPassword });
    expect((await change('wrong', 'another-password-1')).status).toBe(403);
    expect((await change(OPERATOR.password, 'another-password-1')).status).toBe(204);
    expect(await me(own.accessToken)).toBe(200);
    expect(await me(other.accessToken)).toBe(401);
    expect((await login()).status).toBe(401);
    expect((await change('another-password-1', OPERATOR.password)).status).toBe(204);
    expect((await login()).status).toBe(200);
  });
});

/** The answer of `act` while a change, begun before, is committed as soon as `act` waits for it. */
async function whileChanging<T>(database: string, change: ReturnType<typeof sql>, act: () => Promise<T>): Promise<T> {
  return asSuperuser(database, async (db) => {
    const { acting } = await db.transaction().execute(async (trx) => {
      await change.execute(trx);
      const acting = act();
      await asSuperuser(database, (watcher) =>
        expect
          .poll(async () => {
            const { rows } = await sql`
              select 1 from pg_stat_activity where datname = ${database} and wait_event_type = 'Lock'`.execute(watcher);
            return rows.length;
          })
          .toBe(1),
      );
      return { acting };
    });
    return acting;
  });
}

/** The token with one of its bytes changed. */
function changed(token: string, index: number): string {
  const bytes = Buffer.from(token, 'base64url');
  bytes[index] = (bytes[index] ?? 0) ^ 1;
  return bytes.toString('base64url');
}
