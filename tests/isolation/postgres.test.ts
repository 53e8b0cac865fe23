// Isolation as PostgreSQL enforces it: what a tenant's runtime role can try with its own password, who may enter which
// database, who owns what, and where no secret may ever appear. docs/isolation.md is the prose of this file.
import { sql, type Kysely } from 'kysely';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import type { Registry } from '../../db/central/schema.js';
import { findTenant, type TenantRecord } from '../../db/central/tenants.js';
import type { DatabaseHandle } from '../../db/client.js';
import { createRuntimeRole } from '../../db/cluster.js';
import { DatabaseFault, hasSqlState } from '../../db/errors.js';
import { scramVerifier } from '../../db/scram.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { createEnvelope } from '../../src/tenancy/envelope.js';
import { templateName } from '../../src/tenancy/template.js';
import {
  ADMIN,
  asSuperuser,
  connectAs,
  createRegistry,
  OPERATOR,
  startService,
  tokenSecretsOf,
  type TestService,
  type TestTenant,
} from '../support/app.js';

const { superuser, registryOwner, registryService, provisioner, registryTemplate, logFile } = inject('cluster');

/** A tenant with everything that its runtime role is reached by. */
interface Reached {
  readonly tenant: TestTenant;
  readonly row: TenantRecord;
  readonly password: string;
}

const lines: string[] = [];
let registry: string;
let service: TestService;
let a: Reached;
let b: Reached;
/** As the runtime role of tenant A, in its own database. */
let asA: DatabaseHandle<unknown>;

beforeAll(async () => {
  registry = await createRegistry();
  // The copy that a test works on gets PUBLIC's rights back, as every new database does; the original is checked below.
  await asSuperuser(registry, (db) => sql`revoke all on database ${sql.id(registry)} from public`.execute(db));
  service = await startService({
    registry,
    env: { LOG_LEVEL: 'trace' },
    overrides: {
      logStream: { write: (line) => void lines.push(line) },
      afterProvisioningStep: (step) => {
        if (step === failAt) throw new Error('made to fail');
      },
    },
  });
  a = await reach(await service.createTenant('isolated-a'));
  b = await reach(await service.createTenant('isolated-b'));
  asA = enter(a, a.row.dbName);
});
afterAll(async () => {
  await asA.close(0);
  await service.close();
});

let failAt: string | undefined;

async function reach(tenant: TestTenant): Promise<Reached> {
  const row = await findTenant(service.app.registry, tenant.id);
  if (!row) throw new Error('the tenant has no row');
  const context = { id: row.id, host: row.dbHost, port: row.dbPort, user: row.dbUser };
  return { tenant, row, password: createEnvelope(service.config.encryptionKeys).open(row.dbPassword, context) };
}

function enter({ row, password }: Reached, database: string): DatabaseHandle<unknown> {
  return connectAs(database, { host: row.dbHost, port: row.dbPort, user: row.dbUser, password });
}

describe('a tenant’s role enters its own database and no other:', () => {
  it('its own', async () => {
    const { rows } = await sql`select current_user, current_database(), tenant_id from tenant_marker`.execute(asA.db);
    expect(rows).toEqual([{ current_user: a.row.dbUser, current_database: a.row.dbName, tenant_id: a.row.id }]);
  });

  it.each<[string, () => string, string]>([
    ['another tenant’s', () => b.row.dbName, '42501'],
    ['the registry', () => registry, '42501'],
    ['the registry that the run began with', () => registryTemplate, '42501'],
    ['postgres', () => 'postgres', '42501'],
    ['template1', () => 'template1', '42501'],
    ['template0', () => 'template0', '55000'],
    ['the template of tenant databases', () => templateName(tenantMigrations, provisioner.user), '55000'],
  ])('not %s', async (_what, database, sqlState) => {
    const handle = enter(a, database());
    const error: unknown = await sql`select 1`.execute(handle.db).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    await handle.close(0);
    expect(error).toBeInstanceOf(DatabaseFault);
    expect(error).toMatchObject({ kind: 'unavailable', reason: sqlState });
  });
});

const DENIED = '42501';

describe('a tenant’s role is refused:', () => {
  it.each<[string, string]>([
    ['a table', 'create table mine (id integer)'],
    ['a table in a schema of its own making', 'create schema mine'],
    ['a temporary table', 'create temporary table mine (id integer)'],
    ['a view', 'create view mine as select 1'],
    ['a function', 'create function mine() returns integer language sql as $$ select 1 $$'],
    ['a type', "create type mine as enum ('a')"],
    ['a sequence', 'create sequence mine'],
    ['an extension, a trusted one too', 'create extension citext'],
    [
      'an event trigger',
      'create event trigger mine on ddl_command_start execute function pg_catalog.suppress_redundant_updates_trigger()',
    ],
    ['a publication', 'create publication mine for table products'],
    ['an index', 'create index mine on products (name)'],
    [
      'a trigger',
      'create trigger mine before update on products execute function suppress_redundant_updates_trigger()',
    ],
    ['a policy', 'create policy mine on products'],
    ['a changed table', 'alter table products add column mine integer'],
    ['a disabled constraint', 'alter table products drop constraint products_stock_not_negative'],
    ['a disabled trigger', 'alter table users disable trigger all'],
    ['a dropped table', 'drop table products'],
    ['a truncated table', 'truncate products'],
    ['a taken ownership', 'alter table products owner to current_user'],
    ['a comment on its database', 'comment on database %A is $$mine$$'],
    ['a renamed database', 'alter database %A rename to mine'],
    ['a setting of its database', "alter database %A set statement_timeout = '0'"],
    ['a dropped database', 'drop database %B with (force)'],
    ['a new database', 'create database mine'],
    ['a copy of a tenant’s database', 'create database mine template %B'],
    ['a new role', 'create role mine login'],
    ['more rights for itself', 'alter role current_user createdb'],
    ['a larger connection limit', 'alter role current_user connection limit -1'],
    ['another tenant’s password', "alter role %B password 'mine'"],
    ['the provisioner’s role', 'set role %P'],
    ['another tenant’s role', 'set role %B'],
    ['the provisioner’s session', 'set session authorization %P'],
    ['a predefined role', 'set role pg_read_all_data'],
    ['membership in the provisioner', 'grant %P to current_user'],
    ['a program on the server', 'copy products to program $$true$$'],
    ['a program’s output', 'copy products from program $$true$$'],
    ['a file on the server', 'copy products to $$/tmp/mine$$'],
    ['the server’s files', 'select pg_read_file($$postgresql.conf$$)'],
    ['the server’s folders', 'select pg_ls_dir($$.$$)'],
    ['an imported file', 'select lo_import($$/etc/passwd$$)'],
    ['an exported file', 'select lo_export(1, $$/tmp/mine$$)'],
    ['password verifiers', 'select rolpassword from pg_authid'],
    ['pg_shadow', 'select passwd from pg_shadow'],
    ['the access rules', 'select * from pg_hba_file_rules'],
    ['where the data lies', "select current_setting('data_directory')"],
    ['the server’s configuration', 'alter system set work_mem = $$1GB$$'],
    ['reading it again', 'select pg_reload_conf()'],
    ['writing past triggers and foreign keys', 'set session_replication_role = replica'],
    ['logging', 'set log_statement = $$all$$'],
    ['a replication slot', 'select pg_create_physical_replication_slot($$mine$$)'],
    ['another WAL file', 'select pg_switch_wal()'],
    ['the marker, inserted', 'insert into tenant_marker (only_row, tenant_id) values (true, gen_random_uuid())'],
    ['the marker, changed', 'update tenant_marker set tenant_id = gen_random_uuid()'],
    ['the marker, removed', 'delete from tenant_marker'],
    ['the migrator’s schema', 'select * from migration.kysely_migration'],
    ['the migrator’s lock', 'update migration.kysely_migration_lock set is_locked = 1'],
  ])('%s', async (_what, statement) => {
    const named = statement.replace('%A', a.row.dbName).replace('%B', b.row.dbName).replace('%P', provisioner.user);
    const error: unknown = await sql
      .raw(named)
      .execute(asA.db)
      .then(
        () => undefined,
        (thrown: unknown) => thrown,
      );
    expect(error, 'PostgreSQL did it').toBeDefined();
    expect(hasSqlState(error, DENIED), String(error)).toBe(true);
  });

  it('the end of sessions that are not its own', async () => {
    const others = [
      enter(b, b.row.dbName),
      connectAs<unknown>('postgres', provisioner),
      connectAs<unknown>('postgres'),
    ];
    try {
      for (const { db } of others) {
        const pid = await backendOf(db);
        for (const end of ['pg_terminate_backend', 'pg_cancel_backend']) {
          const ended = sql`select ${sql.raw(end)}(${pid}::integer)`.execute(asA.db);
          await expect(ended, end).rejects.toMatchObject({ code: DENIED });
        }
        expect(await backendOf(db)).toBe(pid);
      }
    } finally {
      await Promise.all(others.map((handle) => handle.close(0)));
    }
  });

  it('the text of others’ queries', async () => {
    const { rows } = await sql<{ query: string }>`
      select distinct query from pg_stat_activity where usename <> current_user`.execute(asA.db);
    expect(rows).not.toEqual([]);
    expect(
      rows.map(({ query }) => query).filter((query) => query !== '<insufficient privilege>' && query !== ''),
    ).toEqual([]);
  });

  it('rights to give away', async () => {
    await sql`grant select on products to public`.execute(asA.db);
    const { rows } = await asSuperuser(a.row.dbName, (db) =>
      sql`select grantee from information_schema.role_table_grants where table_schema = 'public' and grantee = 'PUBLIC'`.execute(
        db,
      ),
    );
    expect(rows).toEqual([]);
  });
});

describe('a tenant’s role', () => {
  it('may log in, and do nothing else beyond its grants', async () => {
    const { rows } = await asSuperuser('postgres', (db) =>
      sql`select rolcanlogin, rolinherit, rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls, rolconnlimit
          from pg_roles where rolname = ${a.row.dbUser}`.execute(db),
    );
    expect(rows).toEqual([
      {
        rolcanlogin: true,
        rolinherit: false,
        rolsuper: false,
        rolcreatedb: false,
        rolcreaterole: false,
        rolreplication: false,
        rolbypassrls: false,
        rolconnlimit: expect.toSatisfy((limit: number) => limit > 0) as unknown,
      },
    ]);
  });

  it('owns nothing, in no database of the server', async () => {
    const { rows } = await asSuperuser('postgres', (db) =>
      sql`select classid::regclass as kind, objid from pg_shdepend
          where refclassid = 'pg_authid'::regclass and deptype = 'o' and refobjid = ${a.row.dbUser}::regrole`.execute(
        db,
      ),
    );
    expect(rows).toEqual([]);
  });

  it('is a member of no role; the provisioner is a member of it, and cannot become it', async () => {
    const { rows } = await asSuperuser('postgres', (db) =>
      sql<{ role: string; member: string }>`
        select roleid::regrole::text as role, member::regrole::text as member from pg_auth_members
        where ${a.row.dbUser}::regrole in (roleid, member)`.execute(db),
    );
    expect(new Set(rows.map(({ role, member }) => `${member} in ${role}`))).toEqual(
      new Set([`${provisioner.user} in ${a.row.dbUser}`]),
    );
    const asProvisioner = connectAs<unknown>('postgres', provisioner);
    try {
      await expect(sql`set role ${sql.id(a.row.dbUser)}`.execute(asProvisioner.db)).rejects.toMatchObject({
        code: DENIED,
      });
    } finally {
      await asProvisioner.close(0);
    }
  });

  it('may read and write rows of every table, only read the marker, only add to the audit, and do nothing with the migrator’s', async () => {
    const { rows } = await asSuperuser(a.row.dbName, (db) =>
      sql<{ table: string; rights: string[] }>`
        select c.oid::regclass::text as table,
               array(select acl.privilege_type::text from aclexplode(c.relacl) acl
                     where acl.grantee = ${a.row.dbUser}::regrole order by 1) as rights
        from pg_class c where c.relkind = 'r' and c.relnamespace <> all (array['pg_catalog', 'information_schema']::regnamespace[])
        order by 1`.execute(db),
    );
    const all = ['DELETE', 'INSERT', 'SELECT', 'UPDATE'];
    const fewer: Readonly<Record<string, readonly string[]>> = {
      tenant_marker: ['SELECT'],
      audit: ['INSERT', 'SELECT'],
    };
    expect(rows.map(({ table }) => table)).toEqual(
      expect.arrayContaining(['products', 'users', ...Object.keys(fewer)]),
    );
    for (const { table, rights } of rows) {
      if (table.startsWith('migration.')) expect(rights, table).toEqual([]);
      else expect(rights, table).toEqual(fewer[table] ?? all);
    }
  });

  it('may connect to its database and use its schema, and create in neither', async () => {
    const { rows } = await sql`
      select has_database_privilege(current_database(), 'CONNECT') as connect,
             has_database_privilege(current_database(), 'CREATE') as create,
             has_database_privilege(current_database(), 'TEMP') as temp,
             has_schema_privilege('public', 'USAGE') as use_public,
             has_schema_privilege('public', 'CREATE') as create_in_public,
             has_schema_privilege('migration', 'USAGE') as use_migration`.execute(asA.db);
    expect(rows).toEqual([
      { connect: true, create: false, temp: false, use_public: true, create_in_public: false, use_migration: false },
    ]);
  });
});

describe('the server', () => {
  it('lets PUBLIC into no database of the installation, nor into postgres and template1', async () => {
    const template = templateName(tenantMigrations, provisioner.user);
    const expected = [registryTemplate, registry, a.row.dbName, b.row.dbName, template, 'postgres', 'template1'];
    const { rows } = await asSuperuser('postgres', (db) =>
      sql<{ name: string; open: boolean }>`
        select datname as name, datacl is null or exists (select from aclexplode(datacl) where grantee = 0) as open
        from pg_database where datname = any(${expected})`.execute(db),
    );
    expect(Object.fromEntries(rows.map(({ name, open }) => [name, open]))).toEqual(
      Object.fromEntries(expected.map((name) => [name, false])),
    );
  });

  it('keeps the template closed to everybody', async () => {
    const { rows } = await asSuperuser('postgres', (db) =>
      sql`select datallowconn from pg_database where datname = ${templateName(tenantMigrations, provisioner.user)}`.execute(
        db,
      ),
    );
    expect(rows).toEqual([{ datallowconn: false }]);
  });

  it('has a provisioner that is no superuser and owns databases and tables', async () => {
    const { rows } = await asSuperuser(a.row.dbName, (db) =>
      sql`select rolsuper, rolcreatedb, rolcreaterole, rolreplication, rolbypassrls,
            (select array_agg(datname::text order by datname) from pg_database
             where datdba = r.oid and datname in (${a.row.dbName}, ${b.row.dbName}, ${registry})) as databases,
            (select array_agg(distinct pg_get_userbyid(relowner)::text) from pg_class
             where relnamespace::regnamespace::text in ('public', 'migration')) as owners
          from pg_roles r where rolname = ${provisioner.user}`.execute(db),
    );
    expect(rows).toEqual([
      {
        rolsuper: false,
        rolcreatedb: true,
        rolcreaterole: true,
        rolreplication: false,
        rolbypassrls: false,
        databases: [a.row.dbName, b.row.dbName].sort(),
        owners: [provisioner.user],
      },
    ]);
  });

  it('keeps the provisioner out of the registry', async () => {
    const handle = connectAs<unknown>(registryTemplate, provisioner);
    await expect(sql`select 1`.execute(handle.db)).rejects.toMatchObject({ reason: DENIED });
    await handle.close(0);
  });

  it('stores a SCRAM verifier for the tenant’s password', async () => {
    const { rows } = await asSuperuser('postgres', (db) =>
      sql<{ rolpassword: string }>`select rolpassword from pg_authid where rolname = ${a.row.dbUser}`.execute(db),
    );
    expect(rows[0]?.rolpassword).toMatch(/^SCRAM-SHA-256\$\d+:/);
  });
});

describe('what PostgreSQL lets every role do, as docs/isolation.md says:', () => {
  it('see the names of databases and roles and the marks on them, which say no more than ids', async () => {
    const { rows } = await sql<{ name: string; comment: string | null }>`
      select datname as name, shobj_description(oid, 'pg_database') as comment from pg_database where datname like 'tn\_%'
      union all
      select rolname, shobj_description(oid, 'pg_authid') from pg_roles where rolname like 'tn\_%'`.execute(asA.db);
    expect(rows.filter(({ name }) => name === b.row.dbName)).toHaveLength(2);
    for (const { name, comment } of rows)
      expect([name, comment]).toEqual([
        expect.stringMatching(/^tn_[0-9a-f]{32}$/),
        // Whose it is, in ids; those that a test made itself have none.
        comment && expect.stringMatching(/^tenantry [0-9a-f-]{36} [0-9a-f-]{36} (tenant|standby)$/),
      ]);
    const mine = rows.filter(({ name }) => name === a.row.dbName).map(({ comment }) => comment?.split(' ').slice(2));
    expect(mine).toEqual([
      [a.row.id, 'tenant'],
      [a.row.id, 'tenant'],
    ]);
  });

  it.each([
    ['see who is connected where', 'select datname, usename, client_port from pg_stat_activity'],
    ['see how busy each database is', 'select datname, xact_commit from pg_stat_database'],
    ['take advisory locks in its own database', 'select pg_advisory_unlock(1) where pg_try_advisory_lock(1)'],
    [
      'lift its own time limits',
      "set statement_timeout = '0'; set idle_in_transaction_session_timeout = '0'; reset all",
    ],
    ['keep settings of its own', 'alter role current_user set work_mem = $$8MB$$; alter role current_user reset all'],
    ['lock its own tables', 'begin; lock table products in access exclusive mode; rollback'],
    ['run code of its own', 'do $$ begin perform 1; end $$'],
    ['notify within its database', 'notify something'],
    ['keep large objects in its own database', 'select lo_unlink(lo_from_bytea(0, $$x$$))'],
  ])('%s', async (_what, statement) => {
    await sql.raw(statement).execute(asA.db);
  });

  it('change its own password, until an operator sets it again', async () => {
    const changed = await scramVerifier('changed-by-the-tenant', 1);
    await sql`alter role current_user password ${sql.lit(changed)}`.execute(asA.db);
    const verifier = await scramVerifier(a.password, 1);
    await asSuperuser('postgres', (db) =>
      sql`alter role ${sql.id(a.row.dbUser)} password ${sql.lit(verifier)}`.execute(db),
    );
  });
});

describe('a secret', () => {
  it('lies in the registry as an envelope', () => {
    for (const { row, password } of [a, b]) {
      expect(row.dbPassword).toMatch(/^v1\.test\.[\w-]{16}\.[\w-]+\.[\w-]{22}$/);
      expect(row.dbPassword).not.toContain(password);
      expect(row.dbPassword).not.toContain(Buffer.from(password).toString('base64url'));
    }
    expect(a.password).toMatch(/^[\w-]{43}$/);
    expect(a.password).not.toBe(b.password);
  });

  it('is in no answer, in no error, in no document and in no log line of a session', async () => {
    const answers: string[] = [];
    const ask: TestService['send'] = async (...request) => {
      const answer = await service.send(...request);
      answers.push(JSON.stringify(answer.headers) + answer.text);
      return answer as never;
    };
    await aSession(ask);
    expect(answers.length).toBeGreaterThan(20);

    const secrets = {
      'the password of A': a.password,
      'the password of B': b.password,
      'the envelope of A': a.row.dbPassword,
      'the provisioner’s password': provisioner.password,
      'the registry owner’s password': registryOwner.password,
      'the password that enters the registry': registryService.password,
      'the superuser’s password': superuser.password,
      'the token key': tokenSecretsOf(service.config).jwk,
      'the token key in PEM': tokenSecretsOf(service.config).pem,
      'the encryption key': Buffer.alloc(32, 7).toString('base64').slice(0, 40),
      'a password of a person': ADMIN.password,
      'the operator’s password': OPERATOR.password,
      'a password hash': '$argon2id$',
      'a verifier': 'SCRAM-SHA-256',
      'a role’s name': a.row.dbUser,
      'a canary': 'canary-',
    };
    const tokens = { 'a user’s token': a.tenant.adminToken, 'an operator’s token': service.operatorToken };
    expect(found(secrets, answers)).toEqual([]);
    expect(found({ ...secrets, ...tokens }, lines)).toEqual([]);
    // The session was logged, and its faults with it.
    expect(lines.some((line) => line.includes('a provisioning step failed'))).toBe(true);
    expect(lines.some((line) => line.includes('3D000'))).toBe(true);
  });

  it.skipIf(logFile === undefined)('is not in PostgreSQL’s log, not even when setting a password fails', async () => {
    const password = 'canary-password-of-a-failed-statement';
    const asProvisioner = connectAs<unknown>('postgres', provisioner);
    try {
      const taken = { name: a.row.dbUser, verifier: await scramVerifier(password, 1), connectionLimit: 1 };
      await expect(createRuntimeRole(asProvisioner.db, taken)).rejects.toMatchObject({ code: '42710' });
    } finally {
      await asProvisioner.close(0);
    }
    const log = await readFile(logFile ?? '', 'utf8');
    // The failed statement is there, with its text.
    expect(log).toContain(`role "${a.row.dbUser}" already exists`);
    expect(log).toMatch(new RegExp(`STATEMENT: +create role "${a.row.dbUser}"`));
    const secrets = { password, 'the password of A': a.password, 'the password of B': b.password };
    const settings = {
      'the provisioner’s': provisioner.password,
      'the owner’s': registryOwner.password,
      'the service’s': registryService.password,
      'the superuser’s': superuser.password,
    };
    expect(found({ ...secrets, ...settings }, [log])).toEqual([]);
  });
});

/** What people do in a day, and what goes wrong for them. */
async function aSession(ask: TestService['send']): Promise<void> {
  const operator = { token: service.operatorToken };
  const admin = { token: a.tenant.adminToken };
  const person = { email: 'canary.person@example.com', password: 'canary-password-1', firstName: 'P', lastName: 'Q' };

  await ask('POST', '/auth/operator/login', { body: { ...OPERATOR, password: 'canary-wrong-password' } });
  await ask('POST', '/auth/login', {
    body: { tenant: a.tenant.slug, email: ADMIN.email, password: 'canary-wrong-password' },
  });
  await ask('POST', '/auth/login', {
    body: { tenant: 'nobody', email: ADMIN.email, password: 'canary-wrong-password' },
  });
  await ask('GET', '/auth/me', admin);
  await ask('GET', '/auth/me', operator);
  await ask('GET', '/auth/me', { token: 'canary-token' });
  await ask('GET', '/tenants', operator);
  for (const token of [operator.token, admin.token]) await ask('GET', `/tenants/${a.tenant.id}`, { token });
  await ask('PATCH', `/tenants/${a.tenant.id}`, { ...operator, body: { poolOptions: { max: 4 } } });
  await ask('PATCH', `/tenants/${a.tenant.id}`, { ...operator, body: { poolOptions: { password: 'canary-option' } } });
  await ask('PATCH', `/tenants/${a.tenant.id}`, { ...operator, body: { dbPassword: 'canary-body' } });
  const made = await ask<{ id: string }>('POST', '/users', { ...admin, body: person });
  expect(made.status).toBe(201);
  await ask('POST', '/users', { ...admin, body: person });
  await ask('POST', '/users', { ...admin, body: { ...person, password: 'canary' } });
  await ask('PATCH', `/users/${made.body.id}`, { ...admin, body: { password: 'canary-password-2' } });
  await ask('PATCH', `/users/${a.tenant.adminId}`, {
    ...admin,
    body: { password: 'canary-password-3', currentPassword: 'canary-no' },
  });
  await ask('GET', '/users', admin);
  await ask('POST', '/products', { ...admin, body: { name: 'P', price: '1.00', sku: 'one' } });
  await ask('POST', '/products', { ...admin, body: { name: 'P', price: '1.00', sku: 'one' } });
  await ask('GET', '/products?cursor=canary-cursor', admin);
  await ask('GET', '/docs/json');
  await ask('GET', '/nowhere');

  // A tenant whose database is not there, asked for by a process that has no pool for it yet.
  const broken = await service.createTenant('isolated-broken');
  await service.app.tenantPools.retire(broken.id);
  await setDatabaseName(broken.id, 'canary_gone');
  await expect.poll(async () => (await ask('GET', '/products', { token: broken.adminToken })).status).toBe(503);
  await ask('POST', '/auth/login', {
    body: { tenant: broken.slug, email: ADMIN.email, password: 'canary-wrong-password' },
  });

  // A tenant that cannot be made.
  failAt = 'fill';
  const failed = await ask('POST', '/tenants', { ...operator, body: { name: 'Fails', admin: ADMIN } });
  failAt = undefined;
  expect(failed.status).toBe(503);
}

async function setDatabaseName(tenantId: string, name: string): Promise<void> {
  const handle = connectAs<Registry>(registry);
  await handle.db.updateTable('tenants').set({ db_name: name }).where('id', '=', tenantId).execute();
  await handle.close(0);
}

/** Which secrets stand in which of the texts. */
function found(secrets: Readonly<Record<string, string>>, texts: readonly string[]): string[] {
  return texts.flatMap((text) =>
    Object.entries(secrets)
      .filter(([, secret]) => text.includes(secret))
      .map(([name]) => `${name} in ${text}`),
  );
}

async function backendOf(db: Kysely<unknown>): Promise<number | undefined> {
  const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(db);
  return rows[0]?.pid;
}
