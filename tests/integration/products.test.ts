// Products of a tenant: what is stored, what is refused, and what simultaneous changes do to a stock.
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  type Answer,
  type PageOf,
  type Problem,
  type Send,
  type TestService,
  type TestTenant,
  startService,
} from '../support/app.js';
import { pagesOf } from '../support/pages.js';

const UNKNOWN_ID = '01900000-0000-7000-8000-00000000ffff';
const MAX_STOCK = 2_147_483_647;
const JSON_TYPE = { 'content-type': 'application/json' };

interface Product {
  id: string;
  name: string;
  description: string | null;
  price: string;
  stockQuantity: number;
  active: boolean;
  sku: string | null;
  category: string | null;
  createdAt: string;
  updatedAt: string;
}

type Page = PageOf<Product>;

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

async function create(fields: object = {}, as = token): Promise<Product> {
  const answer = await send<Product>('POST', '/products', {
    token: as,
    body: { name: 'Thing', price: '9.99', ...fields },
  });
  if (answer.status !== 201) throw new Error(answer.text);
  return answer.body;
}

function read(id: string): Promise<Answer<Product>> {
  return send<Product>('GET', `/products/${id}`, { token });
}

function list(query: string, as = token): Promise<Answer<Page>> {
  return send<Page>('GET', `/products?${query}`, { token: as });
}

/** Every row of a list, page by page. */
async function walk(query: string, limit: number, as = token): Promise<Product[]> {
  const pages = await pagesOf<Product>(send, `/products?limit=${limit}&${query}`, as);
  for (const rows of pages) expect(rows.length).toBeLessThanOrEqual(limit);
  return pages.flat();
}

describe('creating a product', () => {
  it('answers 201 with the product and its address', async () => {
    const body = {
      name: 'Lamp',
      description: 'Gives light. 💡',
      price: '1299.9',
      stockQuantity: 12,
      active: false,
      sku: 'L-1',
      category: 'light',
    };
    const answer = await send<Product>('POST', '/products', { token, body });
    expect(answer.status).toBe(201);
    expect(answer.headers.location).toBe(`/products/${answer.body.id}`);
    expect(answer.body).toEqual({
      ...body,
      id: expect.stringMatching(/^[0-9a-f-]{36}$/) as string,
      price: '1299.90',
      createdAt: expect.stringMatching(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/) as string,
      updatedAt: answer.body.createdAt,
    });
    const stored = await send<Product>('GET', String(answer.headers.location), { token });
    expect(stored.status).toBe(200);
    expect(stored.body).toEqual(answer.body);
  });

  it('needs only a name and a price', async () => {
    expect(await create({ name: 'Bare', price: 5 })).toMatchObject({
      name: 'Bare',
      description: null,
      price: '5.00',
      stockQuantity: 0,
      active: true,
      sku: null,
      category: null,
    });
    const empty = await send<Problem>('POST', '/products', { token, body: {} });
    expect(empty.status).toBe(400);
    expect(empty.body.errors.map(({ path }) => path).sort()).toEqual(['/name', '/price']);
  });

  it.each<[string | number, string]>([
    ['0', '0.00'],
    ['0.01', '0.01'],
    ['1299.99', '1299.99'],
    ['7.5', '7.50'],
    ['9999999999.99', '9999999999.99'],
    [0, '0.00'],
    [19.99, '19.99'],
    [1.1, '1.10'],
    [1e3, '1000.00'],
    [9_999_999_999.99, '9999999999.99'],
  ])('stores the price %j as %s', async (price, stored) => {
    expect((await create({ price })).price).toBe(stored);
  });

  it.each([
    '1e308',
    '"NaN"',
    '"Infinity"',
    '"-Infinity"',
    '19.999',
    '"19.999"',
    '-1',
    '"-1"',
    '-0',
    '"-0"',
    '-0.0',
    '1e400',
    '0.30000000000000004',
    '1e-7',
    '10000000000',
    '"10000000000"',
    '"1e3"',
    '"1,50"',
    '"1.5 "',
    '" 1"',
    '"+1"',
    '".5"',
    '"5."',
    '"0x10"',
    '"١"',
    '""',
    'null',
    'true',
    '[]',
    '[1]',
    '{}',
  ])('refuses the price %s', async (price) => {
    const answer = await send<Problem>('POST', '/products', {
      token,
      body: `{"name":"x","price":${price}}`,
      headers: JSON_TYPE,
    });
    expect([answer.status, answer.body.code]).toEqual([400, 'invalid-request']);
    expect(answer.body.errors.map(({ path }) => path)).toEqual(['/price']);
  });

  it.each(['2147483648', '1.5', '"1e3"', '"5"', '-1', '1e10', '1e400', 'null', 'true', '[1]', '""'])(
    'refuses the stock %s',
    async (stock) => {
      const answer = await send<Problem>('POST', '/products', {
        token,
        body: `{"name":"x","price":"1","stockQuantity":${stock}}`,
        headers: JSON_TYPE,
      });
      expect([answer.status, answer.body.code]).toEqual([400, 'invalid-request']);
      expect(answer.body.errors.map(({ path }) => path)).toEqual(['/stockQuantity']);
    },
  );

  it('accepts the largest stock', async () => {
    expect((await create({ stockQuantity: MAX_STOCK })).stockQuantity).toBe(MAX_STOCK);
  });

  it.each<[string, object, string]>([
    ['an id', { id: UNKNOWN_ID }, '/id'],
    ['a tenant', { tenantId: UNKNOWN_ID }, '/tenantId'],
    ['a column name', { stock_quantity: 5 }, '/stock_quantity'],
    ['a time', { createdAt: '2026-01-01T00:00:00Z' }, '/createdAt'],
    ['an empty name', { name: '' }, '/name'],
    ['a name that is null', { name: null }, '/name'],
    ['a name of 201 characters', { name: 'x'.repeat(201) }, '/name'],
    ['NUL in the name', { name: 'a\0' }, '/name'],
    ['a lone surrogate in the description', { description: '\ud83d' }, '/description'],
    ['a lone surrogate in the SKU', { sku: '\udca1' }, '/sku'],
    ['NUL in the category', { category: '\0' }, '/category'],
    ['active as text', { active: 'false' }, '/active'],
    ['active as a number', { active: 1 }, '/active'],
  ])('refuses %s and names its path', async (_, wrong, path) => {
    const answer = await send<Problem>('POST', '/products', { token, body: { name: 'x', price: '1', ...wrong } });
    expect([answer.status, answer.body.code]).toEqual([400, 'invalid-request']);
    expect(answer.body.errors.map((error) => error.path)).toEqual([path]);
  });

  it('refuses a SKU that is taken, and allows many products without one', async () => {
    await create({ sku: 'unique-1' });
    const again = await send('POST', '/products', { token, body: { name: 'x', price: '1', sku: 'unique-1' } });
    expect([again.status, again.body['code']]).toEqual([409, 'sku-taken']);
    await create({ sku: null });
    await create({ sku: null });
    await create();
  });
});

describe('changing a product', () => {
  it('changes the given fields only', async () => {
    const product = await create({ description: 'old', stockQuantity: 3, sku: 'patched', category: 'a' });
    let expected = product;
    for (const change of [
      { name: 'New name' },
      { price: 12.5 },
      { description: null },
      { stockQuantity: 0 },
      { active: false },
      { sku: null, category: 'b' },
    ]) {
      await delay(2);
      const answer = await send<Product>('PATCH', `/products/${product.id}`, { token, body: change });
      expect(answer.status).toBe(200);
      expect(answer.body.updatedAt > expected.updatedAt).toBe(true);
      expected = {
        ...expected,
        ...change,
        price: 'price' in change ? '12.50' : expected.price,
        updatedAt: answer.body.updatedAt,
      };
      expect(answer.body).toEqual(expected);
      expect((await read(product.id)).body).toEqual(expected);
    }
  });

  it.each<[string, object, string]>([
    ['nothing', {}, ''],
    ['a bad price', { price: '1.234' }, '/price'],
    ['a price that is null', { price: null }, '/price'],
    ['a stock below 0', { stockQuantity: -1 }, '/stockQuantity'],
    ['a name that is null', { name: null }, '/name'],
    ['an id', { name: 'x', id: UNKNOWN_ID }, '/id'],
    ['an unknown key beside a good one', { name: 'x', dbName: 'y' }, '/dbName'],
  ])('refuses %s', async (_, body, path) => {
    const product = await create();
    const answer = await send<Problem>('PATCH', `/products/${product.id}`, { token, body });
    expect([answer.status, answer.body.code]).toEqual([400, 'invalid-request']);
    expect(answer.body.errors.map((error) => error.path)).toEqual([path]);
    expect((await read(product.id)).body).toEqual(product);
  });

  it('refuses a SKU that is taken, and lets a product keep its own', async () => {
    await create({ sku: 'unique-2' });
    const { id } = await create({ sku: 'unique-3' });
    const taken = await send('PATCH', `/products/${id}`, { token, body: { sku: 'unique-2' } });
    expect([taken.status, taken.body['code']]).toEqual([409, 'sku-taken']);
    expect((await send('PATCH', `/products/${id}`, { token, body: { sku: 'unique-3' } })).status).toBe(200);
  });

  it('answers 404 for an unknown id', async () => {
    expect((await send('PATCH', `/products/${UNKNOWN_ID}`, { token, body: { name: 'x' } })).status).toBe(404);
  });
});

describe('deleting a product', () => {
  it('answers 204, and every later request for it gets 404', async () => {
    const { id } = await create({ sku: 'free-again' });
    const gone = await send('DELETE', `/products/${id}`, { token });
    expect([gone.status, gone.text]).toEqual([204, '']);
    expect((await send('DELETE', `/products/${id}`, { token })).status).toBe(404);
    expect((await read(id)).status).toBe(404);
    expect((await send('PATCH', `/products/${id}`, { token, body: { name: 'x' } })).status).toBe(404);
    expect((await send('POST', `/products/${id}/stock`, { token, body: { delta: 1 } })).status).toBe(404);
    await create({ sku: 'free-again' });
  });
});

describe('ids of products', () => {
  it.each<[string, (id: string) => string]>([
    ['in braces', (id) => `%7B${id}%7D`],
    ['in upper case', (id) => id.toUpperCase()],
    ['without dashes', (id) => id.replaceAll('-', '')],
    ['as a URN', (id) => `urn:uuid:${id}`],
    ['with a space', (id) => `${id}%20`],
    ['with NUL', (id) => `${id}%00`],
    ['that are no UUID', () => '1'],
  ])('%s get 400', async (_, spell) => {
    const product = await create({ name: 'abcdef' });
    for (const answer of [
      await send<Problem>('GET', `/products/${spell(product.id)}`, { token }),
      await send<Problem>('PATCH', `/products/${spell(product.id)}`, { token, body: { name: 'x' } }),
      await send<Problem>('DELETE', `/products/${spell(product.id)}`, { token }),
      await send<Problem>('POST', `/products/${spell(product.id)}/stock`, { token, body: { delta: 1 } }),
    ]) {
      expect([answer.status, answer.body.code]).toEqual([400, 'invalid-request']);
      expect(answer.body.errors.map(({ path }) => path)).toEqual(['/id']);
    }
    expect((await read(product.id)).body).toEqual(product);
  });
});

describe('the stock', () => {
  const change = (id: string, delta: unknown): Promise<Answer<Product & Problem>> =>
    send<Product & Problem>('POST', `/products/${id}/stock`, { token, body: { delta } });

  it('grows and shrinks by a delta', async () => {
    const product = await create({ stockQuantity: 5 });
    expect((await change(product.id, 7)).body.stockQuantity).toBe(12);
    const answer = await change(product.id, -12);
    expect(answer.status).toBe(200);
    expect(answer.body).toEqual({ ...product, stockQuantity: 0, updatedAt: answer.body.updatedAt });
  });

  it('loses none of 50 simultaneous changes, and never goes below 0', async () => {
    const { id } = await create({ stockQuantity: 30 });
    const answers = await Promise.all(Array.from({ length: 50 }, () => change(id, -1)));
    const refused = answers.filter(({ status }) => status !== 200);
    expect(refused).toHaveLength(20);
    for (const { status, body } of refused) expect([status, body.code]).toEqual([409, 'insufficient-stock']);
    // Each successful change saw a different stock.
    const left = answers.filter(({ status }) => status === 200).map(({ body }) => body.stockQuantity);
    expect(left.sort((a, b) => a - b)).toEqual(Array.from({ length: 30 }, (_, index) => index));
    expect((await read(id)).body.stockQuantity).toBe(0);
  });

  it('stays as it is if a delta would exceed its bounds', async () => {
    const { id } = await create({ stockQuantity: MAX_STOCK - 1 });
    for (const delta of [2, MAX_STOCK, -MAX_STOCK]) {
      const answer = await change(id, delta);
      expect([delta, answer.status, answer.body.code]).toEqual([delta, 409, 'insufficient-stock']);
    }
    expect((await change(id, 1)).body.stockQuantity).toBe(MAX_STOCK);
    expect((await change(id, -MAX_STOCK)).body.stockQuantity).toBe(0);
    expect((await change(id, -2_147_483_648)).status).toBe(409);
  });

  it.each([0, 1.5, '1', '1e3', 2_147_483_648, -2_147_483_649, null, undefined])(
    'refuses the delta %j',
    async (delta) => {
      const { id } = await create({ stockQuantity: 1 });
      const answer = await change(id, delta);
      expect([answer.status, answer.body.code]).toEqual([400, 'invalid-request']);
      expect(answer.body.errors.map(({ path }) => path)).toEqual(['/delta']);
    },
  );

  it('of an unknown product answers 404', async () => {
    expect((await change(UNKNOWN_ID, 1)).status).toBe(404);
  });
});

describe('the list of products', () => {
  const sorts = ['createdAt', 'updatedAt', 'name', 'price', 'stockQuantity'] as const;
  let shop: TestTenant;
  let all: Product[];

  beforeAll(async () => {
    shop = await service.createTenant('shop');
    await Promise.all(
      Array.from({ length: 30 }, (_, index) =>
        create(
          {
            name: `item ${'abcde'[index % 5] ?? ''}`,
            description: ['Saves 50% today', 'snake_case', 'back\\slash', 'Ünïcode 💡'][index] ?? null,
            // As text, 9.00 comes after 10.00.
            price: ['10.00', '9.00', '9.50'][index % 3],
            stockQuantity: index % 4 === 0 ? 100 : index % 4,
            active: index % 2 === 0,
            category: ['tools', 'toys', null][index % 3],
          },
          shop.adminToken,
        ),
      ),
    );
    const record = await service.app.engine.tenantDirectory.find(shop.id);
    if (!record) throw new Error('the tenant is gone');
    const db = service.app.engine.tenantPools.database(record.id);
    const ids = await db.selectFrom('products').select('id').orderBy('id').execute();
    for (const [index, { id }] of ids.entries()) {
      await db
        .updateTable('products')
        .set({
          created_at: `2026-01-01T00:00:00.00${Math.floor(index / 7)}Z`,
          updated_at: `2026-02-0${1 + (index % 3)}T00:00:00.000Z`,
        })
        .where('id', '=', id)
        .execute();
    }
    all = (await list('limit=100', shop.adminToken)).body.data;
    expect(all).toHaveLength(30);
  });

  it.each(sorts.flatMap((name) => [name, `-${name}`] as const))(
    'sorted by %s has each row once over all its pages',
    async (sort) => {
      const name = sort.replace('-', '') as (typeof sorts)[number];
      const byKey = (a: Product, b: Product): number =>
        (name === 'price' ? Number(a.price) - Number(b.price) : compare(a[name], b[name])) || compare(a.id, b.id);
      const sorted = all.toSorted(byKey);
      const expected = sort.startsWith('-') ? sorted.toReversed() : sorted;
      for (const limit of [1, 4, 30, 100]) {
        expect(await walk(`sort=${sort}`, limit, shop.adminToken)).toEqual(expected);
      }
    },
  );

  it('has 20 rows by default, newest first', async () => {
    const { body } = await list('', shop.adminToken);
    expect(body.data).toEqual((await walk('sort=-createdAt', 100, shop.adminToken)).slice(0, 20));
    expect(body.nextCursor).toEqual(expect.any(String));
  });

  it('continues after the last row even if that row was removed', async () => {
    const extra = await create({ name: 'aaa' }, shop.adminToken);
    const first = (await list('sort=name&limit=1', shop.adminToken)).body;
    expect(first.data[0]?.id).toBe(extra.id);
    await send('DELETE', `/products/${extra.id}`, { token: shop.adminToken });
    const rest = (await list(`sort=name&limit=100&cursor=${first.nextCursor ?? ''}`, shop.adminToken)).body;
    expect(rest.data).toHaveLength(30);
  });

  it.each<[string, (product: Product) => boolean]>([
    ['active=true', ({ active }) => active],
    ['active=false', ({ active }) => !active],
    ['category=tools', ({ category }) => category === 'tools'],
    ['category=Tools', () => false],
    ['minPrice=9.5', ({ price }) => Number(price) >= 9.5],
    ['maxPrice=9.50', ({ price }) => Number(price) <= 9.5],
    ['minPrice=9.01&maxPrice=9.99', ({ price }) => price === '9.50'],
    ['minPrice=11', () => false],
    ['maxStock=0', () => false],
    ['maxStock=1', ({ stockQuantity }) => stockQuantity <= 1],
    ['maxStock=2147483647', () => true],
    [
      'active=true&category=toys&maxPrice=10&maxStock=99&search=item',
      (product) => product.active && product.category === 'toys' && product.stockQuantity <= 99,
    ],
  ])('filters by %s, over all pages', async (query, holds) => {
    const rows = await walk(query, 3, shop.adminToken);
    expect(rows).toEqual(all.filter(holds));
  });

  it('searches name and description in any case, and takes %, _ and \\ literally', async () => {
    const found = async (search: string): Promise<number> =>
      (await walk(`search=${encodeURIComponent(search)}`, 100, shop.adminToken)).length;
    expect(await found('ITEM A')).toBe(6);
    expect(await found('%')).toBe(1);
    expect(await found('50%')).toBe(1);
    expect(await found('50% t')).toBe(1);
    expect(await found('5%t')).toBe(0);
    expect(await found('_')).toBe(1);
    expect(await found('snake_')).toBe(1);
    expect(await found('item_a')).toBe(0);
    expect(await found('\\')).toBe(1);
    expect(await found('\\\\')).toBe(0);
    expect(await found('\\%')).toBe(0);
    expect(await found('ÜNÏ')).toBe(1);
    expect(await found('💡')).toBe(1);
    expect(await found("'; drop table products; --")).toBe(0);
  });

  it.each([
    'limit=-1',
    'limit=0',
    'limit=101',
    'limit=1000000000',
    'limit=1e1',
    'limit=1.5',
    'limit=ten',
    'limit=',
    'sort=id',
    'sort=description',
    'sort=--name',
    'sort=name,price',
    'active=1',
    'active=TRUE',
    'active=',
    'minPrice=-1',
    'minPrice=NaN',
    'maxPrice=1.234',
    'maxPrice=',
    'maxStock=-1',
    'maxStock=2147483648',
    'maxStock=1.5',
    'search=',
    'search=%00',
    'category=%00',
    'tenantId=x',
    '__proto__=x',
    'limit=1&limit=1',
    'sort=name&sort=name',
    'active=true&active=true',
    'search=a&search=b',
    'minPrice=1&minPrice=2',
    'cursor=a&cursor=b',
  ])('refuses ?%s', async (query) => {
    const answer = await send<Problem>('GET', `/products?${query}`, { token });
    expect([answer.status, answer.body.code]).toEqual([400, 'invalid-request']);
    expect(answer.body.errors.map(({ path }) => path)).toEqual([`/${query.split('=')[0] ?? ''}`]);
  });

  it.each([
    ['four bytes a character', '😀'],
    ['characters that JSON escapes', '\u0001'],
  ])('accepts the longest cursor that it gives out: %s', async (_, character) => {
    const { adminToken } = await service.createTenant();
    for (let row = 0; row < 2; row += 1) await create({ name: character.repeat(200) }, adminToken);
    const first = await list('sort=name&limit=1', adminToken);
    const second = await list(`sort=name&limit=1&cursor=${String(first.body.nextCursor)}`, adminToken);
    expect([second.status, second.body.data.length, second.body.nextCursor]).toEqual([200, 1, null]);
    expect(second.body.data[0]?.id).not.toBe(first.body.data[0]?.id);
  });

  it('refuses cursors that are forged or belong to another list', async () => {
    const cursor = String((await list('limit=5&active=true', shop.adminToken)).body.nextCursor);
    const bytes = Buffer.from(cursor, 'base64url');
    const forged = Buffer.concat([bytes.subarray(0, 16), Buffer.from(JSON.stringify(['2030-01-01', UNKNOWN_ID]))]);
    await service.createUser(shop, 'second@example.com');
    const users = String((await send<Page>('GET', '/users?limit=1', { token: shop.adminToken })).body.nextCursor);
    for (const [query, as] of [
      [`active=true&cursor=${forged.toString('base64url')}`, shop.adminToken],
      [`active=true&cursor=${cursor.slice(0, 20)}`, shop.adminToken],
      [`active=true&cursor=x${cursor}`, shop.adminToken],
      ['cursor=AAAA', shop.adminToken],
      ['cursor=null', shop.adminToken],
      [`active=true&cursor=${cursor}`, token],
      [`cursor=${cursor}`, shop.adminToken],
      [`active=false&cursor=${cursor}`, shop.adminToken],
      [`active=true&category=toys&cursor=${cursor}`, shop.adminToken],
      [`active=true&search=item&cursor=${cursor}`, shop.adminToken],
      [`active=true&minPrice=0&cursor=${cursor}`, shop.adminToken],
      [`active=true&sort=createdAt&cursor=${cursor}`, shop.adminToken],
      [`active=true&sort=-updatedAt&cursor=${cursor}`, shop.adminToken],
      [`cursor=${users}`, shop.adminToken],
    ] as const) {
      const answer = await send('GET', `/products?${query}`, { token: as });
      expect([query, answer.status, answer.body['code']]).toEqual([query, 400, 'invalid-cursor']);
    }
    expect((await list(`active=true&cursor=${cursor}`, shop.adminToken)).status).toBe(200);
  });

  it('shows only the products of the caller’s tenant', async () => {
    expect(await walk('search=item', 100)).toEqual([]);
  });
});

function compare(a: string | number, b: string | number): number {
  return a < b ? -1 : Number(a > b);
}
