// ETags under simultaneous changes, and after each kind of change. tests/integration/etags-of-routes.test.ts looks at every route.
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  asSuperuser,
  createRegistry,
  startService,
  type Answer,
  type Send,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { rowOf } from '../support/tenants.js';

const SIMULTANEOUS = 200;
const ROUNDS = 3;

let registry: string;
let first: TestService;
let second: TestService;
let send: Send;
let tenant: TestTenant;
let token: string;
let operatorToken: string;
/** Runs while a tenant is being resumed, when its database is open and its row is not changed yet. */
let afterOpening: (() => Promise<unknown>) | undefined;
beforeAll(async () => {
  registry = await createRegistry();
  // Two hundred requests on one row wait for each other.
  const env = { POOL_ACQUIRE_TIMEOUT_MS: '30000' };
  first = await startService({
    registry,
    env,
    overrides: {
      afterOperationStep: async (kind, step) => {
        if (kind === 'open' && step === 'open') await afterOpening?.();
      },
    },
  });
  second = await startService({ registry, operator: false, env });
  ({ send, operatorToken } = first);
  tenant = await first.createTenant();
  token = tenant.adminToken;
});
afterAll(() => Promise.all([first.close(), second.close()]));

/** The replicas take turns. */
const replica = (index: number): TestService => (index % 2 === 0 ? first : second);

interface Made {
  readonly url: string;
  readonly token: string;
}

let made = 0;

async function make(path: string, body: object): Promise<Made> {
  const answer = await send<{ id: string }>('POST', path, { token, body });
  if (answer.status !== 201) throw new Error(answer.text);
  return { url: `${path}/${answer.body.id}`, token };
}

const label = (): string => `made-${(made += 1)}`;
const product = (fields: object = {}): Promise<Made> =>
  make('/products', { name: 'Lamp', price: '1.00', stockQuantity: 5, ...fields });
const role = (name = label()): Promise<Made> => make('/roles', { name, permissions: ['products:read'] });
const user = (roles: string[] = ['member']): Promise<Made> =>
  make('/users', {
    email: `${label()}@example.com`,
    password: 'user-password-123',
    firstName: 'Uma',
    lastName: 'User',
    roles,
  });
const ownTenant = async (): Promise<Made> => ({ url: `/tenants/${tenant.id}`, token: operatorToken });

async function cluster(): Promise<Made> {
  const { body } = await send<{ clusterId: string }>('GET', `/tenants/${tenant.id}`, { token: operatorToken });
  return { url: `/clusters/${body.clusterId}`, token: operatorToken };
}

async function etagOf(target: Made): Promise<string> {
  const { status, headers, text } = await send('GET', target.url, { token: target.token });
  expect(status, text).toBe(200);
  return String(headers.etag);
}

const tally = (answers: readonly Answer[]): Record<string, number> =>
  answers.reduce<Record<string, number>>(
    (counts, { status }) => ({ ...counts, [status]: (counts[status] ?? 0) + 1 }),
    {},
  );

describe.each([
  ['a product', product, (name: string) => ({ name })],
  ['a role', role, (name: string) => ({ description: name })],
  ['a user', user, (name: string) => ({ firstName: name })],
  ['a tenant', ownTenant, (name: string) => ({ name })],
  ['a cluster', cluster, (name: string) => ({ name })],
] as const)('%s', (_what, makeOne, change) => {
  it('changes exactly once by 200 simultaneous PATCH with one ETag, at two replicas', async () => {
    const target = await makeOne();
    for (let round = 0; round < ROUNDS; round += 1) {
      const headers = { 'if-match': await etagOf(target) };
      const answers = await Promise.all(
        Array.from({ length: SIMULTANEOUS }, (_, index) =>
          replica(index).send('PATCH', target.url, {
            token: target.token,
            body: change(`round ${round}, request ${index}`),
            headers,
          }),
        ),
      );
      expect(tally(answers)).toEqual({ 200: 1, 412: SIMULTANEOUS - 1 });
      const winner = answers.find(({ status }) => status === 200);
      const now = await send('GET', target.url, { token: target.token });
      expect(now.body).toEqual(winner?.body);
      expect(now.headers.etag).toBe(winner?.headers.etag);
    }
  });
});

it('a product is changed exactly once by simultaneous PATCH, DELETE and stock with one ETag', async () => {
  for (let round = 0; round < 10; round += 1) {
    const target = await product();
    const headers = { 'if-match': await etagOf(target) };
    const answers = await Promise.all(
      Array.from({ length: 30 }, (_, index) => {
        const service = replica(index);
        if (index % 3 === 0) return service.send('PATCH', target.url, { token, headers, body: { name: `n${index}` } });
        if (index % 3 === 1) return service.send('DELETE', target.url, { token, headers });
        return service.send('POST', `${target.url}/stock`, { token, headers, body: { delta: 1 } });
      }),
    );
    const counts = tally(answers);
    expect((counts['200'] ?? 0) + (counts['204'] ?? 0)).toBe(1);
    // After the DELETE there is no product.
    expect((counts['412'] ?? 0) + (counts['404'] ?? 0)).toBe(29);
    if (counts['204'] === undefined) expect(counts['404']).toBeUndefined();
  }
});

it('the same values again make another ETag, and reading makes none', async () => {
  const target = await product({ name: 'Same' });
  const first = await etagOf(target);
  expect(await etagOf(target)).toBe(first);
  await send('GET', '/products', { token });
  expect(await etagOf(target)).toBe(first);
  expect((await send('PATCH', target.url, { token, body: { name: 'Same' } })).headers.etag).not.toBe(first);
});

it('the answer of POST has the ETag of what was made', async () => {
  const body = { name: 'New', price: '2.00' };
  const answer = await send<{ id: string }>('POST', '/products', { token, body });
  expect(answer.headers.etag).toBe(await etagOf({ url: `/products/${answer.body.id}`, token }));
});

it('a list and an error have no ETag', async () => {
  for (const url of ['/products', '/users', '/roles', '/products/not-an-id'])
    expect((await send('GET', url, { token })).headers.etag).toBeUndefined();
  for (const url of ['/tenants', '/clusters', '/operations', `/tenants/${tenant.id}/usage`])
    expect((await send('GET', url, { token: operatorToken })).headers.etag).toBeUndefined();
});

describe('a stock', () => {
  it('that another request has changed stays as it is, also if the delta would not fit', async () => {
    const target = await product({ stockQuantity: 1 });
    const stale = { 'if-match': await etagOf(target) };
    const taken = await send('POST', `${target.url}/stock`, { token, headers: stale, body: { delta: -1 } });
    expect(taken).toMatchObject({ status: 200, body: { stockQuantity: 0 } });
    for (const delta of [1, -1])
      expect(
        await send('POST', `${target.url}/stock`, { token, headers: stale, body: { delta } }),
        String(delta),
      ).toMatchObject({ status: 412, body: { code: 'precondition-failed' } });
    const current = { 'if-match': await etagOf(target) };
    expect(await send('POST', `${target.url}/stock`, { token, headers: current, body: { delta: -1 } })).toMatchObject({
      status: 409,
      body: { code: 'insufficient-stock' },
    });
    expect(await etagOf(target)).toBe(current['if-match']);
  });
});

describe('the ETag changes', () => {
  type Change = (target: Made) => Promise<unknown>;
  const patch =
    (body: object): Change =>
    async (target) => {
      const { status, text } = await send('PATCH', target.url, { token: target.token, body });
      expect(status, text).toBe(200);
    };
  const byHand =
    (statement: string): Change =>
    async ({ url }) => {
      const { dbName } = await rowOf(first, tenant);
      await asSuperuser(dbName, (db) =>
        sql.raw(statement.replace('$id', `'${url.split('/').at(-1) ?? ''}'`)).execute(db),
      );
    };
  it.each<[string, () => Promise<Made>, Change]>([
    ['a product by a PATCH', product, patch({ category: 'light' })],
    ['a product by its stock', product, (target) => send('POST', `${target.url}/stock`, { token, body: { delta: 1 } })],
    ['a product by hand', product, byHand('update products set price = price + 1 where id = $id')],
    ['a user by a PATCH', user, patch({ lastName: 'Other' })],
    ['a user by other roles', user, patch({ roles: ['manager'] })],
    ['a user by a new password', user, patch({ password: 'another-password-1' })],
    ['a user by hand', user, byHand('update users set active = false where id = $id')],
    ['a user by roles by hand', user, byHand('delete from user_roles where user_id = $id')],
    ['a role by a PATCH', role, patch({ description: 'Other' })],
    ['a role by other permissions', role, patch({ permissions: ['products:read', 'products:write'] })],
    ['a role by permissions by hand', role, byHand('delete from role_permissions where role_id = $id')],
    ['a tenant by its name', ownTenant, patch({ name: 'Other' })],
    ['a tenant by its limits', ownTenant, patch({ limits: { products: 5_000 } })],
    ['a tenant by its pool options', ownTenant, patch({ poolOptions: { max: 3 } })],
  ])('of %s', async (_what, makeOne, change) => {
    const target = await makeOne();
    const before = await etagOf(target);
    await change(target);
    expect(await etagOf(target)).not.toBe(before);
  });

  it('of a user whose role got another name, and the user can still be changed with the former ETag', async () => {
    const name = label();
    const renamed = await role(name);
    const target = await user([name]);
    const before = await etagOf(target);
    await patch({ name: label() })(renamed);
    const now = await send('GET', target.url, { token, headers: { 'if-none-match': before } });
    expect(now.status).toBe(200);
    expect(now.headers.etag).not.toBe(before);
    const body = { firstName: 'Other' };
    expect((await send('PATCH', target.url, { token, body, headers: { 'if-match': before } })).status).toBe(200);
  });

  it('of a cluster on which a tenant was made, and the cluster can still be changed with the former ETag', async () => {
    const target = await cluster();
    const before = await etagOf(target);
    await first.createTenant();
    expect(await etagOf(target)).not.toBe(before);
    const headers = { 'if-match': before };
    const changed = await send('PATCH', target.url, { token: operatorToken, headers, body: { weight: 99 } });
    expect(changed.status, changed.text).toBe(200);
    expect((await send('PATCH', target.url, { token: operatorToken, headers, body: { weight: 98 } })).status).toBe(412);
  });

  it('of a tenant whose settings in force come from another configuration', async () => {
    const other = await startService({ registry, operator: false, env: { TENANT_USERS: '77' } });
    const here = await send('GET', `/tenants/${tenant.id}`, { token });
    const there = await other.send('GET', `/tenants/${tenant.id}`, { token });
    await other.close();
    expect(there.body['limits']).not.toEqual(here.body['limits']);
    expect(there.headers.etag).not.toBe(here.headers.etag);
  });
});

describe('a tenant', () => {
  it.each([
    ['suspending it', 'PATCH', { active: false }],
    ['resuming it with other changes', 'PATCH', { active: true, name: 'Resumed' }],
    ['deleting it', 'DELETE', undefined],
  ] as const)('is left as it is if %s has a stale ETag', async (_what, method, body) => {
    const own = await first.createTenant();
    const target = { url: `/tenants/${own.id}`, token: operatorToken };
    const stale = await etagOf(target);
    const options = { token: operatorToken, ...(body && { body }) };
    expect((await send('PATCH', target.url, { token: operatorToken, body: { name: 'Other' } })).status).toBe(200);
    const before = await etagOf(target);
    const refused = await send(method, target.url, { ...options, headers: { 'if-match': stale } });
    expect(refused).toMatchObject({ status: 412, body: { code: 'precondition-failed' } });
    expect(await etagOf(target)).toBe(before);
    expect((await send('GET', '/products', { token: own.adminToken })).status).toBe(200);
    const accepted = await send(method, target.url, { ...options, headers: { 'if-match': before } });
    expect([200, 204], accepted.text).toContain(accepted.status);
  });

  it('is suspended, resumed or deleted exactly once by simultaneous requests with one ETag', async () => {
    for (const [method, body] of [
      ['PATCH', { active: false }],
      ['PATCH', { active: true }],
      ['DELETE', undefined],
    ] as const) {
      const own = await first.createTenant();
      const target = { url: `/tenants/${own.id}`, token: operatorToken };
      if (body?.active) await send('PATCH', target.url, { token: operatorToken, body: { active: false } });
      const headers = { 'if-match': await etagOf(target) };
      const answers = await Promise.all(
        Array.from({ length: 10 }, (_, index) =>
          replica(index).send(method, target.url, {
            token: operatorToken,
            headers,
            ...(body && { body }),
          }),
        ),
      );
      expect(tally(answers)).toEqual({ [body ? 200 : 204]: 1, 412: 9 });
    }
  });

  it('stays suspended if it is changed while it is being resumed with an ETag', async () => {
    const own = await first.createTenant();
    const target = { url: `/tenants/${own.id}`, token: operatorToken };
    await send('PATCH', target.url, { token: operatorToken, body: { active: false } });
    const headers = { 'if-match': await etagOf(target) };
    afterOpening = () => second.send('PATCH', target.url, { token: operatorToken, body: { name: 'Meanwhile' } });
    const options = { token: operatorToken, headers, body: { active: true, name: 'Resumed' } };
    const refused = await send('PATCH', target.url, options).finally(() => (afterOpening = undefined));
    expect(refused).toMatchObject({ status: 412, body: { code: 'precondition-failed' } });
    const { body } = await send('GET', target.url, { token: operatorToken });
    expect(body).toMatchObject({ name: 'Meanwhile', status: 'suspended' });
  });

  it('is either changed or deleted by simultaneous requests with one ETag', async () => {
    for (let round = 0; round < 10; round += 1) {
      const own = await first.createTenant();
      const target = { url: `/tenants/${own.id}`, token: operatorToken };
      const options = { token: operatorToken, headers: { 'if-match': await etagOf(target) } };
      const answers = await Promise.all([
        first.send('PATCH', target.url, { ...options, body: { name: 'Other' } }),
        second.send('DELETE', target.url, options),
        first.send('PATCH', target.url, { ...options, body: { active: false } }),
      ]);
      expect(answers.filter(({ status }) => status < 300)).toHaveLength(1);
    }
  });

  it('that is deleted answers a PATCH with 409, whatever If-Match says', async () => {
    const own = await first.createTenant();
    const url = `/tenants/${own.id}`;
    expect((await send('DELETE', url, { token: operatorToken })).status).toBe(204);
    const options = { token: operatorToken, body: { name: 'Other' }, headers: { 'if-match': '"other"' } };
    expect(await send('PATCH', url, options)).toMatchObject({ status: 409, body: { code: 'tenant-state' } });
  });
});

it('a caller without the permission gets 403, whatever If-Match says', async () => {
  const target = await product();
  const reading = label();
  await role(reading);
  const theirs = (await first.createUser(tenant, `${label()}@example.com`, [reading])).token;
  for (const given of ['"other"', '*', await etagOf(target)]) {
    const headers = { 'if-match': given };
    expect((await send('DELETE', target.url, { token: theirs, headers })).status).toBe(403);
  }
});
