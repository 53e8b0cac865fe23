// Users of a tenant: what an admin may do, what every user may do to itself, and that one admin always remains. roles.test.ts
// tests what others may do by their permissions.
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { permissions } from '../../src/auth/permissions.js';
import {
  ADMIN,
  type Answer,
  type PageOf,
  type Problem,
  type Send,
  type TestService,
  type TestTenant,
  startService,
  startServiceForTest,
} from '../support/app.js';
import { pagesOf } from '../support/pages.js';
import { addUser } from '../support/tenants.js';

const UNKNOWN_ID = '01900000-0000-7000-8000-00000000ffff';
const PASSWORD = 'user-password-123';

interface User {
  id: string;
  email: string;
  firstName: string;
  lastName: string;
  active: boolean;
  roles: string[];
  createdAt: string;
  updatedAt: string;
}

type Page = PageOf<User>;

let service: TestService;
let send: Send;
let tenant: TestTenant;
let token: string;
beforeAll(async () => {
  service = await startService();
  send = service.send;
  tenant = await service.createTenant('acme');
  token = tenant.adminToken;
});
afterAll(() => service.close());

let made = 0;
function newUser(): { email: string; password: string; firstName: string; lastName: string } {
  return { email: `user-${(made += 1)}@example.com`, password: PASSWORD, firstName: 'Uma', lastName: 'User' };
}

function signIn(email: string, password: string): Promise<Answer> {
  return send('POST', '/auth/login', { body: { tenant: tenant.slug, email, password } });
}

async function activeAdmins(of: TestTenant): Promise<string[]> {
  const record = await service.app.engine.tenantDirectory.find(of.id);
  if (!record) throw new Error('the tenant is gone');
  const db = service.app.engine.tenantPools.database(record.id);
  const rows = await db
    .selectFrom('users')
    .innerJoin('user_roles', 'user_roles.user_id', 'users.id')
    .innerJoin('roles', 'roles.id', 'user_roles.role_id')
    .select('users.id')
    .where('roles.name', '=', 'admin')
    .where('users.active', '=', true)
    .execute();
  return rows.map(({ id }) => id);
}

/** Every row of a list, and the number of its pages. */
async function walk(query: string, limit: number, as = token): Promise<{ users: User[]; pages: number }> {
  const pages = await pagesOf<User>(send, `/users?limit=${limit}&${query}`, as);
  return { users: pages.flat(), pages: pages.length };
}

describe('creating a user', () => {
  it('answers 201 with the user and its address, without the password', async () => {
    const { password, ...person } = newUser();
    const answer = await send<User>('POST', '/users', { token, body: { ...person, password } });
    expect(answer.status).toBe(201);
    expect(answer.headers.location).toBe(`/users/${answer.body.id}`);
    expect(answer.body).toEqual({
      ...person,
      id: answer.body.id,
      active: true,
      roles: ['member'],
      createdAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/) as string,
      updatedAt: answer.body.createdAt,
    });
    const read = await send<User>('GET', String(answer.headers.location), { token });
    expect(read.status).toBe(200);
    expect(read.body).toEqual(answer.body);
    expect((await signIn(person.email, password)).status).toBe(200);
  });

  it('accepts roles and active', async () => {
    const answer = await send<User>('POST', '/users', {
      token,
      body: { ...newUser(), roles: ['member', 'admin'], active: false },
    });
    expect(answer.body).toMatchObject({ active: false, roles: ['admin', 'member'] });
  });

  it.each<[string, object, string]>([
    ['a password of eleven characters', { password: 'x'.repeat(11) }, '/password'],
    ['a password of 201 characters', { password: 'x'.repeat(201) }, '/password'],
    ['no address', { email: 'not-an-address' }, '/email'],
    ['an address of 255 characters', { email: `${'x'.repeat(243)}@example.com` }, '/email'],
    ['NUL', { firstName: 'a\0b' }, '/firstName'],
    ['a lone surrogate', { lastName: 'a\ud800b' }, '/lastName'],
    ['an empty name', { firstName: '' }, '/firstName'],
    ['a name that is no text', { firstName: 5 }, '/firstName'],
    ['a name that is null', { lastName: null }, '/lastName'],
    ['active as text', { active: 'true' }, '/active'],
    ['roles as text', { roles: 'admin' }, '/roles'],
    ['a role twice', { roles: ['member', 'member'] }, '/roles'],
    ['no role', { roles: [] }, '/roles'],
    ['an unknown role', { roles: ['member', 'king'] }, '/roles/1'],
    ['an id', { id: UNKNOWN_ID }, '/id'],
    ['a tenant', { tenantId: UNKNOWN_ID }, '/tenantId'],
    ['another role field', { role: 'admin' }, '/role'],
    ['a hash', { passwordHash: 'x' }, '/passwordHash'],
  ])('refuses %s and names the path', async (_, wrong, path) => {
    const answer = await send<Problem>('POST', '/users', { token, body: { ...newUser(), ...wrong } });
    expect(answer.status).toBe(400);
    expect(answer.body.code).toBe('invalid-request');
    expect(answer.body.errors.map((error) => error.path)).toEqual([path]);
    expect(answer.text).not.toContain(PASSWORD);
  });

  it('stores nothing if a role is unknown', async () => {
    const body = newUser();
    expect((await send('POST', '/users', { token, body: { ...body, roles: ['king'] } })).status).toBe(400);
    expect((await send('POST', '/users', { token, body })).status).toBe(201);
  });

  it('refuses an address that is taken, in any case', async () => {
    const body = newUser();
    expect((await send('POST', '/users', { token, body })).status).toBe(201);
    const again = await send('POST', '/users', { token, body: { ...body, email: body.email.toUpperCase() } });
    expect([again.status, again.body['code']]).toEqual([409, 'email-taken']);
  });

  it('succeeds for one of two simultaneous requests with the same address', async () => {
    const body = newUser();
    const answers = await Promise.all([
      send('POST', '/users', { token, body }),
      send('POST', '/users', { token, body: { ...body, email: body.email.toUpperCase() } }),
    ]);
    expect(answers.map(({ status }) => status).sort()).toEqual([201, 409]);
  });

  it('allows two tenants to have users with the same address', async () => {
    const other = await service.createTenant('other');
    const body = newUser();
    expect((await send('POST', '/users', { token, body })).status).toBe(201);
    expect((await send('POST', '/users', { token: other.adminToken, body })).status).toBe(201);
  });
});

describe('reading a user', () => {
  it('answers 404 for an unknown id and 400 for an invalid id', async () => {
    expect((await send('GET', `/users/${UNKNOWN_ID}`, { token })).body).toMatchObject({ code: 'not-found' });
    const upper = await send<Problem>('GET', `/users/${tenant.adminId.toUpperCase()}`, { token });
    expect(upper.status).toBe(400);
    expect(upper.body.errors.map(({ path }) => path)).toEqual(['/id']);
  });
});

describe('changing a user', () => {
  it('changes the given fields only', async () => {
    const { id } = await addUser(service, tenant);
    const before = (await send<User>('GET', `/users/${id}`, { token })).body;
    await delay(2);
    const answer = await send<User>('PATCH', `/users/${id}`, { token, body: { firstName: 'Ulla' } });
    expect(answer.status).toBe(200);
    expect(answer.body).toEqual({ ...before, firstName: 'Ulla', updatedAt: answer.body.updatedAt });
    expect(answer.body.updatedAt > before.updatedAt).toBe(true);
    expect((await send<User>('GET', `/users/${id}`, { token })).body).toEqual(answer.body);
  });

  it('lets an admin change roles, address and password without the password of the user', async () => {
    const user = await service.createUser(tenant, 'changed@example.com');
    const answer = await send<User>('PATCH', `/users/${user.id}`, {
      token,
      body: { email: 'New-Address@Example.com', password: 'another-password-1', roles: ['admin', 'member'] },
    });
    expect(answer.body).toMatchObject({ email: 'new-address@example.com', roles: ['admin', 'member'] });
    expect((await signIn('new-address@example.com', 'another-password-1')).status).toBe(200);
    expect((await signIn('new-address@example.com', user.password)).status).toBe(401);
    expect((await signIn(user.email, 'another-password-1')).status).toBe(401);
    // Demoted for the tests of the last admin.
    await send('PATCH', `/users/${user.id}`, { token, body: { roles: ['member'] } });
  });

  it('refuses an address that is taken, in any case, and lets a user keep its own', async () => {
    const { id } = await addUser(service, tenant, { email: 'keeps@example.com' });
    const taken = await send('PATCH', `/users/${id}`, { token, body: { email: ADMIN.email.toUpperCase() } });
    expect([taken.status, taken.body['code']]).toEqual([409, 'email-taken']);
    const own = await send<User>('PATCH', `/users/${id}`, { token, body: { email: 'KEEPS@example.com' } });
    expect([own.status, own.body.email]).toEqual([200, 'keeps@example.com']);
  });

  it.each<[string, object, string]>([
    ['nothing', {}, ''],
    ['a short password', { password: 'short' }, '/password'],
    ['an unknown key', { firstName: 'x', isAdmin: true }, '/isAdmin'],
    ['an unknown role', { roles: ['king'] }, '/roles/0'],
    ['no role', { roles: [] }, '/roles'],
    ['NUL', { lastName: '\0' }, '/lastName'],
    ['a lone surrogate', { firstName: '\udfff' }, '/firstName'],
    ['no address', { email: 'x@' }, '/email'],
    ['null', { firstName: null }, '/firstName'],
  ])('refuses %s', async (_, body, path) => {
    const { id } = await addUser(service, tenant);
    const answer = await send<Problem>('PATCH', `/users/${id}`, { token, body });
    expect(answer.status).toBe(400);
    expect(answer.body.errors.map((error) => error.path)).toEqual([path]);
  });

  it('changes nothing if one part is refused', async () => {
    const { id } = await addUser(service, tenant);
    await send('PATCH', `/users/${id}`, { token, body: { firstName: 'Half', roles: ['king'] } });
    expect((await send<User>('GET', `/users/${id}`, { token })).body).toMatchObject({
      firstName: 'Uma',
      roles: ['member'],
    });
  });

  it('answers 404 for an unknown id', async () => {
    expect((await send('PATCH', `/users/${UNKNOWN_ID}`, { token, body: { firstName: 'x' } })).status).toBe(404);
    expect((await send('PATCH', `/users/${UNKNOWN_ID}`, { token, body: { active: false } })).status).toBe(404);
  });
});

describe('deleting a user', () => {
  it('answers 204, then 404', async () => {
    const { id } = await addUser(service, tenant);
    const gone = await send('DELETE', `/users/${id}`, { token });
    expect([gone.status, gone.text]).toEqual([204, '']);
    expect((await send('DELETE', `/users/${id}`, { token })).status).toBe(404);
    expect((await send('GET', `/users/${id}`, { token })).status).toBe(404);
  });
});

describe('a member', () => {
  it('can read and change itself', async () => {
    const user = await addUser(service, tenant);
    expect((await send<User>('GET', `/users/${user.id}`, { token: user.token })).body.id).toBe(user.id);
    const changed = await send<User>('PATCH', `/users/${user.id}`, {
      token: user.token,
      body: { firstName: 'Me', lastName: 'Myself' },
    });
    expect(changed.body).toMatchObject({ firstName: 'Me', lastName: 'Myself' });
  });

  it('can neither see nor change another user, whether that user exists or not', async () => {
    const user = await addUser(service, tenant);
    const other = await addUser(service, tenant);
    for (const [method, url, body] of [
      ['GET', '/users', undefined],
      ['POST', '/users', newUser()],
      ['GET', `/users/${other.id}`, undefined],
      ['GET', `/users/${UNKNOWN_ID}`, undefined],
      ['PATCH', `/users/${other.id}`, { firstName: 'x' }],
      ['PATCH', `/users/${UNKNOWN_ID}`, { firstName: 'x' }],
      ['DELETE', `/users/${other.id}`, undefined],
      ['DELETE', `/users/${user.id}`, undefined],
    ] as const) {
      const answer = await send(method, url, { token: user.token, body });
      expect([method, url, answer.status, answer.body['code']]).toEqual([method, url, 403, 'forbidden']);
    }
    expect((await send<User>('GET', `/users/${other.id}`, { token })).body.firstName).toBe('Uma');
  });

  it.each([{ roles: ['admin'] }, { roles: ['manager'] }, { active: false }, { active: true, firstName: 'x' }])(
    'cannot change %j of itself',
    async (body) => {
      const user = await addUser(service, tenant);
      const answer = await send('PATCH', `/users/${user.id}`, { token: user.token, body });
      expect([answer.status, answer.body['code']]).toEqual([403, 'forbidden']);
      expect((await send<User>('GET', `/users/${user.id}`, { token })).body).toMatchObject({
        firstName: 'Uma',
        active: true,
        roles: ['member'],
      });
    },
  );
});

describe('a user’s own password and e-mail address', () => {
  it('can be changed only with the current password', async () => {
    const user = await service.createUser(tenant, 'own@example.com');
    const change = (body: object): Promise<Answer<Problem>> =>
      send<Problem>('PATCH', `/users/${user.id}`, { token: user.token, body });
    for (const wanted of [{ password: 'another-password-1' }, { email: 'own-2@example.com' }]) {
      const missing = await change(wanted);
      expect(missing.status).toBe(400);
      expect(missing.body.errors.map(({ path }) => path)).toEqual(['/currentPassword']);
      const wrong = await change({ ...wanted, currentPassword: 'not-the-password' });
      expect([wrong.status, wrong.body.code]).toEqual([403, 'wrong-password']);
    }
    expect((await signIn(user.email, user.password)).status).toBe(200);

    const { password: currentPassword } = user;
    expect((await change({ email: 'own-2@example.com', currentPassword })).status).toBe(200);
    expect((await change({ password: 'another-password-1', currentPassword })).status).toBe(200);
    expect((await signIn('own-2@example.com', 'another-password-1')).status).toBe(200);
    expect((await signIn('own-2@example.com', currentPassword)).status).toBe(401);
  });

  it('can be changed only with the current password by an admin, too', async () => {
    const body = { password: 'another-password-1' };
    const missing = await send('PATCH', `/users/${tenant.adminId}`, { token, body });
    expect(missing.status).toBe(400);
    const wrong = await send('PATCH', `/users/${tenant.adminId}`, {
      token,
      body: { ...body, currentPassword: 'not-the-password' },
    });
    expect([wrong.status, wrong.body['code']]).toEqual([403, 'wrong-password']);
    expect((await signIn(ADMIN.email, ADMIN.password)).status).toBe(200);
  });
});

describe('guessing the current password', () => {
  it('is limited as sign-in is, even for the right password, and changes nothing', async () => {
    const limited = await startServiceForTest({ env: { SIGN_IN_FAILURES_ACCOUNT: '3' } });
    const { adminToken, adminId } = await limited.createTenant();
    const attempt = (currentPassword: string): Promise<Answer<Problem>> =>
      limited.send<Problem>('PATCH', `/users/${adminId}`, {
        token: adminToken,
        body: { password: 'another-password-1', currentPassword },
      });
    for (let count = 0; count < 3; count += 1) expect((await attempt('not-the-password')).status).toBe(403);
    const throttled = await attempt(ADMIN.password);
    expect([throttled.status, throttled.body.code]).toEqual([429, 'rate-limited']);
    expect(Number(throttled.headers['retry-after'])).toBeGreaterThan(0);
    const other = { firstName: 'Grace' };
    expect((await limited.send('PATCH', `/users/${adminId}`, { token: adminToken, body: other })).status).toBe(200);
  });

  it('is not possible with a request that changes nothing: 400', async () => {
    const answer = await send('PATCH', `/users/${tenant.adminId}`, {
      token,
      body: { currentPassword: ADMIN.password },
    });
    expect(answer.status).toBe(400);
  });
});

describe('the list of users', () => {
  const COUNT = 60;
  let crowd: TestTenant;
  beforeAll(async () => {
    crowd = await service.createTenant('crowd');
    for (let count = 0; count < COUNT; count += 1) {
      const odd = count % 2 === 1;
      await addUser(service, crowd, {
        email: `crowd-${String(count).padStart(2, '0')}@example.com`,
        firstName: odd ? 'Olga' : 'Emil',
        lastName: ['100%', 'under_score', 'back\\slash'][count] ?? 'User',
        roles: odd ? ['member'] : [],
      });
    }
    const record = await service.app.engine.tenantDirectory.find(crowd.id);
    if (!record) throw new Error('the tenant is gone');
    const db = service.app.engine.tenantPools.database(record.id);
    const users = await db.selectFrom('users').select(['id', 'email']).orderBy('id').execute();
    // A dozen users share each time of creation.
    for (const [index, { id, email }] of users.entries()) {
      await db
        .updateTable('users')
        .set({
          created_at: `2026-01-0${1 + Math.floor(index / 12)}T00:00:00.000Z`,
          ...(email !== ADMIN.email && { active: index % 3 !== 0 }),
        })
        .where('id', '=', id)
        .execute();
    }
  });

  it.each(['-createdAt', 'createdAt', 'email', '-email'])(
    'sorted by %s has each row once over all its pages',
    async (sort) => {
      const { users, pages } = await walk(`sort=${sort}`, 7, crowd.adminToken);
      expect(pages).toBe(Math.ceil((COUNT + 1) / 7));
      expect(new Set(users.map(({ id }) => id)).size).toBe(COUNT + 1);
      expect(users).toHaveLength(COUNT + 1);
      const key = sort.replace('-', '') as 'createdAt' | 'email';
      const sorted = users.toSorted((a, b) => compare(a[key], b[key]) || compare(a.id, b.id));
      expect(users).toEqual(sort.startsWith('-') ? sorted.toReversed() : sorted);
      expect((await walk(`sort=${sort}`, 100, crowd.adminToken)).users).toEqual(users);
    },
  );

  it('is sorted by -createdAt and has 20 rows by default', async () => {
    const { body } = await send<Page>('GET', '/users', { token: crowd.adminToken });
    expect(body.data).toHaveLength(20);
    expect(body.data).toEqual((await walk('sort=-createdAt', 100, crowd.adminToken)).users.slice(0, 20));
  });

  it('keeps its place while rows are added and removed', async () => {
    const path = '/users?sort=email&limit=10';
    const first = (await send<Page>('GET', path, { token: crowd.adminToken })).body;
    // A new row before the cursor: with offsets, the second page would repeat the first page's last row.
    const early = await addUser(service, crowd, { email: 'aaa@example.com' });
    const second = (await send<Page>('GET', `${path}&cursor=${first.nextCursor ?? ''}`, { token: crowd.adminToken }))
      .body;
    expect(second.data[0]?.email).toBe('crowd-09@example.com');
    expect(first.data.at(-1)?.email).toBe('crowd-08@example.com');
    await send('DELETE', `/users/${early.id}`, { token: crowd.adminToken });
  });

  it('ends with a null cursor, even if the last page is full', async () => {
    const { body } = await send<Page>('GET', '/users?limit=1&search=crowd-07', { token: crowd.adminToken });
    expect(body.data).toHaveLength(1);
    expect(body.nextCursor).toBeNull();
    expect((await send<Page>('GET', '/users?search=nobody', { token: crowd.adminToken })).body).toEqual({
      data: [],
      nextCursor: null,
    });
  });

  it('searches e-mail address and names in any case, and takes %, _ and \\ literally', async () => {
    const count = async (search: string): Promise<number> =>
      (await walk(`search=${encodeURIComponent(search)}`, 100, crowd.adminToken)).users.length;
    expect(await count('CROWD-1')).toBe(10);
    expect(await count('olga')).toBe(COUNT / 2);
    expect(await count('%')).toBe(1);
    expect(await count('_')).toBe(1);
    expect(await count('\\')).toBe(1);
    expect(await count('0%')).toBe(1);
    expect(await count('c%d')).toBe(0);
    expect(await count("' or 1=1 --")).toBe(0);
  });

  it('filters by active and role, and pages within the filter', async () => {
    const all = (await walk('', 100, crowd.adminToken)).users;
    for (const [query, holds] of [
      ['active=false', ({ active }: User) => !active],
      ['active=true', ({ active }: User) => active],
      ['role=member', ({ roles }: User) => roles.includes('member')],
      ['role=admin', ({ roles }: User) => roles.includes('admin')],
      ['role=nothing', () => false],
      ['role=member&active=true&search=olga', ({ roles, active }: User) => roles.includes('member') && active],
    ] as const) {
      const { users } = await walk(query, 9, crowd.adminToken);
      expect(users.length).toBe(all.filter(holds).length);
      expect(users).toEqual(all.filter(holds));
    }
  });

  it.each([
    'limit=0',
    'limit=101',
    'limit=-1',
    'limit=1e9',
    'limit=',
    'limit=5&limit=6',
    'sort=password',
    'sort=firstName',
    'sort=email&sort=-email',
    'active=1',
    'active=true&active=false',
    'search=',
    'search=%00',
    'unknown=1',
    'cursor=',
  ])('refuses ?%s', async (query) => {
    const answer = await send<Problem>('GET', `/users?${query}`, { token });
    expect([answer.status, answer.body.code]).toEqual([400, 'invalid-request']);
    expect(answer.body.errors.map(({ path }) => path)).toEqual([`/${query.split('=')[0] ?? ''}`]);
  });

  it('refuses cursors that are forged or belong to another list', async () => {
    const { nextCursor } = (await send<Page>('GET', '/users?limit=5', { token: crowd.adminToken })).body;
    const cursor = String(nextCursor);
    const changed = cursor.slice(0, 30) + (cursor[30] === 'A' ? 'B' : 'A') + cursor.slice(31);
    for (const [query, as] of [
      [`cursor=${changed}`, crowd.adminToken],
      ['cursor=abc', crowd.adminToken],
      ['cursor=%7B%7D', crowd.adminToken],
      [`cursor=${cursor}`, token],
      [`cursor=${cursor}&sort=createdAt`, crowd.adminToken],
      [`cursor=${cursor}&sort=email`, crowd.adminToken],
      [`cursor=${cursor}&active=true`, crowd.adminToken],
      [`cursor=${cursor}&role=member`, crowd.adminToken],
    ] as const) {
      const answer = await send('GET', `/users?${query}`, { token: as });
      expect([query, answer.status, answer.body['code']]).toEqual([query, 400, 'invalid-cursor']);
    }
    // The size of a page may change between pages.
    expect((await send('GET', `/users?limit=50&cursor=${cursor}`, { token: crowd.adminToken })).status).toBe(200);
  });
});

describe('the last active admin', () => {
  it('cannot be demoted, deactivated or deleted', async () => {
    const alone = await service.createTenant('alone');
    const url = `/users/${alone.adminId}`;
    // Neither a member nor an inactive admin counts.
    await addUser(service, alone);
    const inactive = await addUser(service, alone, { roles: ['admin'] });
    await send('PATCH', `/users/${inactive.id}`, { token: alone.adminToken, body: { active: false } });
    for (const answer of [
      await send('PATCH', url, { token: alone.adminToken, body: { roles: ['member'] } }),
      await send('PATCH', url, { token: alone.adminToken, body: { roles: ['manager', 'member'], firstName: 'x' } }),
      await send('PATCH', url, { token: alone.adminToken, body: { active: false } }),
      await send('DELETE', url, { token: alone.adminToken }),
    ]) {
      expect([answer.status, answer.body['code']]).toEqual([409, 'last-admin']);
    }
    const still = (await send<User>('GET', url, { token: alone.adminToken })).body;
    expect(still).toMatchObject({ active: true, roles: ['admin'], firstName: ADMIN.firstName });
  });

  it('can be changed once there is another', async () => {
    const pair = await service.createTenant('pair');
    const second = await addUser(service, pair, { roles: ['admin'] });
    expect((await send('DELETE', `/users/${pair.adminId}`, { token: second.token })).status).toBe(204);
    expect((await send('DELETE', `/users/${second.id}`, { token: second.token })).status).toBe(409);
  });

  it('remains, whatever two admins do to each other at once', async () => {
    const duel = await service.createTenant('duel');
    let first = { id: duel.adminId, token: duel.adminToken };
    let second = await addUser(service, duel, { roles: ['admin'] });
    const attacks: ((by: typeof first, on: typeof first) => Promise<Answer>)[] = [
      (by, on) => send('PATCH', `/users/${on.id}`, { token: by.token, body: { roles: ['member'] } }),
      (by, on) => send('PATCH', `/users/${on.id}`, { token: by.token, body: { active: false } }),
      (by, on) => send('DELETE', `/users/${on.id}`, { token: by.token }),
    ];
    const rounds = attacks.flatMap((attack) => attacks.map((riposte) => [attack, riposte] as const));
    for (const [attack, riposte] of [...rounds, ...rounds, ...rounds]) {
      const answers = await Promise.all([attack(first, second), riposte(second, first)]);
      const left = await activeAdmins(duel);
      expect(left).toHaveLength(1);
      // The second request meets the last admin (409), or its caller was no admin any more.
      const statuses = answers.map(({ status }) => status).sort();
      expect([200, 204]).toContain(statuses[0]);
      expect([401, 403, 409]).toContain(statuses[1]);
      const winner = left[0] === first.id ? first : second;
      first = winner;
      second = await addUser(service, duel, { roles: ['admin'] });
    }
  });

  it('remains, whatever a user with the same permissions by another role does to all admins at once', async () => {
    const coup = await service.createTenant('coup');
    const body = { name: 'all-of-it', permissions };
    expect((await send('POST', '/roles', { token: coup.adminToken, body })).status).toBe(201);
    const schemer = await addUser(service, coup, { roles: ['all-of-it', 'member'] });
    const attacks: ((id: string) => Promise<Answer>)[] = [
      (id) => send('PATCH', `/users/${id}`, { token: schemer.token, body: { roles: ['all-of-it', 'manager'] } }),
      (id) => send('PATCH', `/users/${id}`, { token: schemer.token, body: { active: false } }),
      (id) => send('DELETE', `/users/${id}`, { token: schemer.token }),
    ];
    for (let round = 0; round < 5; round += 1) {
      const admins = [...(await activeAdmins(coup)), (await addUser(service, coup, { roles: ['member', 'admin'] })).id];
      admins.push((await addUser(service, coup, { roles: ['admin'] })).id);
      const answers = await Promise.all(admins.flatMap((id) => attacks.map((attack) => attack(id))));
      expect(await activeAdmins(coup)).toHaveLength(1);
      // The other admins are removed already, so that they are not found.
      for (const { status } of answers) expect([200, 204, 404, 409]).toContain(status);
      expect(answers.filter(({ status }) => status === 409).length).toBeGreaterThan(0);
    }
  });

  it('does not make requests wait for ever while admins are made and demoted at once', async () => {
    const busy = await service.createTenant('busy');
    const users = await Promise.all([addUser(service, busy), addUser(service, busy)]);
    const answers: Answer[] = [];
    for (let round = 0; round < 15; round += 1) {
      answers.push(
        ...(await Promise.all(
          users.flatMap(({ id }) => [
            send('PATCH', `/users/${id}`, { token: busy.adminToken, body: { roles: ['admin'] } }),
            send('PATCH', `/users/${id}`, { token: busy.adminToken, body: { roles: ['member'] } }),
          ]),
        )),
      );
    }
    expect(answers.filter(({ status }) => status !== 200)).toEqual([]);
  });
});

function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}
