// deploy/bootstrap.sql, run by psql on a separate server: it is repeatable, its result equals that of bootstrapCluster, and the
// service works on it.
import { sql } from 'kysely';
import { execFile } from 'node:child_process';
import { chmod, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { findOperatorByEmail, insertOperator } from '../../db/registry/operator-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { createDatabase, type ConnectionSettings, type DatabaseHandle } from '../../db/driver/client.js';
import { bootstrapCluster, checkCluster } from '../../db/server/server-admin.js';
import { scramVerifier } from '../../db/server/scram.js';
import { openApp } from '../support/service.js';
import { parseTokenKeys } from '../../src/auth/keyring.js';
import { completeConfig, parseKeyring, readSettings } from '../../src/config/index.js';
import { startEmbeddedCluster, type EmbeddedCluster } from '../../src/embedded/embedded-cluster.js';
import { migrateAll } from '../../src/rollouts/migrate-fleet.js';
import { openProvisioner } from '../../src/clusters/provisioner-connections.js';
import { ADMIN, beginSession, sender, TOKEN_KEY } from '../support/app.js';
import { skipNote } from '../support/programs.js';

const skipped = skipNote('psql');

const SUPERUSER_PASSWORD = 'superuser-of-the-bootstrap-test';
const PASSWORD = 'password-of-the-bootstrap-test';
const limits = { max: 2, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 1_000 };

// The script is written for psql, which the embedded PostgreSQL does not include.
const title = `deploy/bootstrap.sql, run by psql${skipped}`;

describe.skipIf(skipped !== '')(title, () => {
  let home: string;
  let cluster: EmbeddedCluster;
  let superuser: DatabaseHandle<unknown>;

  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), 'tenantry-bootstrap-'));
    await chmod(home, 0o755);
    const log = { info: () => undefined, warn: () => undefined, error: () => undefined };
    cluster = await startEmbeddedCluster({ home, superuserPassword: SUPERUSER_PASSWORD, log });
    superuser = open(cluster.superuser, SUPERUSER_PASSWORD, 'postgres');
    await runScript();
  });
  afterAll(async () => {
    await superuser.close(0);
    await cluster.stop();
    await rm(home, { recursive: true, force: true });
  });

  const at = (user: string, password: string, database: string): ConnectionSettings => ({
    host: cluster.host,
    port: cluster.port,
    database,
    user,
    password,
    tls: false,
  });
  const open = <DB>(user: string, password: string, database: string): DatabaseHandle<DB> =>
    createDatabase<DB>(at(user, password, database), limits, { applicationName: 'tests', preparedStatements: false });

  const runScript = (): Promise<string> => runBootstrap(at(cluster.superuser, SUPERUSER_PASSWORD, 'postgres'));

  /** Roles and databases in the catalogs, with both naming schemes mapped to one. */
  async function facts(prefix: string): Promise<unknown> {
    const { rows: roles } = await sql<Record<string, unknown>>`
      select replace(rolname, ${prefix}, '') as name, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolcanlogin,
             rolreplication, rolbypassrls, rolconnlimit, rolvaliduntil, rolconfig
      from pg_roles where starts_with(rolname, ${prefix}) order by 1`.execute(superuser.db);
    const { rows: databases } = await sql<Record<string, unknown>>`
      select replace(datname, ${prefix}, '') as name, replace(pg_get_userbyid(datdba), ${prefix}, '') as owner,
             pg_encoding_to_char(encoding) as encoding, datallowconn, datistemplate, datconnlimit,
             replace(datacl::text, ${prefix}, '') as acl
      from pg_database where starts_with(datname, ${prefix}) order by 1`.execute(superuser.db);
    const { rows: parameters } = await sql<Record<string, unknown>>`
      select parname, privilege_type, replace(pg_get_userbyid(grantee), ${prefix}, '') as grantee
      from pg_parameter_acl cross join aclexplode(paracl)
      where starts_with(pg_get_userbyid(grantee), ${prefix}) order by 1`.execute(superuser.db);
    return { roles, databases, parameters };
  }

  async function sharedRights(): Promise<string[]> {
    const { rows } = await sql<{ right: string }>`
      select format('%s: %s %s', datname, case grantee when 0 then 'PUBLIC' else pg_get_userbyid(grantee) end, privilege_type) as right
      from pg_database cross join aclexplode(datacl)
      where datname in ('postgres', 'template1') and grantee <> datdba order by 1`.execute(superuser.db);
    return rows.map(({ right }) => right);
  }

  it('leaves no database to which every role may connect', async () => {
    const { openDatabases } = await checkCluster(superuser.db);
    expect(openDatabases).toEqual([]);
    expect(await sharedRights()).toEqual(['postgres: tenantry_provisioner CONNECT']);
  });

  it('sets no password, so that no role can sign in before \\password is run', async () => {
    const { rows } =
      await sql`select rolname from pg_authid where rolname like 'tenantry%' and rolpassword is not null`.execute(
        superuser.db,
      );
    expect(rows).toEqual([]);
  });

  it('creates the same roles, databases and rights as bootstrapCluster', async () => {
    const byScript = await facts('tenantry_');
    const verifier = await scramVerifier(PASSWORD, 1);
    await bootstrapCluster(superuser.db, {
      registryOwner: { name: 'compared_registry', verifier },
      registryService: { name: 'compared_service', verifier },
      provisioner: { name: 'compared_provisioner', verifier },
      registryDatabase: 'compared_registry',
    });
    expect(await facts('compared_')).toEqual(byScript);
    expect(await sharedRights()).toEqual(
      ['compared_provisioner', 'tenantry_provisioner'].map((role) => `postgres: ${role} CONNECT`),
    );
  });

  it('can run again after the service is set up, and takes away rights that were added since', async () => {
    const before = await facts('tenantry_');
    await sql`alter role tenantry_registry createrole`.execute(superuser.db);
    await sql`alter role tenantry_service createdb`.execute(superuser.db);
    await sql`grant connect on database tenantry_registry to public`.execute(superuser.db);
    await runScript();
    expect(await facts('tenantry_')).toEqual(before);
  });

  it('is all that the service needs to migrate, to create a tenant and to serve it', async () => {
    await expectService(superuser, at, []);
  });
});

describe.skipIf(skipped !== '')(`deploy/bootstrap.sql, run by the administrator of a managed server${skipped}`, () => {
  let home: string;
  let cluster: EmbeddedCluster;
  let superuser: DatabaseHandle<unknown>;
  const at = (user: string, password: string, database: string): ConnectionSettings => ({
    host: cluster.host,
    port: cluster.port,
    database,
    user,
    password,
    tls: false,
  });

  // What the administrators of RDS, Cloud SQL and Azure have in common. There the databases of the server belong to the provider.
  beforeAll(async () => {
    home = await mkdtemp(join(tmpdir(), 'tenantry-managed-'));
    await chmod(home, 0o755);
    const log = { info: () => undefined, warn: () => undefined, error: () => undefined };
    cluster = await startEmbeddedCluster({ home, superuserPassword: SUPERUSER_PASSWORD, log });
    superuser = createDatabase(at(cluster.superuser, SUPERUSER_PASSWORD, 'postgres'), limits, {
      applicationName: 'tests',
      preparedStatements: false,
    });
    const verifier = sql.lit(await scramVerifier(PASSWORD, 4_096));
    await sql`create role administrator login createdb createrole password ${verifier}`.execute(superuser.db);
  });
  afterAll(async () => {
    await superuser.close(0);
    await cluster.stop();
    await rm(home, { recursive: true, force: true });
  });

  it('is all that the service needs, twice, and leaves the administrator in no role of the service', async () => {
    const administrator = at('administrator', PASSWORD, 'postgres');
    expect(await runBootstrap(administrator)).toContain('set temp_file_limit for the whole server instead');
    await runBootstrap(administrator);
    const { rows } = await sql<{ role: string }>`
      select roleid::regrole::text as role from pg_auth_members m
      where member = 'administrator'::regrole
      and (coalesce(to_jsonb(m) ->> 'inherit_option', 'true') = 'true' or to_jsonb(m) ->> 'set_option' = 'true')`.execute(
      superuser.db,
    );
    expect(rows).toEqual([]);
    // The provider's databases stay open, and the migration says so.
    await expectService(superuser, at, ['postgres', 'template1']);
  });
});

type At = (user: string, password: string, database: string) => ConnectionSettings;

/** Runs the script with psql. Returns what it wrote on standard error. */
async function runBootstrap({ host, port, user, password }: ConnectionSettings): Promise<string> {
  const where = ['-h', host, '-p', String(port), '-U', user, '-d', 'postgres'];
  const { stderr } = await promisify(execFile)(
    'psql',
    ['-X', '-v', 'ON_ERROR_STOP=1', ...where, '-f', 'deploy/bootstrap.sql'],
    { env: { ...process.env, PGPASSWORD: password } },
  );
  return stderr;
}

/** Expects that the service migrates, creates a tenant and serves it with the roles of the script. */
async function expectService(
  superuser: DatabaseHandle<unknown>,
  at: At,
  openDatabases: readonly string[],
): Promise<void> {
  for (const role of ['tenantry_registry', 'tenantry_service', 'tenantry_provisioner']) {
    const verifier = sql.lit(await scramVerifier(PASSWORD, 4_096));
    await sql`alter role ${sql.id(role)} password ${verifier}`.execute(superuser.db);
  }
  const registry = createDatabase<Registry>(at('tenantry_registry', PASSWORD, 'tenantry_registry'), limits, {
    applicationName: 'tests',
    preparedStatements: false,
  });
  const provisioner = openProvisioner(at('tenantry_provisioner', PASSWORD, 'postgres'), limits);
  const registryRoles = { registry: registry.db, registryService: 'tenantry_service' };
  await migrateAll({ ...registryRoles, ...provisioner, provisioner: 'tenantry_provisioner' });
  expect(await checkCluster(provisioner.cluster)).toEqual({
    role: 'tenantry_provisioner',
    superuser: false,
    canProvision: true,
    openDatabases,
  });
  await Promise.all([registry.close(0), provisioner.close()]);

  const app = await openApp(
    completeConfig(readSettings({ NODE_ENV: 'test', LOG_LEVEL: 'silent' }), {
      registry: at('tenantry_service', PASSWORD, 'tenantry_registry'),
      provisioner: at('tenantry_provisioner', PASSWORD, 'postgres'),
      tokenKeys: parseTokenKeys(TOKEN_KEY),
      encryptionKeys: parseKeyring(`test:${Buffer.alloc(32, 9).toString('base64')}`),
    }),
  );
  onTestFinished(() => app.close());
  const send = sender(app);
  await insertOperator(app.engine.registry, { email: 'operator@example.com', passwordHash: 'not used' });
  const operator = await findOperatorByEmail(app.engine.registry, 'operator@example.com');
  const operatorToken = await beginSession(app, { kind: 'operator', operatorId: operator?.id ?? '' });
  const made = await send('POST', '/tenants', {
    token: operatorToken,
    body: { name: 'First', slug: 'first', admin: ADMIN },
  });
  expect(made.status, made.text).toBe(201);
  const { email, password } = ADMIN;
  const signedIn = await send<{ accessToken: string }>('POST', '/auth/login', {
    body: { tenant: 'first', email, password },
  });
  const product = await send('POST', '/products', {
    token: signedIn.body.accessToken,
    body: { name: 'Chair', price: '1.00' },
  });
  expect(product.status, product.text).toBe(201);
  expect((await checkCluster(superuser.db)).openDatabases).toEqual(openDatabases);
}
