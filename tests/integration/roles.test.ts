// Roles of a tenant: the built-in ones, the tenant's own, that a user gives away only permissions that the user holds, and that a
// change takes effect everywhere within a second.
import { sql, type Kysely } from 'kysely';
import { randomBytes } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { newId } from '../../db/shared/ids.js';
import { migrateToLatest } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import type { TenantDatabase } from '../../db/tenant/tenant-schema.js';
import { setRoles } from '../../db/tenant/user-roles.js';
import { insertUser } from '../../db/tenant/user-queries.js';
import { permissions } from '../../src/auth/permissions.js';
import {
  ADMIN,
  asSuperuser,
  connectAs,
  startService,
  startServiceForTest,
  type Answer,
  type PageOf,
  type Problem,
  type Send,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { readPage } from '../support/docs.js';
import { pagesOf } from '../support/pages.js';
import { addUser } from '../support/tenants.js';

const UNKNOWN_ID = '01900000-0000-7000-8000-00000000ffff';

/** "Within a second", plus a margin for the machine. */
const PROMISE = { timeout: 1_500, interval: 20 };

const page = readPage('docs/reference/permissions.md');

/** The rows of the table below a heading of the page, without the head. */
const table = (heading: string): string[] =>
  (page.split(`## ${heading}\n`)[1]?.split('\n## ')[0] ?? '')
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .slice(2);

/** The permissions of a built-in role by its column on the page, which a new resource is added to. */
const holdsAt = (column: number): string[] =>
  table('Permissions')
    .map((row) => row.split('|').map((cell) => cell.trim()))
    .filter((cells) => cells[column] === '✓')
    .map(([, permission = '']) => permission.replaceAll('`', ''))
    .sort();

const builtIn = { admin: holdsAt(2), manager: holdsAt(3), member: holdsAt(4) };

interface Role {
  id: string;
  name: string;
  description: string | null;
  builtIn: boolean;
  permissions: string[];
  createdAt: string;
  updatedAt: string;
}

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
const unique = (what: string): string => `${what}-${(made += 1)}`;

async function makeRole(holds: readonly string[], to = tenant): Promise<Role> {
  const body = { name: unique('role'), permissions: holds };
  const answer = await send<Role>('POST', '/roles', { token: to.adminToken, body });
  if (answer.status !== 201) throw new Error(answer.text);
  return answer.body;
}

function makeUser(roles: readonly string[], to = tenant): Promise<{ id: string; token: string }> {
  return addUser(service, to, { roles });
}

/** A user with exactly these permissions. */
async function holderOf(holds: readonly string[], to = tenant): Promise<{ id: string; token: string; role: Role }> {
  const role = await makeRole(holds, to);
  return { ...(await makeUser([role.name], to)), role };
}

const read = async (id: string): Promise<Role> => (await send<Role>('GET', `/roles/${id}`, { token })).body;

const codeOf = ({ status, body }: Answer): unknown[] => [status, body['code']];

function expectForbidden({ status, body }: Answer, ...naming: string[]): void {
  expect([status, body['code']]).toEqual([403, 'forbidden']);
  for (const permission of naming) expect(body['detail']).toContain(permission);
}

describe('the built-in roles', () => {
  it('hold everything, what a manager needs, and what a member needs', () => {
    const platform = (holds: readonly string[]): string[] =>
      holds.filter((each) => /^(users|roles|tenant|audit|products):/.test(each));
    expect(builtIn.admin).toEqual([...permissions].sort());
    expect(platform(builtIn.manager)).toEqual([
      'products:read',
      'products:write',
      'roles:read',
      'tenant:read',
      'users:read',
    ]);
    expect(platform(builtIn.member)).toEqual(['products:read', 'products:write']);
  });

  it('exist in a new tenant, and admin has every permission', async () => {
    const fresh = await service.createTenant();
    const { body } = await send<PageOf<Role>>('GET', '/roles?sort=name', { token: fresh.adminToken });
    expect(body.nextCursor).toBeNull();
    const held = body.data.map(({ name, permissions: holds, builtIn: fixed }) => [name, holds, fixed]);
    expect(held).toEqual(Object.entries(builtIn).map(([name, holds]) => [name, holds, true]));
    for (const { description } of body.data) expect(description).toMatch(/./);
  });

  it.each(Object.keys(builtIn))('%s cannot be changed or removed', async (name) => {
    const before = (await send<PageOf<Role>>('GET', `/roles?search=${name}`, { token })).body.data;
    const [role] = before.filter((each) => each.name === name);
    for (const body of [{ name: 'other' }, { description: null }, { permissions: [] }]) {
      expect(codeOf(await send('PATCH', `/roles/${role?.id ?? ''}`, { token, body }))).toEqual([409, 'built-in-role']);
    }
    expect(codeOf(await send('DELETE', `/roles/${role?.id ?? ''}`, { token }))).toEqual([409, 'built-in-role']);
    expect((await send<PageOf<Role>>('GET', `/roles?search=${name}`, { token })).body.data).toEqual(before);
  });

  it('are added to older tenants by a migration, and a user without a role becomes a member', async () => {
    const database = `tenant_${randomBytes(6).toString('hex')}`;
    await asSuperuser('postgres', (db) => sql`create database ${sql.id(database)}`.execute(db));
    const handle = connectAs<TenantDatabase>(database);
    try {
      const before = Object.entries(tenantMigrations).filter(([name]) => name < '0004');
      await migrateToLatest(handle.db, Object.fromEntries(before));
      await sql`insert into roles (id, name) values (${newId()}, 'manager')`.execute(handle.db);
      for (const email of ['ada@example.com', 'max@example.com', 'uma@example.com', 'nil@example.com'])
        await insertUser(handle.db, { ...ADMIN, email, passwordHash: 'x' });
      await hold(handle.db, 'ada', 'admin');
      await hold(handle.db, 'max', 'manager');
      await hold(handle.db, 'uma', 'member');
      await migrateToLatest(handle.db, tenantMigrations);

      const roles = await sql<{ name: string; built_in: boolean; holds: string[] }>`
        select name, built_in, array(select permission from role_permissions where role_id = id order by 1) as holds
        from roles order by name`.execute(handle.db);
      expect(roles.rows).toEqual(Object.entries(builtIn).map(([name, holds]) => ({ name, built_in: true, holds })));
      const held = await sql<{ email: string; name: string }>`
        select email, name from users join user_roles on user_id = users.id join roles on roles.id = role_id
        order by email`.execute(handle.db);
      expect(held.rows.map(({ email, name }) => `${email.slice(0, 3)} ${name}`)).toEqual([
        'ada admin',
        'max manager',
        'nil member',
        'uma member',
      ]);
    } finally {
      await handle.close(0);
    }
  });

  async function hold(db: Kysely<TenantDatabase>, who: string, role: string): Promise<void> {
    await sql`insert into user_roles select users.id, roles.id from users, roles
      where email like ${`${who}@%`} and name = ${role}`.execute(db);
  }
});

describe('a role of a tenant', () => {
  it('can be created, read, changed and removed', async () => {
    const body = { name: unique('cashier'), description: 'At the till', permissions: ['products:read', 'users:read'] };
    const created = await send<Role>('POST', '/roles', { token, body });
    expect(created.status).toBe(201);
    expect(created.headers.location).toBe(`/roles/${created.body.id}`);
    expect(created.body).toEqual({
      ...body,
      id: created.body.id,
      builtIn: false,
      createdAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/) as string,
      updatedAt: created.body.createdAt,
    });
    expect(await read(created.body.id)).toEqual(created.body);

    const url = `/roles/${created.body.id}`;
    const name = unique('till');
    const renamed = await send<Role>('PATCH', url, { token, body: { name, description: null } });
    expect(renamed.status).toBe(200);
    const { updatedAt } = renamed.body;
    expect(renamed.body).toEqual({ ...created.body, name, description: null, updatedAt });
    expect(updatedAt > created.body.updatedAt).toBe(true);
    const holds = ['audit:read'];
    const changed = await send<Role>('PATCH', url, { token, body: { permissions: holds } });
    expect(changed.body).toMatchObject({ name, permissions: holds });
    expect((await send<Role>('PATCH', url, { token, body: { permissions: [] } })).body.permissions).toEqual([]);

    expect(await send('DELETE', url, { token })).toMatchObject({ status: 204, text: '' });
    for (const gone of [
      await send('GET', url, { token }),
      await send('PATCH', url, { token, body: { name } }),
      await send('DELETE', url, { token }),
    ]) {
      expect(codeOf(gone)).toEqual([404, 'not-found']);
    }
  });

  it.each<[string, object, string, string?]>([
    [
      'an unknown permission',
      { permissions: ['products:read', 'unicorns:read'] },
      '/permissions/1',
      'is not a permission',
    ],
    ['a permission that is no text', { permissions: [5] }, '/permissions/0'],
    ['a very long permission', { permissions: ['x'.repeat(5_000)] }, '/permissions/0'],
    ['a permission twice', { permissions: ['users:read', 'users:read'] }, '/permissions'],
    ['permissions as text', { permissions: 'all' }, '/permissions'],
    ['a name in upper case', { name: 'Admin' }, '/name'],
    ['a name with spaces around', { name: ' admin ' }, '/name'],
    ['a name that looks like another', { name: 'аdmin' }, '/name'],
    ['a long name', { name: 'x'.repeat(51) }, '/name'],
    ['an empty description', { description: '' }, '/description'],
    ['NUL', { description: 'a\0b' }, '/description'],
    ['builtIn', { builtIn: true }, '/builtIn'],
    ['an id', { id: UNKNOWN_ID }, '/id'],
  ])('is refused with %s, with its path', async (_what, wrong, path, naming = '') => {
    const body = { name: unique('refused'), permissions: ['users:read'], ...wrong };
    const role = await makeRole([]);
    for (const answer of [
      await send<Problem>('POST', '/roles', { token, body }),
      await send<Problem>('PATCH', `/roles/${role.id}`, { token, body: { description: 'x', ...wrong } }),
    ]) {
      expect([answer.status, answer.body.code]).toEqual([400, 'invalid-request']);
      expect(answer.body.errors.map((error) => error.path)).toEqual([path]);
      expect(answer.body.errors[0]?.message).toContain(naming);
      expect(answer.text.length).toBeLessThan(500);
    }
    expect(await read(role.id)).toEqual(role);
  });

  it('leaves a row in the audit for each change, and none for a refusal', async () => {
    const { id, name } = await makeRole(['users:read']);
    await send('PATCH', `/roles/${id}`, { token, body: { description: 'Reads', permissions: ['roles:read'] } });
    await send('PATCH', `/roles/${id}`, { token, body: { name: 'admin' } });
    await send('DELETE', `/roles/${id}`, { token });
    const { body } = await send<PageOf<{ action: string; details: unknown }>>('GET', `/audit?target=${id}`, { token });
    expect(body.data.map(({ action, details }) => [action, details])).toEqual([
      ['role.deleted', { name, permissions: ['roles:read'] }],
      [
        'role.updated',
        {
          fields: ['description', 'permissions'],
          changes: { permissions: { from: ['users:read'], to: ['roles:read'] } },
        },
      ],
      ['role.created', { name, permissions: ['users:read'] }],
    ]);
  });

  it('needs a name and permissions, and a change needs a field', async () => {
    for (const [method, url, body] of [
      ['POST', '/roles', { name: unique('role') }],
      ['POST', '/roles', { permissions: [] }],
      ['PATCH', `/roles/${(await makeRole([])).id}`, {}],
    ] as const) {
      expect((await send(method, url, { token, body })).status).toBe(400);
    }
  });

  it('has a unique name, even if several are created at once', async () => {
    const [one, two] = [await makeRole([]), await makeRole([])];
    const body = { name: one.name, permissions: [] };
    expect(codeOf(await send('POST', '/roles', { token, body }))).toEqual([409, 'role-taken']);
    expect(codeOf(await send('POST', '/roles', { token, body: { ...body, name: 'admin' } }))).toEqual([
      409,
      'role-taken',
    ]);
    const renamed = await send('PATCH', `/roles/${two.id}`, { token, body: { name: one.name } });
    expect(codeOf(renamed)).toEqual([409, 'role-taken']);
    const name = unique('race');
    const answers = await Promise.all([1, 2, 3].map(() => send('POST', '/roles', { token, body: { ...body, name } })));
    expect(answers.map(({ status }) => status).sort()).toEqual([201, 409, 409]);
  });

  it('can be removed only if no user has it', async () => {
    const { id, role } = await holderOf(['products:read']);
    const url = `/roles/${role.id}`;
    const used = await send('DELETE', url, { token });
    expect(codeOf(used)).toEqual([409, 'role-in-use']);
    expect(used.body['detail']).toContain('1 user');
    await send('PATCH', `/users/${id}`, { token, body: { roles: ['member'] } });
    expect((await send('DELETE', url, { token })).status).toBe(204);
  });

  it('is never removed from a user who is being given it', async () => {
    const { id } = await makeUser(['member']);
    for (let round = 0; round < 10; round += 1) {
      const role = await makeRole(['products:read']);
      const [given, removed] = await Promise.all([
        send('PATCH', `/users/${id}`, { token, body: { roles: [role.name] } }),
        send('DELETE', `/roles/${role.id}`, { token }),
      ]);
      expect([`${given.status} ${removed.status}`]).toEqual([expect.stringMatching(/^(?:200 409|400 204)$/)]);
      const { roles } = (await send<{ roles: string[] }>('GET', `/users/${id}`, { token })).body;
      expect(roles).toHaveLength(1);
    }
  });

  it('is not removed while a transaction gives it to a user, however long that takes', async () => {
    const [{ id }, role] = [await makeUser(['member']), await makeRole(['products:read'])];
    // In an object: otherwise the transaction would wait for the request that waits for it.
    const { removal } = await service.app.engine.tenantPools
      .database(tenant.id)
      .transaction()
      .execute(async (trx) => {
        await setRoles(trx, id, [role.name]);
        const answer = send('DELETE', `/roles/${role.id}`, { token });
        await delay(200);
        return { removal: answer };
      });
    expect(codeOf(await removal)).toEqual([409, 'role-in-use']);
  });

  it('has its new name for its users after a change of name', async () => {
    const { id, role } = await holderOf(['products:read']);
    const name = unique('renamed');
    await send('PATCH', `/roles/${role.id}`, { token, body: { name } });
    expect((await send('GET', `/users/${id}`, { token })).body['roles']).toEqual([name]);
    const { body } = await send<PageOf<{ id: string }>>('GET', `/users?role=${name}`, { token });
    expect(body.data.map((user) => user.id)).toEqual([id]);
  });
});

describe('the list of roles', () => {
  const COUNT = 25;
  let many: TestTenant;
  beforeAll(async () => {
    many = await service.createTenant('many-roles');
    for (let count = 0; count < COUNT; count += 1) {
      const name = `team-${String(count).padStart(2, '0')}`;
      const body = { name, description: count === 7 ? '100% Lamps' : 'Odd', permissions: ['users:read'] };
      await send('POST', '/roles', { token: many.adminToken, body });
    }
    // All were created at one time, as the built-in roles are: the id decides.
    await service.app.engine.tenantPools
      .database(many.id)
      .updateTable('roles')
      .set({ created_at: '2026-01-01T00:00:00.000Z' })
      .where('built_in', '=', false)
      .execute();
  });

  it.each(['-createdAt', 'createdAt', 'name', '-name'])('sorted by %s has each role once', async (sort) => {
    const seen = (await pagesOf<Role>(send, `/roles?limit=4&sort=${sort}`, many.adminToken)).flat();
    expect(seen).toHaveLength(COUNT + 3);
    const key = sort.replace('-', '') as 'createdAt' | 'name';
    const sorted = seen.toSorted((a, b) => compare(a[key], b[key]) || compare(a.id, b.id));
    expect(seen).toEqual(sort.startsWith('-') ? sorted.toReversed() : sorted);
  });

  it('searches name and description, and takes % literally', async () => {
    const found = async (search: string): Promise<string[]> => {
      const url = `/roles?sort=name&search=${encodeURIComponent(search)}`;
      return (await send<PageOf<Role>>('GET', url, { token: many.adminToken })).body.data.map(({ name }) => name);
    };
    expect(await found('TEAM-2')).toEqual(['team-20', 'team-21', 'team-22', 'team-23', 'team-24']);
    expect(await found('lamps')).toEqual(['team-07']);
    expect(await found('%')).toEqual(['team-07']);
  });
});

describe('the permissions of a user', () => {
  it('are those of all its roles together, and are in /auth/me', async () => {
    const [one, other] = [
      await makeRole(['users:read', 'products:read']),
      await makeRole(['users:read', 'audit:read']),
    ];
    const user = await makeUser([one.name, other.name]);
    const me = await send('GET', '/auth/me', { token: user.token });
    expect(me.body['permissions']).toEqual(['audit:read', 'products:read', 'users:read']);
    expect(me.body['user']).toMatchObject({ roles: [one.name, other.name].sort() });
    expect((await send('GET', '/users', { token: user.token })).status).toBe(200);
    expectForbidden(await send('GET', '/roles', { token: user.token }), '"roles:read"');
    const { body: operator } = await send('GET', '/auth/me', { token: service.operatorToken });
    expect(Object.keys(operator)).toEqual(['operator']);
  });

  it('let a manager see users, roles and the tenant and manage products, and a member products', async () => {
    const [manager, member] = [await makeUser(['manager']), await makeUser(['member'])];
    const person = { ...ADMIN, email: 'nobody@example.com' };
    const attempts = [
      ['GET', '/users', undefined, 200, 403],
      ['GET', `/users/${tenant.adminId}`, undefined, 200, 403],
      ['POST', '/users', person, 403, 403],
      ['PATCH', `/users/${member.id}`, { active: false }, 403, 403],
      ['DELETE', `/users/${member.id}`, undefined, 403, 403],
      ['GET', '/roles', undefined, 200, 403],
      ['POST', '/roles', { name: 'own', permissions: [] }, 403, 403],
      ['GET', `/tenants/${tenant.id}`, undefined, 200, 403],
      ['PATCH', `/tenants/${tenant.id}`, { name: 'Renamed' }, 403, 403],
      ['GET', '/products', undefined, 200, 200],
      ['POST', '/products', { name: 'Lamp', price: '1' }, 201, 201],
    ] as const;
    for (const [method, url, body, forManager, forMember] of attempts) {
      const statuses = [manager, member].map(
        async (user) => (await send(method, url, { token: user.token, body })).status,
      );
      expect([method, url, ...(await Promise.all(statuses))]).toEqual([method, url, forManager, forMember]);
    }
  });

  it('may be none: the user can still read and change itself', async () => {
    const { token: own, id } = await holderOf([]);
    expect((await send('GET', '/products', { token: own })).status).toBe(403);
    expect((await send('GET', '/auth/me', { token: own })).body['permissions']).toEqual([]);
    expect((await send('PATCH', `/users/${id}`, { token: own, body: { firstName: 'Me' } })).status).toBe(200);
  });
});

describe('a user cannot exceed its own permissions', () => {
  /** May manage users and roles, and has no other permission. */
  let deputy: Awaited<ReturnType<typeof holderOf>>;
  beforeAll(async () => {
    deputy = await holderOf(['users:read', 'users:write', 'roles:read', 'roles:write']);
  });
  const asDeputy: Send = (method, url, options) => send(method, url, { ...options, token: deputy.token });

  it('by creating or changing a role', async () => {
    const body = { name: unique('role'), permissions: ['users:read', 'tenant:write', 'audit:read'] };
    expectForbidden(await asDeputy('POST', '/roles', { body }), 'tenant:write', 'audit:read');
    const own = await asDeputy<Role>('POST', '/roles', { body: { ...body, permissions: ['users:read'] } });
    expect(own.status).toBe(201);
    const url = `/roles/${own.body.id}`;
    expectForbidden(await asDeputy('PATCH', url, { body: { permissions: ['products:read'] } }), 'products:read');
    expect((await asDeputy('PATCH', url, { body: { permissions: ['roles:read'] } })).status).toBe(200);
    expect((await asDeputy('DELETE', url)).status).toBe(204);
    // Its own role included.
    const grown = { permissions: [...deputy.role.permissions, 'products:read'] };
    expectForbidden(await asDeputy('PATCH', `/roles/${deputy.role.id}`, { body: grown }), 'products:read');
    expect(await read(deputy.role.id)).toEqual(deputy.role);
  });

  it('by changing or removing a role with more permissions', async () => {
    const role = await makeRole(['users:read', 'tenant:read']);
    for (const body of [{ name: unique('role') }, { description: 'x' }, { permissions: ['users:read'] }]) {
      expectForbidden(await asDeputy('PATCH', `/roles/${role.id}`, { body }), 'tenant:read');
    }
    expectForbidden(await asDeputy('DELETE', `/roles/${role.id}`), 'tenant:read');
    expect(await read(role.id)).toEqual(role);
  });

  it('by giving roles, to others or to itself', async () => {
    const person = { ...ADMIN, email: 'given@example.com' };
    for (const roles of [['admin'], ['manager'], [deputy.role.name, 'member']]) {
      expectForbidden(await asDeputy('POST', '/users', { body: { ...person, roles } }), 'products:read');
    }
    const lesser = await holderOf(['users:read']);
    for (const { id } of [lesser, deputy]) {
      const before = (await send('GET', `/users/${id}`, { token })).body;
      const grown = await asDeputy('PATCH', `/users/${id}`, { body: { roles: ['admin'], firstName: 'x' } });
      expectForbidden(grown, 'tenant:write');
      expect((await send('GET', `/users/${id}`, { token })).body).toEqual(before);
    }
    const fits = { ...person, roles: [lesser.role.name] };
    expect((await asDeputy('POST', '/users', { body: fits })).status).toBe(201);
    expect((await asDeputy('PATCH', `/users/${lesser.id}`, { body: { roles: [deputy.role.name] } })).status).toBe(200);
  });

  it.each<[string, object | undefined]>([
    ['the password', { password: 'taken-over-123' }],
    ['the e-mail address', { email: 'taken-over@example.com' }],
    ['active', { active: false }],
    ['the roles', { roles: ['member'] }],
    ['a name', { firstName: 'x' }],
    ['everything, removing', undefined],
  ])('by changing %s of a user with more permissions', async (_what, body) => {
    // There is another admin, so that the rule of the last admin does not apply.
    for (const { id } of [await makeUser(['admin']), await holderOf(['users:read', 'audit:read'])]) {
      const before = (await send('GET', `/users/${id}`, { token })).body;
      const answer = await (body ? asDeputy('PATCH', `/users/${id}`, { body }) : asDeputy('DELETE', `/users/${id}`));
      expectForbidden(answer, 'audit:read');
      expect((await send('GET', `/users/${id}`, { token })).body).toEqual(before);
    }
  });

  it('but can manage itself, and users with no more permissions', async () => {
    const { id, role } = await holderOf(['users:read']);
    const body = { password: 'another-password-1', email: 'managed@example.com', active: false, roles: [role.name] };
    expect((await asDeputy('PATCH', `/users/${id}`, { body })).body).toMatchObject({ active: false });
    expect((await asDeputy('DELETE', `/users/${id}`)).status).toBe(204);
    const another = await makeUser([deputy.role.name]);
    expect((await send('PATCH', `/users/${another.id}`, { token: another.token, body: { active: true } })).status).toBe(
      200,
    );
    const less = await send('PATCH', `/users/${another.id}`, { token: another.token, body: { roles: [role.name] } });
    expect(less.body).toMatchObject({ roles: [role.name] });
  });
});

describe('a change of roles takes effect', () => {
  it('on every replica within a second: of a role, and of a user’s roles', async () => {
    const { database } = service.config.registry.connection;
    const second = await startServiceForTest({ registry: database });
    const replicas = [service, second];
    const { id, token: own, role } = await holderOf(['products:read']);
    const colleague = await makeUser([role.name]);
    const stranger = await service.createTenant();
    const users = async (as: string): Promise<number[]> =>
      Promise.all(replicas.map(async (replica) => (await replica.send('GET', '/users', { token: as })).status));
    const change = (holds: string[], on: TestService): Promise<Answer> =>
      on.send('PATCH', `/roles/${role.id}`, { token, body: { permissions: holds } });
    // Requests go on all the time, even by users whom the change does not affect.
    const all = async (): Promise<number[][]> => Promise.all([own, colleague.token, stranger.adminToken].map(users));

    expect(await all()).toEqual([
      [403, 403],
      [403, 403],
      [200, 200],
    ]);
    for (const on of replicas) {
      expect((await change(['products:read', 'users:read'], on)).status).toBe(200);
      await expect.poll(all, PROMISE).toEqual([
        [200, 200],
        [200, 200],
        [200, 200],
      ]);
      expect((await change(['products:read'], on)).status).toBe(200);
      await expect.poll(all, PROMISE).toEqual([
        [403, 403],
        [403, 403],
        [200, 200],
      ]);
    }
    for (const on of replicas) {
      await on.send('PATCH', `/users/${id}`, { token, body: { roles: [role.name, 'manager'] } });
      await expect.poll(() => users(own), PROMISE).toEqual([200, 200]);
      await on.send('PATCH', `/users/${id}`, { token, body: { roles: [role.name] } });
      await expect.poll(() => users(own), PROMISE).toEqual([403, 403]);
    }
  });

  it('at once on the same replica', async () => {
    const { token: own, role } = await holderOf(['users:read']);
    for (let round = 0; round < 5; round += 1) {
      for (const [holds, status] of [
        [[], 403],
        [['users:read'], 200],
      ] as const) {
        await send('PATCH', `/roles/${role.id}`, { token, body: { permissions: holds } });
        expect((await send('GET', '/users', { token: own })).status).toBe(status);
      }
    }
  });
});

describe('docs/reference/permissions.md', () => {
  it('has every route that a user may call, with its permission', () => {
    const rows = service.app.routeTable.flatMap(({ method, url, access: { permission, orSelf } }) => {
      if (permission === undefined) return [];
      const needs = permission === 'self' ? 'own account' : `\`${permission}\`${orSelf ? ', or own account' : ''}`;
      return [`| \`${method} ${url}\` | ${needs} |`];
    });
    expect(table('Routes').toSorted()).toEqual(rows.toSorted());
  });

  it('has every permission', () => {
    expect(table('Permissions').map((row) => /`([^`]+)`/.exec(row)?.[1])).toEqual(permissions);
  });
});

function compare(a: string, b: string): number {
  return a < b ? -1 : Number(a > b);
}
