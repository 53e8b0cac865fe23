// Adopting an existing database: it becomes a tenant with its content, and a failed adoption leaves it as it was.
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { markText } from '../../db/server/marks.js';
import {
  ADMIN,
  asSuperuser,
  startService,
  type Answer,
  type PageOf,
  type Problem,
  type TestService,
} from '../support/app.js';
import { finishOperations } from '../support/operations.js';
import { rowOf } from '../support/tenants.js';

interface Made {
  id: string;
  clusterId: string;
  status: string;
}

let service: TestService;
let token: string;
let clusterId: string;
let owner: string;
let names = 0;

beforeAll(async () => {
  service = await startService();
  token = service.operatorToken;
  owner = service.config.tenants.provisioner.user;
  const clusters = await service.send<PageOf<{ id: string }>>('GET', '/clusters', { token });
  clusterId = clusters.body.data[0]?.id ?? '';
});
afterAll(() => service.close());

/** A database with a table of its own and two rows in it, handed to the provisioner. */
async function prepare(statements = '', handOver = true): Promise<string> {
  const database = `legacy_${process.pid}_${(names += 1)}`;
  await asSuperuser('postgres', (db) => sql`create database ${sql.id(database)}`.execute(db));
  if (handOver)
    await asSuperuser('postgres', (db) =>
      sql`alter database ${sql.id(database)} owner to ${sql.id(owner)}`.execute(db),
    );
  await asSuperuser(database, async (db) => {
    await sql`create table invoices (number integer primary key)`.execute(db);
    await sql`insert into invoices values (1), (2)`.execute(db);
    await sql`alter table invoices owner to ${sql.id(owner)}`.execute(db);
    if (statements !== '') await sql.raw(statements).execute(db);
  });
  return database;
}

function adopt(
  database: string,
  slug: string,
  more: object = {},
): Promise<Answer<Made & Problem & { detail: string }>> {
  return service.send('POST', '/tenants', {
    token,
    body: { name: slug, slug, admin: ADMIN, adopt: { clusterId, database }, ...more },
  });
}

/** Sets an adoption back to before its last step, as if its process had died there. @returns the role */
async function cutShort(id: string): Promise<string> {
  const { dbName, dbUser } = await rowOf(service, { id });
  await service.app.engine.tenantPools.retire(id);
  // All steps but the last one are done, and the row does not name the database yet.
  await service.app.engine.registry
    .updateTable('tenants')
    .set({ status: 'provisioning', db_name: dbUser, adopts: dbName, generation: 1 })
    .where('id', '=', id)
    .execute();
  return dbUser;
}

/** Sets an adoption back to before the database was marked, and lets another worker undo it. @returns the role */
async function clearAway(id: string): Promise<string> {
  const { dbName } = await rowOf(service, { id });
  const role = await cutShort(id);
  await asSuperuser('postgres', (db) => sql`comment on database ${sql.id(dbName)} is null`.execute(db));
  await finishOperations(service.app.engine);
  expect(await findTenant(service.app.engine.registry, id)).toBeUndefined();
  return role;
}

/** What can be seen of a database from outside, and its tables with their rows. */
async function stateOf(database: string): Promise<unknown> {
  const outside = await asSuperuser('postgres', async (db) => {
    const { rows } = await sql`
      select pg_get_userbyid(datdba) as owner, datallowconn, array(
        select privilege_type || ' ' || grantee::text
        from aclexplode(coalesce(datacl, acldefault('d', datdba))) order by 1) as rights
      from pg_database where datname = ${database}`.execute(db);
    return rows;
  });
  const inside = await asSuperuser(database, async (db) => {
    const { rows: tables } = await sql`
      select schemaname || '.' || tablename as name from pg_tables
      where schemaname not in ('pg_catalog', 'information_schema') order by 1`.execute(db);
    const { rows: invoices } = await sql`select number from invoices order by 1`.execute(db);
    return { tables, invoices };
  });
  return { outside, inside };
}

function roles(): Promise<string[]> {
  return asSuperuser('postgres', async (db) => {
    const { rows } = await sql<{
      name: string;
    }>`select rolname as name from pg_roles where rolname like 'tn\_%'`.execute(db);
    return rows.map(({ name }) => name).sort();
  });
}

describe('a database that is adopted', () => {
  it('becomes a tenant with its rows, with a role of the usual rights, and without rights for PUBLIC', async () => {
    const database = await prepare();
    const answer = await adopt(database, 'adopted');
    expect([answer.status, answer.body.status, answer.body.clusterId]).toEqual([201, 'active', clusterId]);
    const row = await findTenant(service.app.engine.registry, answer.body.id);
    expect(row).toMatchObject({ dbName: database, clusterId });

    const { email, password } = ADMIN;
    const admin = await service.send<{ accessToken: string }>('POST', '/auth/login', {
      body: { tenant: 'adopted', email, password },
    });
    expect(admin.status).toBe(200);
    const product = { name: 'First', price: '1' };
    expect((await service.send('POST', '/products', { token: admin.body.accessToken, body: product })).status).toBe(
      201,
    );

    const tenantDb = service.app.engine.tenantPools.database(answer.body.id);
    const { rows } = await sql`select number from invoices order by 1`.execute(tenantDb);
    expect(rows).toEqual([{ number: 1 }, { number: 2 }]);
    await expect(sql`create table mine (id integer)`.execute(tenantDb)).rejects.toMatchObject({ reason: '42501' });
    await expect(sql`delete from tenant_marker`.execute(tenantDb)).rejects.toMatchObject({ reason: '42501' });
    const { rows: open } = await asSuperuser('postgres', (db) =>
      sql`select privilege_type from pg_database, aclexplode(datacl) where datname = ${database} and grantee = 0`.execute(
        db,
      ),
    );
    expect(open).toEqual([]);
    const audited = await service.app.engine.registry
      .selectFrom('audit')
      .select('details')
      .where('target_id', '=', answer.body.id)
      .where('action', '=', 'tenant.created')
      .executeTakeFirst();
    expect(audited?.details).toEqual({ adopted: true });
  });

  it('is refused for a second tenant', async () => {
    const database = await prepare();
    expect((await adopt(database, 'first-owner')).status).toBe(201);
    const again = await adopt(database, 'second-owner');
    expect([again.status, again.body.code]).toEqual([422, 'not-adoptable']);
  });
});

describe('a database that cannot be adopted', () => {
  const refused: [string, () => Promise<string>, string][] = [
    ['is not there', async () => Promise.resolve('no_such_database'), 'no database of this name'],
    ['belongs to somebody else', () => prepare('', false), 'does not own'],
    ['is the server’s own', async () => Promise.resolve('template1'), 'system database'],
    ['is marked as another tenant’s', () => prepare(marked), "another tenant's"],
    ['has a name of a template', () => rename(`tenantry_template_${process.pid}`), 'its name is reserved'],
    ['has a name of a tenant’s database', () => rename(`tn_${'0'.repeat(32)}`), 'its name is reserved'],
    ['carries the mark of another tenant', () => comment(), "another tenant's"],
    ['needs a newer build', () => prepare(needing), 'needs one that knows 9999_newer'],
    ['is a registry', () => prepare('create table operators (id int); create table tenants (id int)'), 'a registry'],
    [
      'lets other roles in',
      async () => {
        const database = await prepare();
        await asSuperuser('postgres', (db) =>
          sql`grant connect on database ${sql.id(database)} to pg_monitor`.execute(db),
        );
        return database;
      },
      'other roles',
    ],
    [
      'lets nobody in',
      async () => {
        const database = await prepare();
        await asSuperuser('postgres', (db) =>
          sql`alter database ${sql.id(database)} allow_connections false`.execute(db),
        );
        return database;
      },
      'does not allow connections',
    ],
  ];
  it.each(refused)('is refused with 422 because it %s', async (_why, make, reason) => {
    const answer = await adopt(await make(), 'never');
    expect([answer.status, answer.body.code]).toEqual([422, 'not-adoptable']);
    expect(answer.body.detail).toContain(reason);
    // The row is the first step: without it there is no role either.
    const rows = await service.app.engine.registry
      .selectFrom('tenants')
      .select('id')
      .where('slug', '=', 'never')
      .execute();
    expect(rows).toEqual([]);
  });

  it('is refused if the cluster is unknown, or if another cluster or region is given too', async () => {
    const unknown = { clusterId: '01900000-0000-7000-8000-00000000ffff', database: 'x' };
    expect((await adopt('x', 'never', { adopt: unknown })).body.code).toBe('no-cluster');
    expect((await adopt('x', 'never', { region: 'eu' })).status).toBe(400);
    expect((await adopt('x', 'never', { clusterId })).status).toBe(400);
  });
});

describe('an adoption that fails', () => {
  it.each([
    ['in the migrations', 'create table users (id integer)', 503, 'adoption-failed'],
    ['where the slug is taken', '', 409, 'slug-taken'],
  ])('%s leaves the database as it was, and no role and no row', async (_where, statements, status, code) => {
    await adopt(await prepare(), 'taken-slug');
    const database = await prepare(statements);
    const before = await stateOf(database);
    const slug = code === 'slug-taken' ? 'taken-slug' : 'failing';
    const answer = await adopt(database, slug);
    expect([answer.status, answer.body.code]).toEqual([status, code]);
    const after = (await stateOf(database)) as { inside: { tables: { name: string }[] } };
    // Only the migrator's own tables stay.
    after.inside.tables = after.inside.tables.filter(({ name }) => !name.startsWith('migration.'));
    expect(after).toEqual(before);
    // The undo removes the row last: if the row is gone, the role is gone too.
    const rows = await service.app.engine.registry
      .selectFrom('tenants')
      .select('id')
      .where('slug', '=', 'failing')
      .execute();
    expect(rows).toEqual([]);
  });

  it('because its process died early is undone like any creation, and the database stays', async () => {
    const database = await prepare();
    const made = await adopt(database, 'cut-short');
    expect(made.status).toBe(201);
    const role = await clearAway(made.body.id);
    expect(await roles()).not.toContain(role);
    expect(await stateOf(database)).toMatchObject({ inside: { invoices: [{ number: 1 }, { number: 2 }] } });
    const again = await adopt(database, 'cut-short', { admin: { ...ADMIN, email: 'another@example.com' } });
    expect([again.status, again.text]).toEqual([201, again.text]);
  });

  it('because its process died after the database was marked is completed', async () => {
    const database = await prepare();
    const { id } = (await adopt(database, 'nearly-adopted')).body;
    await cutShort(id);
    await finishOperations(service.app.engine);
    expect(await findTenant(service.app.engine.registry, id)).toMatchObject({ status: 'active', dbName: database });
    const { email, password } = ADMIN;
    const body = { tenant: 'nearly-adopted', email, password };
    expect((await service.send('POST', '/auth/login', { body })).status).toBe(200);
  });

  it('because the admin’s address is in the database already gets 409, and succeeds with another address', async () => {
    const database = await prepare();
    const first = await adopt(database, 'with-users');
    await clearAway(first.body.id);
    const answer = await adopt(database, 'with-users');
    expect([answer.status, answer.body.code]).toEqual([409, 'email-taken']);
    expect((await adopt(database, 'with-users', { admin: { ...ADMIN, email: 'b@example.com' } })).status).toBe(201);
  });
});

async function rename(to: string): Promise<string> {
  const database = await prepare();
  await asSuperuser('postgres', (db) => sql`alter database ${sql.id(database)} rename to ${sql.id(to)}`.execute(db));
  return to;
}

async function comment(): Promise<string> {
  const database = await prepare();
  const id = '01900000-0000-7000-8000-00000000ffff';
  const mark = markText({ installation: id, id, state: 'tenant', claim: id, generation: 1 });
  await asSuperuser('postgres', (db) => sql`comment on database ${sql.id(database)} is ${sql.lit(mark)}`.execute(db));
  return database;
}

const marked = `create table tenant_marker (only_row boolean primary key default true, tenant_id uuid not null);
  insert into tenant_marker (tenant_id) values ('01900000-0000-7000-8000-00000000ffff');
  alter table tenant_marker owner to provisioner`;

const needing = `create schema migration authorization provisioner;
  create table migration.kysely_migration (name text, timestamp text, hash text, needs text);
  insert into migration.kysely_migration values ('9999_newer', '', null, '9999_newer');
  alter table migration.kysely_migration owner to provisioner`;
