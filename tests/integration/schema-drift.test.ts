// GET /tenants/:id/drift on real databases: tenants without a difference have none, and each difference is named, alone.
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import type { SchemaDifference } from '../../src/rollouts/schema-differences.js';
import { createDrift, type TenantDrift } from '../../src/rollouts/drift.js';
import { createTenantLocks } from '../../src/tenants/tenant-locks.js';
import { templateVersion } from '../../src/operations/template/building-template.js';
import { templateName } from '../../src/operations/template/template-names.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import {
  ADMIN,
  asSuperuser,
  startService,
  startServiceForTest,
  type Answer,
  type PageOf,
  type Problem,
  type TestService,
} from '../support/app.js';
import { startSecondCluster } from '../support/second-cluster.js';
import { migrateTenant, migrationsBefore, rebuildDatabase } from '../support/tenant-schemas.js';
import { rowOf } from '../support/tenants.js';

const SAME = { version: templateVersion, expectedVersion: templateVersion, behind: false, ahead: false };
const NONE = { ...SAME, total: 0, differences: [] };

let service: TestService;
let token: string;
let owner: string;

beforeAll(async () => {
  service = await startService({ env: { CLUSTER_HOSTS: '127.0.0.1,localhost' } });
  token = service.operatorToken;
  owner = service.config.tenants.provisioner.user;
});
afterAll(() => service.close());

function drift(id: string): Promise<Answer<TenantDrift & Problem & { detail: string }>> {
  return service.send('GET', `/tenants/${id}/drift`, { token });
}

async function openDatabases(): Promise<string[]> {
  return asSuperuser('postgres', async (db) => {
    const { rows } = await sql<{ name: string }>`
      select datname as name from pg_database where datallowconn`.execute(db);
    return rows.map(({ name }) => name);
  });
}

describe('a tenant has no difference', () => {
  it('when it was made from the template, which stays closed', async () => {
    const tenant = await service.createTenant();
    const answer = await drift(tenant.id);
    expect([answer.status, answer.body]).toEqual([200, NONE]);
    expect(await openDatabases()).not.toContain(templateName(tenantMigrations, owner));
  });

  it('when it is suspended or deleted, and its database stays closed', async () => {
    const tenant = await service.createTenant();
    const { dbName } = await rowOf(service, tenant);
    for (const [method, path] of [
      ['POST', '/suspend'],
      ['DELETE', ''],
    ] as const) {
      const done = await service.send(method, `/tenants/${tenant.id}${path}`, { token });
      expect(done.status).toBeLessThan(300);
      expect((await drift(tenant.id)).body).toEqual(NONE);
      expect(await openDatabases()).not.toContain(dbName);
    }
  });

  it('when it was adopted with tables, functions and extensions of its own', async () => {
    const database = `drift_${process.pid}`;
    await asSuperuser('postgres', (db) => sql`create database ${sql.id(database)} owner ${sql.id(owner)}`.execute(db));
    await asSuperuser(database, async (db) => {
      await sql`
        create schema tools;
        create extension pg_trgm with schema tools;
        create table invoices (number integer primary key);
        alter table invoices owner to ${sql.id(owner)};
        grant usage on schema tools to public;
        create type colour as enum ('red', 'green');
        create function total() returns integer language sql as 'select 1'`.execute(db);
    });
    const clusters = await service.send<PageOf<{ id: string }>>('GET', '/clusters', { token });
    const made = await service.send<{ id: string } & Problem>('POST', '/tenants', {
      token,
      body: { name: 'Adopted', admin: ADMIN, adopt: { clusterId: clusters.body.data[0]?.id, database } },
    });
    expect(made.status).toBe(201);
    expect((await drift(made.body.id)).body).toEqual(NONE);
    await asSuperuser(database, (db) => sql`alter table products add column colour colour`.execute(db));
    expect((await drift(made.body.id)).body.differences.map(({ object }) => object)).toEqual(['products.colour']);
  });
});

/** What is done to the database, what undoes it, and the one difference. `$runtime` and `$owner` are roles, `$db` is the database. */
type Break = readonly [what: string, done: string, undone: string, difference: SchemaDifference];

const FORMER_DEFINITION = 'CHECK ((stock_quantity >= 0))';
const INDEX = 'CREATE INDEX products_price_id ON public.products USING btree (price, id)';
const TRIGGER = 'CREATE TRIGGER stamp_audit BEFORE INSERT ON public.audit FOR EACH ROW EXECUTE FUNCTION stamp_audit()';

const breaks: readonly Break[] = [
  [
    'a column that was added',
    'alter table products add column colour text',
    'alter table products drop column colour',
    { kind: 'column', object: 'products.colour', expected: 'no such column', found: 'type text' },
  ],
  [
    'a column that was removed',
    'alter table roles drop column description',
    'alter table roles add column description text',
    { kind: 'column', object: 'roles.description', expected: 'type text', found: 'no such column' },
  ],
  [
    'a type that was changed',
    'alter table products alter column price type numeric(14, 2)',
    'alter table products alter column price type numeric(12, 2)',
    { kind: 'column', object: 'products.price', expected: 'type numeric(12,2)', found: 'type numeric(14,2)' },
  ],
  [
    'a default that was changed',
    'alter table products alter column active set default false',
    'alter table products alter column active set default true',
    { kind: 'column', object: 'products.active', expected: 'default true', found: 'default false' },
  ],
  [
    'a column that may be null',
    'alter table products alter column name drop not null',
    'alter table products alter column name set not null',
    { kind: 'column', object: 'products.name', expected: 'not null', found: 'nullable' },
  ],
  [
    'an identity that was added',
    'alter table products alter column stock_quantity drop default; alter table products alter column stock_quantity add generated by default as identity (sequence name products_numbers)',
    'alter table products alter column stock_quantity drop identity; alter table products alter column stock_quantity set default 0',
    {
      kind: 'column',
      object: 'products.stock_quantity',
      expected: 'default 0, no identity',
      found: 'no default, identity by default',
    },
  ],
  [
    'a constraint that was dropped',
    'alter table products drop constraint products_stock_not_negative',
    'alter table products add constraint products_stock_not_negative check (stock_quantity >= 0)',
    {
      kind: 'constraint',
      object: 'products.products_stock_not_negative',
      expected: FORMER_DEFINITION,
      found: 'no such constraint',
    },
  ],
  [
    'a constraint that says something else',
    'alter table products drop constraint products_stock_not_negative, add constraint products_stock_not_negative check (stock_quantity >= -1)',
    'alter table products drop constraint products_stock_not_negative, add constraint products_stock_not_negative check (stock_quantity >= 0)',
    {
      kind: 'constraint',
      object: 'products.products_stock_not_negative',
      expected: FORMER_DEFINITION,
      found: "CHECK ((stock_quantity >= '-1'::integer))",
    },
  ],
  [
    'a unique constraint that was dropped with its index',
    'alter table users drop constraint users_email_key',
    'alter table users add constraint users_email_key unique (email)',
    {
      kind: 'constraint',
      object: 'users.users_email_key',
      expected: 'UNIQUE (email)',
      found: 'no such constraint',
    },
  ],
  [
    'a foreign key whose triggers are disabled',
    'alter table sessions disable trigger all',
    'alter table sessions enable trigger all',
    {
      kind: 'constraint',
      object: 'sessions.sessions_account_id_fkey',
      expected: 'enabled',
      found: 'its triggers are disabled',
    },
  ],
  [
    'an index that was dropped',
    'drop index products_price_id',
    'create index products_price_id on products (price, id)',
    { kind: 'index', object: 'products_price_id', expected: INDEX, found: 'no such index' },
  ],
  [
    'an index that is not valid',
    "update pg_index set indisvalid = false where indexrelid = 'products_price_id'::regclass",
    "update pg_index set indisvalid = true where indexrelid = 'products_price_id'::regclass",
    { kind: 'index', object: 'products_price_id', expected: 'valid', found: 'not valid' },
  ],
  [
    'a table that was added',
    'create table extra (id integer primary key); alter table extra owner to $owner',
    'drop table extra',
    { kind: 'table', object: 'extra', expected: 'no such table', found: 'a table, owned by the provisioner' },
  ],
  [
    'a table that is not logged',
    'alter table idempotency_keys set unlogged',
    'alter table idempotency_keys set logged',
    { kind: 'table', object: 'idempotency_keys', expected: 'logged', found: 'unlogged' },
  ],
  [
    'another owner of a table',
    'alter table products owner to postgres',
    'alter table products owner to $owner',
    { kind: 'table', object: 'products', expected: 'owned by the provisioner', found: 'owned by postgres' },
  ],
  [
    "the tenant's role as the owner of a table",
    'alter table products owner to $runtime',
    'alter table products owner to $owner; grant select, insert, update, delete on products to $runtime',
    { kind: 'table', object: 'products', expected: 'owned by the provisioner', found: 'owned by the runtime role' },
  ],
  [
    'a sequence that was added',
    'create sequence numbers; alter sequence numbers owner to $owner',
    'drop sequence numbers',
    {
      kind: 'sequence',
      object: 'numbers',
      expected: 'no such sequence',
      found:
        'a sequence, owned by the provisioner, as bigint start 1 increment 1 minvalue 1 maxvalue 9223372036854775807 cache 1',
    },
  ],
  [
    'row security that was turned on',
    'alter table products enable row level security',
    'alter table products disable row level security',
    { kind: 'table', object: 'products', expected: 'row security off', found: 'row security on' },
  ],
  [
    'a policy',
    'create policy all_rows on products for select to $runtime using (active)',
    'drop policy all_rows on products',
    {
      kind: 'policy',
      object: 'products.all_rows',
      expected: 'no such policy',
      found: 'permissive for select to the runtime role using (active) with check ()',
    },
  ],
  [
    'a rule',
    'create rule quiet as on delete to products do instead nothing',
    'drop rule quiet on products',
    {
      kind: 'rule',
      object: 'products.quiet',
      expected: 'no such rule',
      found: 'CREATE RULE quiet AS ON DELETE TO public.products DO INSTEAD NOTHING;',
    },
  ],
  [
    'a trigger that is missing',
    'drop trigger stamp_audit on audit',
    'create trigger stamp_audit before insert on audit for each row execute function stamp_audit()',
    { kind: 'trigger', object: 'audit.stamp_audit', expected: TRIGGER, found: 'no such trigger' },
  ],
  [
    'a trigger that is disabled',
    'alter table audit disable trigger stamp_audit',
    'alter table audit enable trigger stamp_audit',
    { kind: 'trigger', object: 'audit.stamp_audit', expected: 'enabled', found: 'disabled' },
  ],
  [
    'a right that is missing',
    'revoke delete on products from $runtime',
    'grant delete on products to $runtime',
    {
      kind: 'grant',
      object: 'products',
      expected: 'the runtime role: DELETE, INSERT, SELECT, UPDATE',
      found: 'the runtime role: INSERT, SELECT, UPDATE',
    },
  ],
  [
    'a right on a table for PUBLIC',
    'grant select on products to public',
    'revoke select on products from public',
    { kind: 'grant', object: 'products', expected: 'PUBLIC: no rights', found: 'PUBLIC: SELECT' },
  ],
  [
    'a right on a column',
    'grant update (at) on audit to $runtime',
    'revoke update (at) on audit from $runtime',
    {
      kind: 'grant',
      object: 'audit.at',
      expected: 'the runtime role: no rights',
      found: 'the runtime role: UPDATE',
    },
  ],
  [
    'a right on the migrations for the role of the tenant',
    'grant usage on schema migration to $runtime',
    'revoke usage on schema migration from $runtime',
    {
      kind: 'grant',
      object: 'migration',
      expected: 'the runtime role: no rights',
      found: 'the runtime role: USAGE',
    },
  ],
  [
    'a right to create in the schema',
    'grant create on schema public to public',
    'revoke create on schema public from public',
    { kind: 'grant', object: 'public', expected: 'PUBLIC: no rights', found: 'PUBLIC: CREATE' },
  ],
  [
    'a right on the database for PUBLIC',
    'grant connect on database $db to public',
    'revoke connect on database $db from public',
    { kind: 'grant', object: 'the database', expected: 'PUBLIC: no rights', found: 'PUBLIC: CONNECT' },
  ],
  [
    'a right on a function that is missing',
    'revoke execute on function stamp_audit() from public',
    'grant execute on function stamp_audit() to public',
    { kind: 'grant', object: 'stamp_audit()', expected: 'PUBLIC: EXECUTE', found: 'PUBLIC: no rights' },
  ],
  [
    'a right on what is made later',
    'alter default privileges for role $owner in schema public grant select on tables to public',
    'alter default privileges for role $owner in schema public revoke select on tables from public',
    {
      kind: 'default privilege',
      object: 'tables that the provisioner makes in public',
      expected: 'no such default privilege',
      found: 'PUBLIC: SELECT',
    },
  ],
  [
    'a schema that was added',
    'create schema other authorization $owner; create table other.things (id integer)',
    'drop schema other cascade',
    { kind: 'schema', object: 'other', expected: 'no such schema', found: 'owned by the provisioner' },
  ],
  [
    'an extension that was added',
    'create extension btree_gin',
    'drop extension btree_gin',
    { kind: 'extension', object: 'btree_gin', expected: 'no such extension', found: 'an extension' },
  ],
  [
    'a type that was added',
    "create type colour as enum ('red', 'green'); alter type colour owner to $owner",
    'drop type colour',
    {
      kind: 'type',
      object: 'colour',
      expected: 'no such type',
      found: "an enum, owned by the provisioner, 'red', 'green'",
    },
  ],
];

describe('one difference', () => {
  let id: string;
  let database: string;
  let runtime: string;

  beforeAll(async () => {
    ({ id } = await service.createTenant());
    const row = await rowOf(service, { id });
    [database, runtime] = [row.dbName, row.dbUser];
  });

  const run = (text: string): Promise<unknown> =>
    asSuperuser(database, async (db) => {
      const named = text
        .replaceAll('$runtime', `"${runtime}"`)
        .replaceAll('$owner', `"${owner}"`)
        .replaceAll('$db', `"${database}"`);
      await sql.raw(named).execute(db);
    });

  it.each(breaks)('is named and no other: %s', async (_what, done, undone, difference) => {
    await run(done);
    try {
      expect((await drift(id)).body).toEqual({ ...SAME, total: 1, differences: [difference] });
    } finally {
      await run(undone);
    }
    expect((await drift(id)).body, 'it is undone').toEqual(NONE);
  });

  it('is named and no other: a function that does something else', async () => {
    const { rows } = await asSuperuser(database, (db) =>
      sql<{ text: string }>`select pg_get_functiondef('stamp_audit'::regproc) as text`.execute(db),
    );
    const text = rows[0]?.text ?? '';
    await run(text.replace('new.at := moment;', 'new.at := now();'));
    const { differences, total } = (await drift(id)).body;
    await run(text);
    expect([total, differences[0]?.kind, differences[0]?.object]).toEqual([1, 'function', 'stamp_audit()']);
    expect(differences[0]?.expected).toContain('new.at := moment;');
    expect(differences[0]?.found).toContain('new.at := now();');
    expect((await drift(id)).body, 'it is undone').toEqual(NONE);
  });

  it('is named and no other: a view that says something else', async () => {
    const view = (needs: string): string =>
      `create or replace view tenant_schema_version as select max(name) as name, ${needs} as needs from migration.kysely_migration`;
    await run(view("'none'::text"));
    const { differences, total } = (await drift(id)).body;
    await run(view('max(needs)'));
    expect([total, differences[0]?.kind, differences[0]?.object]).toEqual([1, 'view', 'tenant_schema_version']);
    expect(differences[0]?.expected).toContain('max(');
    expect(differences[0]?.found).toContain("'none'::text AS needs");
    expect((await drift(id)).body, 'it is undone').toEqual(NONE);
  });
});

describe('tenants side by side', () => {
  it('are made from the template while it is read', async () => {
    const { id } = await service.createTenant();
    // An engine that has not read the template.
    const other = await startServiceForTest({ registry: service.config.registry.connection.database, operator: false });
    const [found, again, ...made] = await Promise.all([
      other.app.engine.drift.compareTenant(id),
      other.app.engine.drift.compareTenant(id),
      service.createTenant(),
      service.createTenant(),
    ]);
    expect([found, again]).toEqual([NONE, NONE]);
    for (const tenant of made) expect((await drift(tenant.id)).body).toEqual(NONE);
    expect(await openDatabases()).not.toContain(templateName(tenantMigrations, owner));
  });

  it('are compared each with the template, and a wave names the first difference', async () => {
    const [one, other, behind] = [
      await service.createTenant(),
      await service.createTenant(),
      await service.createTenant(),
    ];
    const { dbName } = await rowOf(service, other);
    await asSuperuser(dbName, (db) => sql`drop index products_price_id`.execute(db));
    const answers = await Promise.all([one, other, one, other].map(({ id }) => drift(id)));
    expect(answers.map(({ body }) => body.total)).toEqual([0, 1, 0, 1]);

    await rebuildDatabase(service, behind, migrationsBefore(templateVersion));
    const { body } = await drift(behind.id);
    expect(body).toMatchObject({ behind: true, ahead: false, expectedVersion: templateVersion, total: 0 });
    expect(body.version).toBe(Object.keys(migrationsBefore(templateVersion)).sort().at(-1));

    const unknown = { id: '01900000-0000-7000-8000-000000000099', slug: 'gone' };
    const tenants = [unknown, one, other, behind];
    const check = await service.app.engine.compareTenants(tenants, { atOnce: 3 });
    expect(check).toMatchObject({ compared: 3, differing: 2, failed: 1 });
    expect(check.first).toBe(`${other.slug} (${other.id}): products_price_id: expected ${INDEX}, found no such index`);
    const stopped = await service.app.engine.compareTenants(tenants, { signal: AbortSignal.abort() });
    expect(stopped).toEqual({ compared: 0, differing: 0, failed: 0 });

    // As a former build's migrator left it.
    const row = await rowOf(service, behind);
    await asSuperuser(row.dbName, (db) =>
      sql`create table migration.kysely_migration_lock (id varchar(255) primary key, is_locked integer)`.execute(db),
    );
    await migrateTenant(service, behind);
    expect((await drift(behind.id)).body, 'a migrated database is as a new one').toEqual(NONE);
  });
});

it('answers 404 for a tenant that is not there, and 409 for a database of another role or with the mark of another tenant', async () => {
  expect((await drift('01900000-0000-7000-8000-000000000099')).status).toBe(404);
  const tenant = await service.createTenant();
  const { dbName } = await rowOf(service, tenant);
  const other = `tenantry 00000000-0000-0000-0000-000000000000 ${tenant.id} tenant`;
  for (const [statement, why] of [
    [sql`alter database ${sql.id(dbName)} owner to postgres`, 'it belongs to another role'],
    [
      sql`alter database ${sql.id(dbName)} owner to ${sql.id(owner)};
        comment on database ${sql.id(dbName)} is ${sql.lit(other)}`,
      'it carries the mark',
    ],
  ] as const) {
    await asSuperuser('postgres', (db) => statement.execute(db));
    const answer = await drift(tenant.id);
    expect([answer.status, answer.body.code]).toEqual([409, 'tenant-state']);
    expect(answer.body.detail).toContain(why);
  }
});

it('answers 503 with a reason if no cluster is registered at the server, or the server does not answer in time', async () => {
  const { id } = await service.createTenant();
  const { registry, installation, lockSession } = service.app.engine;
  const shared = {
    registry,
    installation,
    locks: createTenantLocks(lockSession),
    ensureTemplate: () => expect.fail('there is no server'),
    deadline: 100,
  };
  const unknown = createDrift({ ...shared, enter: () => Promise.resolve(undefined), deadline: 30_000 });
  await expect(unknown.compareTenant(id)).rejects.toMatchObject({
    status: 503,
    detail: 'The database of the tenant could not be compared: no cluster is registered at the address of its server.',
  });
  const hung = createDrift({ ...shared, enter: () => new Promise(() => undefined) });
  await expect(hung.compareTenant(id)).rejects.toMatchObject({
    status: 503,
    detail: 'The database of the tenant could not be compared: its server did not answer in time.',
  });
});

it('answers 503 with a reason while the server of the tenant is stopped', async () => {
  const second = await startSecondCluster('drifting');
  onTestFinished(() => second.stop());
  const cluster = await service.send<{ id: string }>('POST', '/clusters', { token, body: second.body });
  expect(cluster.status).toBe(201);
  const made = await service.send<{ id: string }>('POST', '/tenants', {
    token,
    body: { name: 'Far', admin: ADMIN, clusterId: cluster.body.id },
  });
  expect((await drift(made.body.id)).body).toEqual(NONE);
  // A template that is missing is made again.
  const template = templateName(tenantMigrations, second.provisioner.user);
  await second.asSuperuser('postgres', (db) => sql`drop database ${sql.id(template)}`.execute(db));
  expect((await drift(made.body.id)).body).toEqual(NONE);
  expect(await second.databases()).toContain(template);
  await second.stop();
  const answer = await drift(made.body.id);
  expect([answer.status, answer.body.code]).toEqual([503, 'unavailable']);
  expect(answer.body.detail).toMatch(/^The database of the tenant could not be compared: a database could not be used/);
  expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0);
});
