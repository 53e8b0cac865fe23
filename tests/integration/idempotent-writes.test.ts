// Idempotency-Key on the writes of a tenant's users.
import fastify, { type LightMyRequestResponse } from 'fastify';
import fp from 'fastify-plugin';
import { sql } from 'kysely';
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { idempotency } from '../../plugins/caller/idempotency.js';
import {
  ADMIN,
  asSuperuser,
  connectAs,
  createRegistry,
  startService,
  startServiceForTest,
  type Answer,
  type Problem,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { resources } from '../support/route-resources.js';
import { rowOf } from '../support/tenants.js';
import { bodyOf, nameOf, prefixOf } from '../support/writes.js';

let one: TestService;
let other: TestService;
let tenant: TestTenant;
let database: string;

beforeAll(async () => {
  const registry = await createRegistry();
  one = await startService({ registry });
  other = await startService({ registry, operator: false });
  tenant = await one.createTenant();
  database = (await rowOf(one, tenant)).dbName;
});
afterAll(() => Promise.all([one.close(), other.close()]));

type Send = (method: string, url: string, body?: object, key?: string, token?: string) => Promise<Answer<Problem>>;

const via =
  (service: () => TestService): Send =>
  (method, url, body, key, token = tenant.adminToken) =>
    service().send<Problem>(method as 'POST', url, {
      token,
      ...(body && { body }),
      ...(key !== undefined && { headers: { 'idempotency-key': key } }),
    });
const send = via(() => one);

const product = (): { name: string; price: string; sku: string } => ({
  name: 'Lamp',
  price: '10.00',
  sku: randomUUID(),
});

async function rows(table: string, where = sql`true`): Promise<number> {
  const { rows: found } = await asSuperuser(database, (db) =>
    sql<{ count: number }>`select count(*)::int as count from ${sql.table(table)} where ${where}`.execute(db),
  );
  return found[0]?.count ?? -1;
}

/** Expects the first answer again, also from the other replica. */
async function expectRepeated(first: Answer<Problem>, again: () => Promise<Answer<Problem>>): Promise<void> {
  expect(first.status, first.text).toBeLessThan(300);
  expect(first.headers['idempotent-replayed']).toBeUndefined();
  const second = await again();
  expect([second.status, second.text]).toEqual([first.status, first.text]);
  expect(second.headers.location).toBe(first.headers.location);
  expect(second.headers['content-type']).toBe(first.headers['content-type']);
  expect(second.headers['idempotent-replayed']).toBe('true');
}

describe('a write that is sent twice with one key happens once', () => {
  it('a product that is created, changed, taken from the stock, and removed', async () => {
    const body = { ...product(), stockQuantity: 10 };
    const create = () => send('POST', '/products', body, 'create');
    const created = await create();
    await expectRepeated(created, () => via(() => other)('POST', '/products', body, 'create'));
    expect(await rows('products', sql`sku = ${body.sku}`)).toBe(1);
    const { id } = JSON.parse(created.text) as { id: string };

    const change = () => send('PATCH', `/products/${id}`, { name: 'Lantern' }, 'change');
    const changed = await change();
    await send('PATCH', `/products/${id}`, { name: 'Torch' });
    await expectRepeated(changed, change);
    expect((await send('GET', `/products/${id}`)).text).toContain('Torch');

    const take = () => send('POST', `/products/${id}/stock`, { delta: -3 }, 'take');
    await expectRepeated(await take(), take);
    await expectRepeated({ ...(await send('POST', `/products/${id}/stock`, { delta: -1 }, 'more')) }, () =>
      send('POST', `/products/${id}/stock`, { delta: -1 }, 'more'),
    );
    expect((await send('GET', `/products/${id}`)).text).toContain('"stockQuantity":6');

    const remove = () => send('DELETE', `/products/${id}`, undefined, 'remove');
    await expectRepeated(await remove(), remove);
    expect((await send('DELETE', `/products/${id}`)).status).toBe(404);
  });

  it('a user that is created, changed and removed, with one audit row each', async () => {
    const email = `${randomUUID()}@example.com`;
    const body = { email, password: 'user-password-123', firstName: 'Uma', lastName: 'User', roles: ['member'] };
    const create = () => send('POST', '/users', body, 'create');
    const created = await create();
    await expectRepeated(created, create);
    const { id } = JSON.parse(created.text) as { id: string };
    const change = () => send('PATCH', `/users/${id}`, { lastName: 'Ustinova', active: false }, 'change');
    await expectRepeated(await change(), change);
    const remove = () => send('DELETE', `/users/${id}`, undefined, 'remove');
    await expectRepeated(await remove(), remove);
    expect(await rows('audit', sql`target_id = ${id}`)).toBe(3);
  });

  it('a role that is created, changed and removed', async () => {
    const body = { name: `role-${randomUUID().slice(0, 8)}`, permissions: ['products:read'] };
    const create = () => send('POST', '/roles', body, 'create');
    const created = await create();
    await expectRepeated(created, create);
    const { id } = JSON.parse(created.text) as { id: string };
    const change = () => send('PATCH', `/roles/${id}`, { description: 'of a test' }, 'change');
    await expectRepeated(await change(), change);
    const remove = () => send('DELETE', `/roles/${id}`, undefined, 'remove');
    await expectRepeated(await remove(), remove);
  });
});

describe('a key', () => {
  it('with another body or another query is refused with 422, and nothing happens', async () => {
    const body = product();
    await send('POST', '/products', body, 'same');
    const another = product();
    const reused = { status: 422, body: { code: 'idempotency-key-reused' } };
    expect(await send('POST', '/products', another, 'same')).toMatchObject(reused);
    expect(await send('POST', '/products?again=1', body, 'same')).toMatchObject(reused);
    expect(await rows('products', sql`sku in (${body.sku}, ${another.sku})`)).toBe(1);
  });

  it('belongs to the caller, the method and the path', async () => {
    const member = await one.createUser(tenant, `${randomUUID()}@example.com`, ['admin']);
    const [mine, theirs] = [product(), product()];
    const created = await send('POST', '/products', mine, 'shared');
    expect(created.status).toBe(201);
    expect((await send('POST', '/products', theirs, 'shared', member.token)).status).toBe(201);
    const role = { name: `role-${randomUUID().slice(0, 8)}`, permissions: [] };
    expect((await send('POST', '/roles', role, 'shared')).status).toBe(201);
    const { id } = JSON.parse(created.text) as { id: string };
    expect((await send('PATCH', `/products/${id}`, { name: 'Lantern' }, 'shared')).status).toBe(200);
    expect((await send('DELETE', `/products/${id}`, undefined, 'shared')).status).toBe(204);
  });

  it('is the same at an address with a slash at its end, or with an escaped letter', async () => {
    const body = product();
    const create = (url: string) => send('POST', url, body, 'spelled');
    const created = await create('/products');
    for (const url of ['/products/', '/%70roducts']) await expectRepeated(created, () => create(url));
    expect(await rows('products', sql`sku = ${body.sku}`)).toBe(1);
    const { id } = JSON.parse(created.text) as { id: string };
    const take = (address: string) => send('POST', `/products/${address}/stock`, { delta: 1 }, 'spelled');
    await expectRepeated(await take(id), () => take(`%${id.charCodeAt(0).toString(16)}${id.slice(1)}`));
  });

  it('needs one connection only, also for the caller’s own password', async () => {
    const narrow = await startServiceForTest({ env: { POOL_MAX: '1' } });
    const { id, adminId, adminToken } = await narrow.createTenant();
    const body = { currentPassword: ADMIN.password, password: 'another-password-1' };
    const change = () => via(() => narrow)('PATCH', `/users/${adminId}`, body, 'own', adminToken);
    await expectRepeated(await change(), change);
    expect(narrow.app.engine.tenantPools.inspect(id)?.total).toBe(1);
  });

  it('is looked at after authorization', async () => {
    const viewer = await one.createUser(tenant, `${randomUUID()}@example.com`, ['member']);
    const key = 'not a key ';
    expect((await send('POST', '/roles', { name: 'x', permissions: [] }, key, viewer.token)).status).toBe(403);
    expect(await send('POST', '/products', product(), key)).toMatchObject({
      status: 400,
      body: { errors: [{ path: '/idempotency-key', message: 'must be 1 to 200 visible ASCII characters' }] },
    });
  });

  it('is free again after an error', async () => {
    const taken = product();
    await send('POST', '/products', taken);
    expect((await send('POST', '/products', taken, 'freed')).status).toBe(409);
    expect((await send('POST', '/products', product(), 'freed')).status).toBe(201);
  });

  it('is free again after 24 hours, and each write with a key removes ten expired answers', async () => {
    const body = product();
    for (let count = 0; count < 15; count += 1) await send('POST', '/products', product(), `old-${count}`);
    await send('POST', '/products', body, 'expires');
    await asSuperuser(database, (db) =>
      sql`update idempotency_keys set created_at = now() - interval '25 hours'`.execute(db),
    );
    const before = await rows('idempotency_keys');
    expect((await send('POST', '/products', product(), 'expires')).status).toBe(201);
    // The expired answer of this key is replaced. It may be one of the ten.
    expect([before - 10, before - 9]).toContain(await rows('idempotency_keys'));
  });

  it('gets 429 if the tenant has too many answers', async () => {
    // 1,562 in each of the 64 parts.
    await asSuperuser(database, (db) =>
      sql`insert into idempotency_keys
        select set_byte(sha256(i::text::bytea), 0, i % 64 * 4), 'k.h', 204, '{}', '', '[]'
        from generate_series(1, 99968) as i`.execute(db),
    );
    const body = product();
    const refused = await send('POST', '/products', body, 'one-too-many');
    expect(refused).toMatchObject({ status: 429, body: { code: 'too-many-idempotency-keys' } });
    // They would be those of a product that does not exist.
    expect(refused.headers).not.toHaveProperty('location');
    expect(refused.headers).not.toHaveProperty('etag');
    expect(await rows('products', sql`sku = ${body.sku}`)).toBe(0);
    expect((await send('POST', '/products', product())).status).toBe(201);
    await asSuperuser(database, (db) => sql`truncate idempotency_keys`.execute(db));
  });
});

it('answers a handler without queries from the answer that was stored while it ran', async () => {
  const app = fastify();
  app.decorate('engine', one.app.engine);
  app.decorate('watchOf', () => ({ got: () => undefined, missed: () => undefined }));
  app.decorateRequest('keyedWrite', null);
  app.decorateRequest('tenantId', { getter: () => tenant.id });
  app.decorateRequest('userId', { getter: () => tenant.adminId });
  app.decorateRequest('tenantDb', { getter: () => one.app.engine.tenantPools.database(tenant.id) });
  for (const name of ['engine', 'tenant-pool', 'admission']) await app.register(fp(async () => undefined, { name }));
  await app.register(idempotency);
  const running: (() => void)[] = [];
  const config = { access: { scope: 'tenant', permission: 'products:write' }, errors: [] } as const;
  app.post('/nothing', { config }, async () => {
    await new Promise<void>((resolve) => running.push(resolve));
    return { id: randomUUID() };
  });
  try {
    const inject = (): Promise<LightMyRequestResponse> =>
      app.inject({ method: 'POST', url: '/nothing', headers: { 'idempotency-key': 'no-queries' } });
    const both = [inject(), inject()];
    await expect.poll(() => running.length).toBe(2);
    running[0]?.();
    const first = await Promise.race(both);
    running[1]?.();
    const answers = await Promise.all(both);
    expect(answers.map(({ statusCode }) => statusCode)).toEqual([200, 200]);
    expect(answers.map(({ body }) => body)).toEqual([first.body, first.body]);
    expect(answers.map(({ headers }) => headers['idempotent-replayed']).filter(Boolean)).toEqual(['true']);
  } finally {
    await app.close();
  }
});

/** The tests above send each of these twice. */
const TESTED = [
  'DELETE /products/:id',
  'DELETE /roles/:id',
  'DELETE /users/:id',
  'PATCH /products/:id',
  'PATCH /roles/:id',
  'PATCH /users/:id',
  'POST /products',
  'POST /products/:id/stock',
  'POST /roles',
  'POST /users',
];

it('holds for every route on which users of a tenant change something', async () => {
  const writes = one.app.routeTable.filter(({ method, access }) => access.scope === 'tenant' && method !== 'GET');
  expect(writes.map(nameOf)).toEqual(expect.arrayContaining(TESTED));
  for (const route of writes.filter((each) => !TESTED.includes(nameOf(each)))) {
    const prefix = prefixOf(route);
    const make = (): object => resources[prefix]?.make?.(randomUUID()) ?? {};
    const target = route.url.includes(':id')
      ? await one.send<{ id: string }>('POST', prefix, { token: tenant.adminToken, body: make() })
      : undefined;
    const url = route.url.replace(':id', target?.body.id ?? '');
    const body = url === prefix ? make() : (bodyOf(route) ?? undefined);
    const key = randomUUID();
    await expectRepeated(await send(route.method, url, body, key), () =>
      via(() => other)(route.method, url, body, key),
    );
  }
});

it('stores no password and no token', async () => {
  const secrets = { password: `password-${randomUUID()}`, key: `key-${randomUUID()}` };
  const email = `${randomUUID()}@example.com`;
  const body = { email, password: secrets.password, firstName: 'Uma', lastName: 'User', roles: ['member'] };
  expect((await send('POST', '/users', body, secrets.key)).status).toBe(201);
  const { rows: stored } = await asSuperuser(database, (db) =>
    sql<{ text: string }>`select k::text as text from idempotency_keys k`.execute(db),
  );
  const text = stored.map((row) => row.text).join();
  expect(text).toContain(email);
  for (const secret of [...Object.values(secrets), tenant.adminToken]) expect(text).not.toContain(secret);
});

it('fifty requests with one key while the table is locked: one row, and the others get 409 at once', async () => {
  const body = product();
  const holder = connectAs<unknown>(database);
  const answers: Answer<Problem>[] = [];
  let all: Promise<unknown> = Promise.resolve();
  try {
    await holder.db.transaction().execute(async (trx) => {
      await sql`lock table products in access exclusive mode`.execute(trx);
      all = Promise.all(
        Array.from({ length: 50 }, async (_, index) => {
          answers.push(await via(() => (index % 2 === 0 ? one : other))('POST', '/products', body, 'fifty'));
        }),
      );
      // Another key's write to another table gets a connection meanwhile.
      const role = { name: `role-${randomUUID().slice(0, 8)}`, permissions: [] };
      expect((await send('POST', '/roles', role, 'another')).status).toBe(201);
      await expect.poll(() => answers.length, { timeout: 30_000 }).toBe(49);
      for (const answer of answers)
        expect(answer).toMatchObject({
          status: 409,
          headers: { 'retry-after': '1' },
          body: { code: 'idempotency-key-in-use' },
        });
    });
    await all;
  } finally {
    await holder.close(0);
  }
  expect(answers.at(-1)?.status).toBe(201);
  expect(await rows('products', sql`sku = ${body.sku}`)).toBe(1);
});
