// Rows with a time that no client can send, written by hand: infinity, before Christ, after the year 9999.
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  ADMIN,
  asSuperuser,
  startService,
  type PageOf,
  type Problem,
  type TestService,
  type TestTenant,
} from '../support/app.js';
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

const OUTSIDE = ['infinity', '-infinity', '0044-03-15 00:00:00+00 BC', '12026-01-31 09:30:00+00'];

/** The times of the tenant's tables, as `table.column`. */
async function columnsOfTimes(): Promise<{ table: string; column: string }[]> {
  return asSuperuser(database, async (db) => {
    const { rows } = await sql<{ table: string; column: string }>`
      select table_name as table, column_name as column from information_schema.columns
      where table_schema = 'public' and data_type like 'timestamp%' order by 1, 2`.execute(db);
    return rows;
  });
}

/** Runs statements without the constraints on times, as if they had run before the constraints were added. */
async function before(...statements: readonly ReturnType<typeof sql>[]): Promise<void> {
  await asSuperuser(database, (db) =>
    db.transaction().execute(async (trx) => {
      const { rows } = await sql<{ name: string; table: string; definition: string }>`
        select conname as name, conrelid::regclass::text as table, pg_get_constraintdef(oid) as definition
        from pg_constraint where conname like '%\\_times\\_in\\_range'`.execute(trx);
      for (const { name, table } of rows)
        await sql`alter table ${sql.table(table)} drop constraint ${sql.id(name)}`.execute(trx);
      for (const statement of statements) await statement.execute(trx);
      for (const { name, table, definition } of rows)
        await sql`alter table ${sql.table(table)} add constraint ${sql.id(name)} ${sql.raw(definition)}`.execute(trx);
    }),
  );
}

describe('a time of a row', () => {
  it.each(OUTSIDE)('cannot become %s in any table', async (time) => {
    const columns = await columnsOfTimes();
    expect(columns.length).toBeGreaterThan(10);
    for (const { table, column } of columns) {
      const refusal = asSuperuser(database, (db) =>
        db.transaction().execute(async (trx) => {
          // A copy has the checks of the table, and no row that must fit.
          await sql`create temporary table copy (like ${sql.table(`public.${table}`)} including constraints)`.execute(
            trx,
          );
          const { rows } = await sql<{ name: string }>`
            select attname as name from pg_attribute where attrelid = 'copy'::regclass and attnotnull and attnum > 0`.execute(
            trx,
          );
          for (const { name } of rows)
            await sql`alter table copy alter column ${sql.ref(name)} drop not null`.execute(trx);
          await sql`insert into copy (${sql.ref(column)}) values (${time}::timestamptz)`.execute(trx);
        }),
      );
      await expect(refusal, `${table}.${column}`).rejects.toMatchObject({
        code: '23514',
        constraint: `${table}_times_in_range`,
      });
    }
  });
});

type Row = Record<'id' | 'createdAt' | 'updatedAt', string>;

/** The rows of all pages. */
async function pagesOf(query: string, cursor = ''): Promise<Row[]> {
  const page = await service.send<PageOf<Row>>('GET', `/products?${query}${cursor}`, { token: tenant.adminToken });
  expect(page.status, page.text).toBe(200);
  const { data, nextCursor } = page.body;
  return nextCursor === null ? data : [...data, ...(await pagesOf(query, `&cursor=${nextCursor}`))];
}

describe('rows with such times that are there already', () => {
  it('are listed page by page, each once, in the order of their times', async () => {
    const values = ['infinity', 'infinity', '12026-01-31 09:30:00+00', '0044-03-15 00:00:00+00 BC', '-infinity'];
    await before(
      sql`delete from products`,
      sql`insert into products (id, name, price, created_at, updated_at)
          select gen_random_uuid(), 'Product', 1, time::timestamptz, time::timestamptz from unnest(${values}::text[]) as time`,
    );
    const expected = [
      '-infinity',
      '-000043-03-15T00:00:00.000Z',
      '+012026-01-31T09:30:00.000Z',
      'infinity',
      'infinity',
    ];
    for (const filter of ['', '&active=true'])
      for (const sort of ['createdAt', 'updatedAt'] as const) {
        const rows = await pagesOf(`limit=1&sort=${sort}${filter}`);
        expect(
          rows.map((row) => row[sort]),
          `${sort}${filter}`,
        ).toEqual(expected);
        expect(new Set(rows.map(({ id }) => id)).size).toBe(expected.length);
      }
  });

  it('are read, and removed; a change says what to do', async () => {
    const id = '01900000-0000-7000-8000-0000000000aa';
    await before(sql`insert into products (id, name, price, created_at) values (${id}, 'Old', 1, 'infinity')`);
    const asAdmin = { token: tenant.adminToken };
    expect(await service.send('GET', `/products/${id}`, asAdmin)).toMatchObject({
      status: 200,
      body: { createdAt: 'infinity' },
    });
    const changed = await service.send<Problem & { detail: string }>('PATCH', `/products/${id}`, {
      ...asAdmin,
      body: { name: 'New' },
    });
    expect(changed.status, changed.text).toBe(400);
    expect(changed.body.detail).toContain('outside the years 1 to 9999');
    expect((await service.send('DELETE', `/products/${id}`, asAdmin)).status).toBe(204);
  });

  it('do not prevent a sign-in, a list of users, roles, sessions, or the audit', async () => {
    await before(
      sql`update users set created_at = 'infinity', updated_at = '0044-03-15 00:00:00+00 BC'`,
      sql`update roles set created_at = '-infinity'`,
      sql`update sessions set created_at = '-infinity'`,
      sql`update audit set at = '12026-01-31 09:30:00+00' where action = 'auth.login'`,
    );
    const { email, password } = ADMIN;
    const signedIn = await service.send<{ accessToken: string }>('POST', '/auth/login', {
      body: { tenant: tenant.slug, email, password },
    });
    expect(signedIn.status, signedIn.text).toBe(200);
    for (const path of ['/users', '/roles', '/auth/sessions', '/audit', `/users/${tenant.adminId}`]) {
      const answer = await service.send('GET', path, { token: signedIn.body.accessToken });
      expect(answer.status, `${path}: ${answer.text}`).toBe(200);
    }
  });
});

describe('tenants with such times', () => {
  it('are listed and read by operators', async () => {
    const { database: registry } = service.config.registry.connection;
    const other = await service.createTenant();
    const asOperator = { token: service.operatorToken };
    expect((await service.send('DELETE', `/tenants/${other.id}`, asOperator)).status).toBe(204);
    await asSuperuser(registry, (db) =>
      db.transaction().execute(async (trx) => {
        await sql`alter table tenants drop constraint tenants_times_in_range`.execute(trx);
        await sql`update tenants set created_at = '-infinity', deleted_at = 'infinity' where id = ${other.id}`.execute(
          trx,
        );
      }),
    );
    for (const path of [`/tenants/${other.id}`, '/tenants?sort=createdAt&limit=1'])
      expect((await service.send('GET', path, asOperator)).text).toContain('"createdAt":"-infinity"');
    expect((await service.send('GET', `/tenants/${other.id}`, asOperator)).body['purgeAfter']).toBe('infinity');
  });

  it('cannot be written any more', async () => {
    const { database: registry } = service.config.registry.connection;
    for (const [table, column] of [
      ['operators', 'created_at'],
      ['audit', 'at'],
    ] as const)
      await expect(
        asSuperuser(registry, (db) => sql`update ${sql.table(table)} set ${sql.ref(column)} = 'infinity'`.execute(db)),
      ).rejects.toMatchObject({ code: '23514', constraint: `${table}_times_in_range` });
  });
});
