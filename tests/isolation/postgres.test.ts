// Isolation in PostgreSQL's catalogs: who may connect to which database, who owns what and has which rights on it; and the places
// in which no secret may appear. attack.test.ts tests what a tenant's role can try.
import { sql } from 'kysely';
import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, inject, it } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { createRuntimeRole } from '../../db/server/server-admin.js';
import { scramVerifier } from '../../db/server/scram.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { templateName } from '../../src/operations/template/template-names.js';
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
import { enter, reach, type Reached } from '../support/tenants.js';

const { superuser, registryOwner, registryService, provisioner, registryTemplate, logFile } = inject('cluster');

type ReachedTenant = Reached & { readonly tenant: TestTenant };

const lines: string[] = [];
let registry: string;
let service: TestService;
let a: ReachedTenant;
let b: ReachedTenant;
/** As the runtime role of tenant A, in its own database. */
let asA: DatabaseHandle<unknown>;

beforeAll(async () => {
  registry = await createRegistry();
  // The copy for a test gets PUBLIC's rights back, as every new database does; the original is checked below.
  await asSuperuser(registry, (db) => sql`revoke all on database ${sql.id(registry)} from public`.execute(db));
  service = await startService({
    registry,
    env: { LOG_LEVEL: 'trace' },
    overrides: {
      logStream: { write: (line) => void lines.push(line) },
      afterOperationStep: (_kind, step) => {
        if (step === failAt) throw new Error('made to fail');
      },
    },
  });
  a = await make('isolated-a');
  b = await make('isolated-b');
  asA = enter(a);
});
afterAll(async () => {
  await asA.close(0);
  await service.close();
});

let failAt: string | undefined;

async function make(slug: string): Promise<ReachedTenant> {
  const tenant = await service.createTenant(slug);
  return { tenant, ...(await reach(service, tenant)) };
}

const DENIED = '42501';

describe('a tenant’s role', () => {
  it('may log in, and has no other role attribute', async () => {
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

  it('owns nothing in any database of the server', async () => {
    const { rows } = await asSuperuser('postgres', (db) =>
      sql`select classid::regclass as kind, objid from pg_shdepend
          where refclassid = 'pg_authid'::regclass and deptype = 'o' and refobjid = ${a.row.dbUser}::regrole`.execute(
        db,
      ),
    );
    expect(rows).toEqual([]);
  });

  it('is a member of no role, and its only member, the provisioner, cannot become it from PostgreSQL 16 on', async () => {
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
      const { rows: versions } = await sql<{ number: number }>`
        select current_setting('server_version_num')::int as number`.execute(asProvisioner.db);
      const becoming = sql`set role ${sql.id(a.row.dbUser)}`.execute(asProvisioner.db);
      // docs/inside/isolation.md says that it can on version 15: membership has no options there.
      if ((versions[0]?.number ?? 0) < 160_000) await becoming;
      else await expect(becoming).rejects.toMatchObject({ reason: DENIED });
    } finally {
      await asProvisioner.close(0);
    }
  });

  it('may read and write rows of every table, but only read the marker, only add to the audit, and not use the migrator’s tables', async () => {
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

  it('may connect to its database and use its schema, and create nothing in either', async () => {
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
  it('lets PUBLIC connect to no database of the installation, nor to postgres and template1', async () => {
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

  it('accepts no connection to the template', async () => {
    const { rows } = await asSuperuser('postgres', (db) =>
      sql`select datallowconn from pg_database where datname = ${templateName(tenantMigrations, provisioner.user)}`.execute(
        db,
      ),
    );
    expect(rows).toEqual([{ datallowconn: false }]);
  });

  it('has a provisioner that is not a superuser and owns the tenants’ databases and tables', async () => {
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

  it('does not let the provisioner connect to the registry', async () => {
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

describe('a secret', () => {
  it('is stored in the registry as an encrypted envelope', () => {
    for (const { row, password } of [a, b]) {
      expect(row.dbPassword).toMatch(/^v1\.test\.[\w-]{16}\.[\w-]+\.[\w-]{22}$/);
      expect(row.dbPassword).not.toContain(password);
      expect(row.dbPassword).not.toContain(Buffer.from(password).toString('base64url'));
    }
    expect(a.password).toMatch(/^[\w-]{43}$/);
    expect(a.password).not.toBe(b.password);
  });

  it('appears in no answer, error, document or log line of a session', async () => {
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
    // The session was logged, with its faults.
    expect(lines.some((line) => line.includes('an operation failed, and is undone'))).toBe(true);
    expect(lines.some((line) => line.includes('3D000'))).toBe(true);
  });

  it.skipIf(logFile === undefined)('is not in PostgreSQL’s log, even if setting a password fails', async () => {
    const password = 'canary-password-of-a-failed-statement';
    const asProvisioner = connectAs<unknown>('postgres', provisioner);
    try {
      const taken = { name: a.row.dbUser, verifier: await scramVerifier(password, 1), connectionLimit: 1 };
      await expect(createRuntimeRole(asProvisioner.db, taken)).rejects.toMatchObject({ code: '42710' });
    } finally {
      await asProvisioner.close(0);
    }
    const log = await readFile(logFile ?? '', 'utf8');
    // The failed statement is in the log, with its text.
    expect(log).toContain(`role "${a.row.dbUser}" already exists`);
    expect(log).toMatch(new RegExp(`STATEMENT:\\s+create role "${a.row.dbUser}"`));
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

/** An ordinary day of users, with typical faults. */
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

  // A tenant whose database is missing, requested from a process without a pool for it.
  const broken = await service.createTenant('isolated-broken');
  await service.app.engine.tenantPools.retire(broken.id);
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

/** Returns which secrets occur in which of the texts. */
function found(secrets: Readonly<Record<string, string>>, texts: readonly string[]): string[] {
  return texts.flatMap((text) =>
    Object.entries(secrets)
      .filter(([, secret]) => text.includes(secret))
      .map(([name]) => `${name} in ${text}`),
  );
}
