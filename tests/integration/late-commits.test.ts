// Lists while other requests write: rows that are there are listed once, and a row that commits late has an earlier time.
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { connectAs, startService, type TestService, type TestTenant } from '../support/app.js';
import { rowOf } from '../support/tenants.js';

let service: TestService;
let tenant: TestTenant;
let database: string;

beforeAll(async () => {
  service = await startService();
  tenant = await service.createTenant();
  ({ dbName: database } = await rowOf(service, tenant));
});
afterAll(() => service.close());

interface Page {
  readonly data: { readonly id: string; readonly name: string; readonly createdAt: string }[];
  readonly nextCursor: string | null;
}

async function read(query: string): Promise<Page> {
  const { status, body, text } = await service.send<Page>('GET', `/products?${query}`, { token: tenant.adminToken });
  expect(status, text).toBe(200);
  return body;
}

/** The names from a cursor to the end of the list. */
async function restOf(query: string, cursor: string | null): Promise<string[]> {
  const page = await read(`${query}${cursor === null ? '' : `&cursor=${cursor}`}`);
  const names = page.data.map(({ name }) => name);
  return page.nextCursor === null ? names : [...names, ...(await restOf(query, page.nextCursor))];
}

async function create(name: string): Promise<void> {
  const { status, text } = await service.send('POST', '/products', {
    token: tenant.adminToken,
    body: { name, price: '1' },
  });
  expect(status, text).toBe(201);
}

describe('a product whose transaction waits', () => {
  it('has the time at which its transaction began, and is found by reading again from before that time', async () => {
    await create('first');
    await create('second');
    const other = connectAs<unknown>(database);
    try {
      const query = 'sort=createdAt&limit=1';
      const { nextCursor: before } = await read(query);
      await other.db.transaction().execute(async (late) => {
        await sql`insert into products (id, name, price) values (gen_random_uuid(), 'late', 1)`.execute(late);
        await create('third');
        expect(await restOf(query, before)).toEqual(['second', 'third']);
      });
      // Not behind 'third', where a reader that begins at the end of what it has read would look for it.
      expect(await restOf(query, before)).toEqual(['second', 'late', 'third']);
    } finally {
      await other.close(0);
    }
  });
});

describe('products that are there the whole time', () => {
  it('are listed once each in every order, however many others come, go and commit late', async () => {
    const names = Array.from({ length: 20 }, (_, index) => `stays ${String(index).padStart(2, '0')}`);
    for (const name of names) await create(name);
    const state = { ended: false };
    const other = connectAs<unknown>(database);
    const writing = (async () => {
      for (let round = 0; !state.ended; round += 1)
        await other.db.transaction().execute(async (trx) => {
          const begun = sql`now() - ${round % 7} * interval '1 second'`;
          await sql`
            insert into products (id, name, price, created_at)
            values (gen_random_uuid(), ${`stays ${String(round % 20).padStart(2, '0')}+`}, 1, ${begun})`.execute(trx);
          await sql`delete from products where name like '%+' and random() < 0.3`.execute(trx);
        });
    })();
    try {
      for (const query of ['sort=createdAt', 'sort=-createdAt', 'sort=name', 'sort=-name&search=stays']) {
        const listed = (await restOf(`${query}&limit=3`, null)).filter((name) => names.includes(name));
        expect(listed.toSorted(), query).toEqual(names);
      }
    } finally {
      state.ended = true;
      await writing.finally(() => other.close(0));
    }
  });
});
