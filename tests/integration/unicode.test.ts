// One text in several Unicode forms: "é" is one code point (NFC) or two (NFD), and looks the same.
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { migrateToLatest } from '../../db/shared/migrator.js';
import { registryMigrations } from '../../db/registry/migrations/index.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { CreateTenantBody } from '../../src/operations/create/tenant-request.js';
import {
  asSuperuser,
  connectAs,
  startService,
  startServiceForTest,
  type PageOf,
  type Problem,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { eventually } from '../support/service-process.js';
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

const composed = 'Caf\u00e9';
const decomposed = 'Cafe\u0301';

async function namesFound(query: string): Promise<string[]> {
  const page = await service.send<PageOf<{ name: string }>>('GET', `/products?${query}`, { token: tenant.adminToken });
  expect(page.status, page.text).toBe(200);
  return page.body.data.map(({ name }) => name);
}

async function createProduct(body: object): Promise<{ status: number; body: { code?: string; name?: string } }> {
  return service.send('POST', '/products', { token: tenant.adminToken, body: { price: '1', ...body } });
}

describe('text in two Unicode forms', () => {
  it('is one text: a product is found by name and category, whichever form was stored and whichever is sought', async () => {
    expect((await createProduct({ name: `${decomposed} one`, category: decomposed })).body.name).toBe(
      `${composed} one`,
    );
    expect((await createProduct({ name: `${composed} two`, category: composed })).status).toBe(201);
    for (const form of [composed, decomposed, composed.toUpperCase(), decomposed.toLowerCase()])
      expect(await namesFound(`sort=name&search=${encodeURIComponent(form)}`), form).toEqual([
        `${composed} one`,
        `${composed} two`,
      ]);
    for (const form of [composed, decomposed])
      expect(await namesFound(`category=${encodeURIComponent(form)}`), form).toHaveLength(2);
  });

  it('is one SKU', async () => {
    expect((await createProduct({ name: 'A', sku: `${composed}-1` })).status).toBe(201);
    expect(await createProduct({ name: 'B', sku: `${decomposed}-1` })).toMatchObject({
      status: 409,
      body: { code: 'sku-taken' },
    });
  });

  it('has the length of its composed form', async () => {
    expect((await createProduct({ name: decomposed.repeat(50) })).status).toBe(201);
    expect((await createProduct({ name: composed.repeat(51) })).status).toBe(400);
  });
});

describe('a name or password of PostgreSQL', () => {
  it('stays as it was sent, because PostgreSQL compares bytes', () => {
    const adopt = { clusterId: tenant.id, database: decomposed };
    const admin = { email: 'a@example.com', password: 'user-password-123', firstName: 'A', lastName: 'B' };
    expect(CreateTenantBody.parse({ name: decomposed, admin, adopt })).toMatchObject({
      name: composed,
      adopt: { database: decomposed },
    });
  });
});

describe('a password', () => {
  it('is the same for whoever types it composed, decomposed, or with a ligature', async () => {
    const email = 'forms@example.com';
    const password = `${decomposed} \ufb01fteen letters`;
    const made = await service.send('POST', '/users', {
      token: tenant.adminToken,
      body: { email, password, firstName: 'Uma', lastName: 'User' },
    });
    expect(made.status, made.text).toBe(201);
    for (const typed of [password, `${composed} \ufb01fteen letters`, `${composed} fifteen letters`])
      expect(
        (await service.send('POST', '/auth/login', { body: { tenant: tenant.slug, email, password: typed } })).status,
        typed,
      ).toBe(200);
  });

  it('counts its characters in the normal form', async () => {
    const body = { email: 'short@example.com', firstName: 'Uma', lastName: 'User' };
    const create = (password: string): Promise<{ status: number }> =>
      service.send('POST', '/users', { token: tenant.adminToken, body: { ...body, password } });
    // Eleven characters; twelve code points and more if they are decomposed.
    expect((await create(decomposed.repeat(2) + 'xyz')).status).toBe(400);
    expect((await create(decomposed.repeat(2) + 'xyzt')).status).toBe(201);
  });
});

describe('an e-mail address', () => {
  it.each([
    ['anna@m\u00fcller.example', 'xn--mller-kva.example'],
    ['anna@mu\u0308ller.example', 'xn--mller-kva.example'],
  ])('with an internationalised domain is refused with the spelling to use: %s', async (email, ascii) => {
    const answer = await service.send<Problem>('POST', '/users', {
      token: tenant.adminToken,
      body: { email, password: 'user-password-123', firstName: 'Anna', lastName: 'User' },
    });
    expect(answer.status).toBe(400);
    expect(answer.body.errors).toEqual([{ path: '/email', message: expect.stringContaining(`"${ascii}"`) as string }]);
  });
});

describe('letters outside ASCII', () => {
  it('are letters in the database of a new tenant: a search for them ignores case and has an index', async () => {
    expect((await createProduct({ name: 'Лампа ЗИМНЯЯ', description: 'Größe Ä' })).status).toBe(201);
    for (const text of ['лампа', 'зимняя', 'ГРОШЕ', 'GRÖSSE', 'größe ä'])
      expect(await namesFound(`search=${encodeURIComponent(text)}`), text).toEqual(
        ['ГРОШЕ', 'GRÖSSE'].includes(text) ? [] : ['Лампа ЗИМНЯЯ'],
      );
    const { rows } = await asSuperuser(database, (db) =>
      sql<{ trigrams: string[] }>`select show_trgm('зима') as trigrams`.execute(db),
    );
    expect(rows[0]?.trigrams.length).toBeGreaterThan(3);
  });
});

describe('a database in which only a to z are letters', () => {
  it('is counted in a warning, at the start and in the check of its cluster', async () => {
    const name = `ascii_${process.pid}`;
    const owner = sql.id(inject('cluster').provisioner.user);
    await asSuperuser('postgres', (db) =>
      sql`create database ${sql.id(name)} owner ${owner} template template0 lc_ctype 'C'`.execute(db),
    );
    onTestFinished(() =>
      asSuperuser('postgres', (db) => sql`drop database ${sql.id(name)}`.execute(db)).then(() => undefined),
    );
    const warning = /^[1-9]\d* of the tenants' databases have the locale C/;
    const written: string[] = [];
    const logStream = { write: (line: string) => void written.push(line) };
    const other = await startServiceForTest({ env: { LOG_LEVEL: 'warn' }, overrides: { logStream } });
    await eventually('the start says it', () =>
      written.some((line) => warning.test((JSON.parse(line) as { msg: string }).msg)),
    );
    const asOperator = { token: other.operatorToken };
    const { body: clusters } = await other.send<PageOf<{ id: string; isDefault: boolean }>>(
      'GET',
      '/clusters',
      asOperator,
    );
    const cluster = clusters.data.find(({ isDefault }) => isDefault);
    const { body: check } = await other.send('POST', `/clusters/${cluster?.id ?? ''}/check`, asOperator);
    expect(check['warnings']).toContainEqual(expect.stringMatching(warning));
  });
});

describe('text that a former build stored decomposed', () => {
  it('is composed by the migration, unless its SKU would exist twice', async () => {
    const name = `unicode_${process.pid}`;
    await asSuperuser('postgres', (db) => sql`create database ${sql.id(name)} encoding 'UTF8'`.execute(db));
    const handle = connectAs<unknown>(name);
    try {
      const former = Object.fromEntries(Object.entries(tenantMigrations).filter(([each]) => each < '0013'));
      await migrateToLatest(handle.db, former);
      await sql`
        insert into products (id, name, description, price, sku, category) values
          (gen_random_uuid(), ${`1 ${decomposed}`}, ${decomposed}, 1, ${`${decomposed}-1`}, ${decomposed}),
          (gen_random_uuid(), '2', null, 1, ${`${composed}-2`}, null),
          (gen_random_uuid(), '3', null, 1, ${`${decomposed}-2`}, null)`.execute(handle.db);
      // More than the migration changes in one transaction.
      await sql`
        insert into products (id, name, price)
          select gen_random_uuid(), 'many ' || i || ${decomposed}, 1 from generate_series(1, 120) as i`.execute(
        handle.db,
      );
      await migrateToLatest(handle.db, tenantMigrations);
      const { rows: many } = await sql`
        select from products where name like 'many %' and name is nfc normalized`.execute(handle.db);
      expect(many).toHaveLength(120);
      const { rows } = await sql`
        select name, description, sku, category from products where name not like 'many %' order by name`.execute(
        handle.db,
      );
      expect(rows).toEqual([
        { name: `1 ${composed}`, description: composed, sku: `${composed}-1`, category: composed },
        { name: '2', description: null, sku: `${composed}-2`, category: null },
        { name: '3', description: null, sku: `${decomposed}-2`, category: null },
      ]);
    } finally {
      await handle.close(0);
      await asSuperuser('postgres', (db) => sql`drop database ${sql.id(name)} with (force)`.execute(db));
    }
  });

  it('stays as it is in the registry, where its normal form is taken or too long', async () => {
    const name = `unicode_registry_${process.pid}`;
    await asSuperuser('postgres', (db) => sql`create database ${sql.id(name)} encoding 'UTF8'`.execute(db));
    const handle = connectAs<unknown>(name);
    try {
      const former = Object.fromEntries(Object.entries(registryMigrations).filter(([each]) => each < '0019'));
      await migrateToLatest(handle.db, former);
      // Its normal form is two characters.
      const long = '\u0958'.repeat(100);
      for (const given of [composed, decomposed, `other ${decomposed}`, long])
        await sql`
          insert into clusters (id, name, host, port, provisioner_user, provisioner_password, tls, connection_budget,
              connection_reserve)
            values (gen_random_uuid(), ${given}, 'db' || md5(${given}) || '.example', 5432, 'p', 'v1.x', 'off', 10, 2)`.execute(
          handle.db,
        );
      await migrateToLatest(handle.db, registryMigrations);
      const { rows } = await sql<{ name: string }>`select name from clusters`.execute(handle.db);
      expect(new Set(rows.map((row) => row.name))).toEqual(new Set([composed, decomposed, `other ${composed}`, long]));
    } finally {
      await handle.close(0);
      await asSuperuser('postgres', (db) => sql`drop database ${sql.id(name)} with (force)`.execute(db));
    }
  });
});
