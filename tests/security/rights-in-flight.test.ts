// Rights are revoked while a request that uses them is in flight: the request has been admitted and waits for a hash, or for a row
// that another transaction holds.
import { sql, type Kysely } from 'kysely';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { permissions } from '../../src/auth/permissions.js';
import { OPERATORS } from '../../src/auth/passwords.js';
import { insertOperator, findOperatorByEmail } from '../../db/registry/operator-queries.js';
import {
  ADMIN,
  asSuperuser,
  beginSession,
  connectAs,
  startService,
  type Answer,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { addUser, rowOf } from '../support/tenants.js';

let service: TestService;
let tenant: TestTenant;
let database: string;

beforeAll(async () => {
  service = await startService();
  tenant = await service.createTenant('in-flight');
  database = (await rowOf(service, tenant)).dbName;
});
afterAll(() => service.close());

type User = Awaited<ReturnType<typeof addUser>>;
type Db = Kysely<unknown>;

/** Lets `request` reach the hash of `password`, runs `meanwhile`, and lets the request continue. */
async function whileHashing(
  password: string,
  request: () => Promise<Answer>,
  meanwhile: () => Promise<unknown>,
): Promise<Answer> {
  let release = (): void => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  let reach = (): void => undefined;
  const reached = new Promise<void>((resolve) => (reach = resolve));
  const { passwords } = service.app.engine;
  const hash = passwords.hash.bind(passwords);
  const spy = vi.spyOn(passwords, 'hash').mockImplementation(async (given, payer) => {
    if (given === password) {
      reach();
      await released;
    }
    return hash(given, payer);
  });
  try {
    const answer = request();
    await Promise.race([reached, answer.then(({ text }) => Promise.reject(new Error(`hashed nothing: ${text}`)))]);
    await meanwhile();
    release();
    return await answer;
  } finally {
    release();
    spy.mockRestore();
  }
}

/**
 * Holds the row of a user, or of a role, until `request` waits for it, or is answered without waiting. Commits `meanwhile` with
 * the row's release. Returns the answer, and the database's content before and after the request continued.
 */
async function whileHeld(
  { id }: { readonly id: string },
  request: () => Promise<Answer>,
  meanwhile: (db: Db) => Promise<unknown>,
  table: 'users' | 'roles' = 'users',
): Promise<{ answer: Answer; before: unknown; after: unknown }> {
  const holder = connectAs<unknown>(database);
  try {
    const [answer, before] = await holder.db.transaction().execute(async (trx) => {
      const strength = sql.raw(table === 'users' ? 'no key update' : 'update');
      await sql`select id from ${sql.table(table)} where id = ${id} for ${strength}`.execute(trx);
      let answered = false;
      const pending = request().finally(() => (answered = true));
      await vi.waitUntil(async () => answered || (await someoneWaits(trx)), { timeout: 30_000, interval: 5 });
      await meanwhile(trx);
      return [{ pending }, await contents(trx)] as const;
    });
    return { answer: await answer.pending, before, after: await contents(holder.db) };
  } finally {
    await holder.close(0);
  }
}

async function someoneWaits(db: Db): Promise<boolean> {
  const { rows } = await sql`
    select pid from pg_stat_activity where pg_backend_pid() = any(pg_blocking_pids(pid))`.execute(db);
  return rows.length > 0;
}

/** Everything that gives rights, and its audit. */
async function contents(db: Db): Promise<unknown> {
  const { rows } = await sql`select
    (select jsonb_agg(users order by id) from users) as users,
    (select jsonb_agg(user_roles order by user_id, role_id) from user_roles) as given,
    (select jsonb_agg(roles order by id) from roles) as roles,
    (select jsonb_agg(role_permissions order by role_id, permission) from role_permissions) as permissions,
    (select count(*)::int from audit where action ~ '^(user|role)[.]') as audited`.execute(db);
  return rows[0];
}

const send = (...request: Parameters<TestService['send']>): Promise<Answer> => service.send(...request);

async function signIn(email: string, password: string): Promise<number> {
  return (await send('POST', '/auth/login', { body: { tenant: tenant.slug, email, password } })).status;
}

const revocations: Record<string, { status: number; revoke: (db: Db, caller: User) => Promise<unknown> }> = {
  deactivated: {
    status: 401,
    revoke: (db, { id }) => sql`update users set active = false where id = ${id}`.execute(db),
  },
  deleted: { status: 401, revoke: (db, { id }) => sql`delete from users where id = ${id}`.execute(db) },
  demoted: { status: 403, revoke: (db, { id }) => demote(db, id) },
  'signed out': { status: 401, revoke: (db, { id }) => sql`delete from sessions where account_id = ${id}`.execute(db) },
};

async function demote(db: Db, id: string): Promise<void> {
  await sql`update user_roles set role_id = (select id from roles where name = 'member') where user_id = ${id}`.execute(
    db,
  );
}

let numbers = 0;

async function makeRole(): Promise<string> {
  const body = { name: `in-flight-${(numbers += 1)}`, permissions: ['products:read'] };
  const made = await send('POST', '/roles', { token: tenant.adminToken, body });
  expect(made.status).toBe(201);
  return String(made.body['id']);
}

const member = { firstName: 'New', lastName: 'User', password: 'some-password-123' };

/** Each makes what it needs, and returns the request of an admin. */
const writes: Record<string, () => Promise<(caller: User) => Promise<Answer>>> = {
  'POST /users': async () => {
    const body = { ...member, email: `made-${(numbers += 1)}@example.com`, roles: ['admin'] };
    return ({ token }) => send('POST', '/users', { token, body });
  },
  'PATCH /users/:id': async () => {
    const { id } = await addUser(service, tenant);
    return ({ token }) => send('PATCH', `/users/${id}`, { token, body: { roles: ['admin'] } });
  },
  'PATCH /users/:id with a password': async () => {
    const { id } = await addUser(service, tenant);
    return ({ token }) => send('PATCH', `/users/${id}`, { token, body: { password: 'another-password-1' } });
  },
  'PATCH /users/:id of itself': async () => (caller) =>
    send('PATCH', `/users/${caller.id}`, { token: caller.token, body: { active: true, roles: ['admin'] } }),
  'DELETE /users/:id': async () => {
    const { id } = await addUser(service, tenant);
    return ({ token }) => send('DELETE', `/users/${id}`, { token });
  },
  'POST /roles': async () => {
    const body = { name: `made-${(numbers += 1)}`, permissions: ['users:write'] };
    return ({ token }) => send('POST', '/roles', { token, body });
  },
  'PATCH /roles/:id': async () => {
    const id = await makeRole();
    return ({ token }) => send('PATCH', `/roles/${id}`, { token, body: { permissions: ['users:write'] } });
  },
  'DELETE /roles/:id': async () => {
    const id = await makeRole();
    return ({ token }) => send('DELETE', `/roles/${id}`, { token });
  },
};

describe.each(Object.keys(writes))('%s in flight', (write) => {
  it.each(Object.keys(revocations))('changes nothing once its caller is %s', async (how) => {
    const { status, revoke } = revocations[how] ?? { status: 0, revoke: async () => undefined };
    const request = await writes[write]?.();
    const caller = await addUser(service, tenant, { roles: ['admin'] });
    const { answer, before, after } = await whileHeld(
      caller,
      async () => (await request?.(caller)) ?? Promise.reject(new Error('no request')),
      (db) => revoke(db, caller),
    );
    expect(answer.status).toBe(status);
    expect(after).toEqual(before);
  });

  it('succeeds for a caller that keeps its rights', async () => {
    const request = await writes[write]?.();
    const caller = await addUser(service, tenant, { roles: ['admin'] });
    const { answer, before, after } = await whileHeld(
      caller,
      async () => (await request?.(caller)) ?? Promise.reject(new Error('no request')),
      async () => undefined,
    );
    expect([200, 201, 204]).toContain(answer.status);
    expect(after).not.toEqual(before);
  });
});

/** Waits that begin after the write has locked its caller: each holds a row that only this write needs. */
const laterWaits: Record<string, () => Promise<{ held: string; request: (caller: User) => Promise<Answer> }>> = {
  'POST /users': async () => {
    const id = await makeRole();
    const body = { ...member, email: `made-${(numbers += 1)}@example.com`, roles: [await nameOf(id)] };
    return { held: id, request: ({ token }) => send('POST', '/users', { token, body }) };
  },
  'PATCH /users/:id': async () => {
    const [id, user] = [await makeRole(), await addUser(service, tenant)];
    const body = { roles: [await nameOf(id)] };
    return { held: id, request: ({ token }) => send('PATCH', `/users/${user.id}`, { token, body }) };
  },
  'PATCH /roles/:id': async () => {
    const id = await makeRole();
    const body = { permissions: ['users:write'] };
    return { held: id, request: ({ token }) => send('PATCH', `/roles/${id}`, { token, body }) };
  },
  'DELETE /roles/:id': async () => {
    const id = await makeRole();
    return { held: id, request: ({ token }) => send('DELETE', `/roles/${id}`, { token }) };
  },
};

async function nameOf(roleId: string): Promise<string> {
  return String((await send('GET', `/roles/${roleId}`, { token: tenant.adminToken })).body['name']);
}

describe.each(Object.keys(laterWaits))('%s that waits for a role', (write) => {
  it('changes nothing once the role of its caller permits less', async () => {
    const { held, request } = (await laterWaits[write]?.()) ?? { held: '', request: undefined };
    const name = `editor-${(numbers += 1)}`;
    const all = { name, permissions: [...permissions] };
    const own = await send('POST', '/roles', { token: tenant.adminToken, body: all });
    const caller = await addUser(service, tenant, { roles: [name] });
    const { answer, before, after } = await whileHeld(
      { id: held },
      async () => (await request?.(caller)) ?? Promise.reject(new Error('no request')),
      async () => {
        const body = { permissions: ['products:read'] };
        const url = `/roles/${String(own.body['id'])}`;
        expect((await send('PATCH', url, { token: tenant.adminToken, body })).status).toBe(200);
      },
      'roles',
    );
    expect(answer.status).toBe(403);
    expect(after).toEqual(before);
  });

  it.each(['logout', 'logout-all'])('changes nothing once its caller has got the answer to a %s', async (how) => {
    const { held, request } = (await laterWaits[write]?.()) ?? { held: '', request: undefined };
    const caller = await addUser(service, tenant, { roles: ['admin'] });
    const { answer, before, after } = await whileHeld(
      { id: held },
      async () => (await request?.(caller)) ?? Promise.reject(new Error('no request')),
      async () => {
        expect((await send('POST', `/auth/${how}`, { token: caller.token })).status).toBe(204);
      },
      'roles',
    );
    expect(answer.status).toBe(401);
    expect(after).toEqual(before);
  });
});

describe('of the changes that need the caller’s own password,', () => {
  const ownChanges: Record<string, (user: User & { password: string }, next: string) => Promise<Answer>> = {
    'POST /auth/password': ({ token, password }, newPassword) =>
      send('POST', '/auth/password', { token, body: { currentPassword: password, newPassword } }),
    'PATCH /users/:id': ({ id, token, password }, next) =>
      send('PATCH', `/users/${id}`, { token, body: { currentPassword: password, password: next } }),
  };

  it.each(Object.keys(ownChanges))('%s never undoes a reset of the password', async (route) => {
    for (let round = 0; round < 6; round += 1) {
      const user = await service.createUser(tenant, `reset-${(numbers += 1)}@example.com`);
      const next = `in-flight-password-${numbers}`;
      const reset = `reset-password-${numbers}`;
      const answer = await whileHashing(
        next,
        async () => (await ownChanges[route]?.(user, next)) ?? Promise.reject(new Error('no request')),
        async () => {
          const body = { password: reset };
          expect((await send('PATCH', `/users/${user.id}`, { token: tenant.adminToken, body })).status).toBe(200);
        },
      );
      // On a busy machine the request is admitted again before it hashes, and its session has ended with the reset.
      expect(['wrong-password', 'unauthenticated']).toContain(answer.body['code']);
      expect(await signIn(user.email, reset)).toBe(200);
      expect(await signIn(user.email, next)).toBe(401);
    }
  });

  it.each(Object.keys(ownChanges))('%s changes nothing once its session is signed out', async (route) => {
    const user = await service.createUser(tenant, `left-${(numbers += 1)}@example.com`);
    const next = `in-flight-password-${numbers}`;
    const answer = await whileHashing(
      next,
      async () => (await ownChanges[route]?.(user, next)) ?? Promise.reject(new Error('no request')),
      async () => {
        expect((await send('POST', '/auth/logout', { token: user.token })).status).toBe(204);
      },
    );
    expect(answer.status).toBe(401);
    expect(await signIn(user.email, user.password)).toBe(200);
    expect(await signIn(user.email, next)).toBe(401);
  });

  it('a new e-mail address is not stored if the password was reset meanwhile', async () => {
    const user = await service.createUser(tenant, `address-${(numbers += 1)}@example.com`);
    const body = { email: `taken-over-${numbers}@example.com`, currentPassword: user.password };
    const { answer, before, after } = await whileHeld(
      user,
      () => send('PATCH', `/users/${user.id}`, { token: user.token, body }),
      (db) => sql`update users set password = 'reset' where id = ${user.id}`.execute(db),
    );
    expect(answer).toMatchObject({ status: 403, body: { code: 'wrong-password' } });
    expect(after).toEqual(before);
  });

  const operatorChanges: Record<string, { status: number; change: (db: Db, id: string) => Promise<unknown> }> = {
    'reset its password': {
      status: 403,
      change: (db, id) => sql`update operators set password = 'reset' where id = ${id}`.execute(db),
    },
    'was deactivated': {
      status: 401,
      change: (db, id) => sql`update operators set active = false where id = ${id}`.execute(db),
    },
    'was signed out': {
      status: 401,
      change: (db, id) => sql`delete from sessions where account_id = ${id}`.execute(db),
    },
  };

  it.each(Object.keys(operatorChanges))('a new password is not stored if the operator meanwhile %s', async (how) => {
    const { status, change } = operatorChanges[how] ?? { status: 0, change: async () => undefined };
    const { app, config } = service;
    const email = `operator-${(numbers += 1)}@example.com`;
    const password = 'operators-password-1';
    await insertOperator(app.engine.registry, {
      email,
      passwordHash: await app.engine.passwords.hash(password, OPERATORS),
    });
    const { id = '' } = (await findOperatorByEmail(app.engine.registry, email)) ?? {};
    const token = await beginSession(app, { kind: 'operator', operatorId: id });
    const newPassword = `in-flight-password-${numbers}`;
    let changed: unknown;
    const answer = await whileHashing(
      newPassword,
      () => send('POST', '/auth/password', { token, body: { currentPassword: password, newPassword } }),
      async () => {
        await asSuperuser(config.registry.connection.database, (db) => change(db, id));
        changed = await findOperatorByEmail(app.engine.registry, email);
      },
    );
    expect(answer.status).toBe(status);
    expect(changed).toMatchObject({ id });
    expect(await findOperatorByEmail(app.engine.registry, email)).toEqual(changed);
  });
});

it('completes 50 simultaneous changes that two admins make to each other, themselves and their roles', async () => {
  const crossing = await service.createTenant('crossing');
  const made = await send('POST', '/roles', {
    token: crossing.adminToken,
    body: { name: 'crossing', permissions: ['products:read'] },
  });
  const role = String(made.body['id']);
  const first = { id: crossing.adminId, token: crossing.adminToken };
  const second = await addUser(service, crossing, { roles: ['admin'] });
  const patch = (by: User, url: string, body: object): Promise<Answer> => send('PATCH', url, { token: by.token, body });
  const answers = await Promise.all(
    Array.from({ length: 5 }, () => [
      // Not without the role `admin`, which takes no lock on the admins, and with it.
      patch(first, `/users/${second.id}`, { roles: ['admin', 'crossing'] }),
      patch(second, `/users/${first.id}`, { roles: ['crossing', 'admin'] }),
      patch(first, `/users/${first.id}`, { roles: ['admin'] }),
      patch(second, `/users/${second.id}`, { roles: ['admin'] }),
      patch(first, `/roles/${role}`, { permissions: ['products:read', 'users:read'] }),
      patch(second, `/roles/${role}`, { permissions: ['products:write'] }),
      patch(first, `/users/${second.id}`, { firstName: ADMIN.firstName }),
      patch(second, `/users/${first.id}`, { active: true }),
      patch(second, '/roles/01900000-0000-7000-8000-000000000001', { description: 'built in' }),
      send('DELETE', `/users/${crossing.id}`, { token: first.token }),
    ]).flat(),
  );
  const expected = [200, 200, 200, 200, 200, 200, 200, 200, 409, 404];
  expect(answers.map(({ status }) => status)).toEqual(Array.from({ length: 5 }, () => expected).flat());
});
