// Passwords that a guesser tries first are refused wherever a password is set, and nowhere else. The routes come from the API
// description: a route that sets a password fails here until it is in the list below.
import { sql } from 'kysely';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { dereferenced } from '../support/dereferenced.js';
import { OPERATORS } from '../../src/auth/passwords.js';
import { ADMIN, asSuperuser, OPERATOR, startService, type Answer, type Problem } from '../support/app.js';
import { rowOf } from '../support/tenants.js';

const service = await startService();
const { app, send } = service;
const tenant = await service.createTenant('wayne');
const user = await service.createUser(tenant, 'alfred.pennyworth@example.com');
afterAll(() => service.close());

type Request = (password: string) => Promise<Answer>;

/** The requests that set a password, by the path of the password in the body. */
const requests: Readonly<Record<string, readonly (readonly [path: string, Request])[]>> = {
  'POST /users': [
    ['/password', (password) => send('POST', '/users', { token: tenant.adminToken, body: person(password) })],
  ],
  'PATCH /users/{id}': [
    ['/password', (password) => send('PATCH', `/users/${user.id}`, { token: tenant.adminToken, body: { password } })],
    [
      '/password',
      (password) =>
        send('PATCH', `/users/${user.id}`, { token: user.token, body: { password, currentPassword: user.password } }),
    ],
  ],
  'POST /auth/password': [
    ['/newPassword', (newPassword) => changeOwn(user.token, { currentPassword: user.password, newPassword })],
    [
      '/newPassword',
      (newPassword) => changeOwn(service.operatorToken, { currentPassword: OPERATOR.password, newPassword }),
    ],
  ],
  'POST /tenants': [
    [
      '/admin/password',
      (password) =>
        send('POST', '/tenants', {
          token: service.operatorToken,
          body: { name: 'Wayne Enterprises', slug: 'enterprises', admin: { ...ADMIN, password } },
        }),
    ],
  ],
};

function person(password: string): Record<string, unknown> {
  return { email: 'bruce.pennyworth@example.com', password, firstName: 'Bruce', lastName: 'Pennyworth' };
}

function changeOwn(token: string, body: Record<string, unknown>): Promise<Answer> {
  return send('POST', '/auth/password', { token, body });
}

/** The accounts' passwords, and the ids of the tenants. */
async function hashes(): Promise<unknown> {
  const { dbName } = await rowOf(service, tenant);
  const users = await asSuperuser(dbName, (db) => sql`select id, password from users order by id`.execute(db));
  const central = await app.engine.registry.selectFrom('operators').select(['id', 'password']).execute();
  const tenants = await app.engine.registry.selectFrom('tenants').select('id').execute();
  return [users.rows, central, tenants];
}

const cases = Object.entries(requests).flatMap(([route, ways]) =>
  ways.map(([path, request], index) => [`${route} (${index + 1})`, path, request] as const),
);

describe.each(cases)('%s', (_name, path, request) => {
  it.each([
    'password1234',
    'PassWord1234',
    'aaaaaaaaaaaa',
    'abcabcabcabc',
    'qwertyuiop12',
    '123456789012',
    'Tenantry-2026',
  ])('refuses %s with 400 and the path, hashes nothing and changes nothing', async (password) => {
    const before = await hashes();
    const hashing = [vi.spyOn(app.engine.passwords, 'hash'), vi.spyOn(app.engine.passwords, 'verify')];
    const { status, body, text } = await request(password);
    expect([status, (body as unknown as Problem).errors.map((issue) => issue.path)], text).toEqual([400, [path]]);
    expect(text).not.toContain(password);
    for (const act of hashing) expect(act).not.toHaveBeenCalled();
    expect(await hashes()).toEqual(before);
  });
});

it('every route that sets a password is tried above', () => {
  const { paths } = dereferenced(
    app.swagger() as unknown as { paths: Record<string, Record<string, { requestBody?: unknown }>> },
  );
  const setting = Object.entries(paths).flatMap(([url, methods]) =>
    Object.entries(methods)
      .filter(([, { requestBody }]) => /assword":\{[^{}]*"minLength":12/.test(JSON.stringify(requestBody ?? '')))
      .map(([method]) => `${method.toUpperCase()} ${url}`),
  );
  expect(setting.sort()).toEqual(Object.keys(requests).sort());
});

it('the names of the tenant count, and so do those of the user before and after a change', async () => {
  const patch = (body: Record<string, unknown>): Promise<Answer> =>
    send('PATCH', `/users/${user.id}`, { token: tenant.adminToken, body });
  expect((await patch({ password: 'wayne-wayne-2026' })).status).toBe(400);
  expect((await patch({ password: 'alfred.1234567', firstName: 'Jarvis' })).status).toBe(400);
  expect((await patch({ password: 'jarvis.1234567', firstName: 'Jarvis' })).status).toBe(400);
  const own = { currentPassword: user.password, newPassword: 'Pennyworth-2026' };
  expect((await changeOwn(user.token, own)).status).toBe(400);
  const body = { name: 'Stark Industries', slug: 'stark', admin: { ...ADMIN, password: 'StarkIndustries1' } };
  expect((await send('POST', '/tenants', { token: service.operatorToken, body })).status).toBe(400);
});

it('a password that was set before still signs in, and still confirms', async () => {
  const weak = 'password1234';
  const { dbName } = await rowOf(service, tenant);
  const hash = await app.engine.passwords.hash(weak, OPERATORS);
  const old = await service.createUser(tenant, 'old@example.com');
  await asSuperuser(dbName, (db) => sql`update users set password = ${hash} where id = ${old.id}`.execute(db));
  const body = { tenant: tenant.slug, email: old.email, password: weak };
  const signedIn = await send<{ accessToken: string }>('POST', '/auth/login', { body });
  expect(signedIn.status).toBe(200);
  const token = signedIn.body.accessToken;
  expect((await send('POST', '/auth/confirm', { token, body: { password: weak } })).status).toBe(200);
  expect((await changeOwn(token, { currentPassword: weak, newPassword: 'another-password-1' })).status).toBe(204);
});
