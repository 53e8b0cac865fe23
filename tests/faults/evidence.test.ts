// What may be dropped, and what may not, with other builds, adopted databases and concurrent changes: `npm run migrate`, purges,
// and a cluster that is moved while a tenant is made on it.
import { sql } from 'kysely';
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import type { ConnectionSettings } from '../../db/driver/client.js';
import {
  ADMIN,
  asSuperuser,
  connectAs,
  createRegistry,
  startServiceForTest,
  startServiceIn,
  urlOf,
  type Answer,
  type PageOf,
  type Problem,
  type TestService,
} from '../support/app.js';
import { acknowledged, createLegacyDatabase, invoicesIn, signIn, stateOfDatabase } from '../support/evidence.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { finishOperations } from '../support/operations.js';
import { build, eventually, makeDataDir, runProgram } from '../support/service-process.js';
import { startStatementProxy, type Verdict } from '../support/statement-proxy.js';

const { superuser, registryOwner, registryService } = inject('cluster');

type Made = Answer<Problem & { id: string; detail: string }>;

function make({ send, operatorToken: token }: TestService, slug: string, more: object = {}): Promise<Made> {
  return send('POST', '/tenants', { token, body: { name: slug, slug, admin: ADMIN, ...more } });
}

async function defaultClusterOf({ send, operatorToken: token }: TestService): Promise<string> {
  const { body } = await send<PageOf<{ id: string }>>('GET', '/clusters', { token });
  return body.data[0]?.id ?? '';
}

describe('the command that migrates', () => {
  // A separate provisioner: the command works on all databases that it owns.
  const provisioner: ConnectionSettings = {
    ...inject('cluster').provisioner,
    user: `provisioner_${randomBytes(6).toString('hex')}`,
    password: 'password-of-this-provisioner',
  };
  let registry: string;
  let data: Awaited<ReturnType<typeof makeDataDir>>;
  let template: string;

  beforeAll(async () => {
    await build();
    data = await makeDataDir();
    registry = await createRegistry();
    const { user, password } = provisioner;
    await asSuperuser('postgres', async (db) => {
      await sql`create role ${sql.id(user)} login createdb createrole password ${sql.lit(password)}`.execute(db);
      await sql`grant connect on database postgres to ${sql.id(user)}`.execute(db);
    });
    const first = await migrate();
    expect(first.code, first.output).toBe(0);
    [template = ''] = await ownDatabases();
    expect(template).toMatch(/^tenantry_template_/);
  });
  afterAll(() => data.remove());

  async function migrate(): Promise<{ code: number | null; output: string }> {
    const { code, stdout, stderr } = await runProgram('src/cli/migrate.js', {
      STANDBY_DATABASES: '0',
      DATABASE_URL: urlOf({ ...superuser, ...registryService, database: registry }),
      MIGRATION_DATABASE_URL: urlOf({ ...superuser, ...registryOwner, database: registry }),
      TENANT_DATABASE_URL: urlOf(provisioner),
      DATA_DIR: data.dir,
    });
    return { code, output: stdout + stderr };
  }

  async function ownDatabases(): Promise<string[]> {
    const { rows } = await asSuperuser('postgres', (db) =>
      sql<{ name: string }>`select datname as name from pg_database
        where pg_get_userbyid(datdba) = ${provisioner.user} order by 1`.execute(db),
    );
    return rows.map(({ name }) => name);
  }

  async function start(): Promise<TestService> {
    const service = await startServiceIn({ ...inject('cluster'), provisioner }, { registry });
    onTestFinished(() => service.close());
    return service;
  }

  /** A copy of the template, as a build of another schema version leaves it. */
  async function templateOf(version: string): Promise<string> {
    const name = `tenantry_template_${randomBytes(8).toString('hex')}`;
    const { rows } = await asSuperuser(registry, (db) => sql<{ id: string }>`select id from installation`.execute(db));
    await asSuperuser('postgres', async (db) => {
      await sql`create database ${sql.id(name)} template ${sql.id(template)} owner ${sql.id(provisioner.user)}`.execute(
        db,
      );
      await sql`alter database ${sql.id(name)} allow_connections false`.execute(db);
      const mark = `tenantry ${rows[0]?.id} template ${version}`;
      await sql`comment on database ${sql.id(name)} is ${sql.lit(mark)}`.execute(db);
    });
    onTestFinished(async () => {
      await asSuperuser('postgres', (db) => sql`drop database if exists ${sql.id(name)}`.execute(db));
    });
    return name;
  }

  it('keeps the template of a newer build, and says that the fleet is newer', async () => {
    const newer = await templateOf('9999_newer');
    const { output } = await migrate();
    expect((await stateOfDatabase(newer)).exists).toBe(true);
    expect((await stateOfDatabase(template)).exists).toBe(true);
    expect(output).toContain('"newer":["9999_newer"]');
  });

  it('drops the template of an older build', async () => {
    const older = await templateOf('0001_identity');
    const { code, output } = await migrate();
    expect(code, output).toBe(0);
    expect(output).toContain('"newer":[]');
    expect((await stateOfDatabase(older)).exists).toBe(false);
    expect((await stateOfDatabase(template)).exists).toBe(true);
  });

  it('keeps an adopted database whose name looks like that of a template', async () => {
    const service = await start();
    const database = `legacy_${randomBytes(6).toString('hex')}`;
    await createLegacyDatabase(database, provisioner.user);
    const adopt = { clusterId: await defaultClusterOf(service), database };
    const made = await make(service, 'adopted-before', { adopt });
    expect(made.status, made.text).toBe(201);
    await service.app.engine.tenantPools.retire(made.body.id);
    // As adopted by a former build, which refused no name and wrote no comment.
    const named = `tenantry_template_${database}`;
    await asSuperuser('postgres', async (db) => {
      await sql`alter database ${sql.id(database)} rename to ${sql.id(named)}`.execute(db);
      await sql`comment on database ${sql.id(named)} is null`.execute(db);
    });
    await asSuperuser(registry, (db) =>
      sql`update tenants set db_name = ${named} where id = ${made.body.id}`.execute(db),
    );

    for (let time = 0; time < 2; time += 1) {
      const { code, output } = await migrate();
      expect(code, output).toBe(0);
    }
    expect(await invoicesIn(named)).toEqual([1, 2]);
    await eventually('it is served', async () => (await signIn(service, 'adopted-before')) === 200);
  });

  it('meets no new database of that kind: a database whose name looks like that of a template cannot be adopted', async () => {
    const service = await start();
    const database = `tenantry_template_legacy_${randomBytes(6).toString('hex')}`;
    await createLegacyDatabase(database, provisioner.user);
    const adopt = { clusterId: await defaultClusterOf(service), database };
    const refused = await make(service, 'called-as-a-template', { adopt });
    expect(refused).toMatchObject({ status: 422, body: { code: 'not-adoptable' } });
    expect(await invoicesIn(database)).toEqual([1, 2]);
  });
});

it('a tenant that was restored and deleted again just before its purge gets its full grace time again', async () => {
  const grace = 3_600_000;
  const service = await startServiceForTest({ env: { TENANT_DELETION_GRACE_MS: String(grace) } });
  const { id, slug } = await service.createTenant();
  const { dbName } = await acknowledged(service, slug);
  const token = service.operatorToken;
  expect((await service.send('DELETE', `/tenants/${id}`, { token })).status).toBe(204);
  const registry = connectAs<unknown>(service.config.registry.connection.database);
  onTestFinished(() => registry.close(0));
  const overdue = sql`now() - ${grace * 2} * interval '1 millisecond'`;
  await sql`update tenants set deleted_at = ${overdue} where id = ${id}`.execute(registry.db);

  let isDone = false;
  let purge: Promise<void> | undefined;
  await registry.db.transaction().execute(async (trx) => {
    await sql`select from tenants where id = ${id} for update`.execute(trx);
    purge = service.app.engine.housekeeping
      .runNow('lifecycle purge')
      .then(() => finishOperations(service.app.engine))
      .finally(() => (isDone = true));
    // The purge was recorded, and its worker waits for the row. Or it skips a locked row.
    await eventually('the purge waits', async () => isDone || (await isWaiting(service)));
    await sql`
      update tenants set status = 'active', deleted_at = null, status_before_deletion = null where id = ${id}`.execute(
      trx,
    );
    await sql`
      update tenants set status = 'deleted', deleted_at = now(), status_before_deletion = 'active' where id = ${id}`.execute(
      trx,
    );
  });
  await purge;
  expect((await stateOfDatabase(dbName)).exists).toBe(true);
  expect((await service.send('POST', `/tenants/${id}/restore`, { token })).status).toBe(200);
  expect(await signIn(service, slug)).toBe(200);
});

/** Whether a statement about tenants waits for a lock in the registry. */
async function isWaiting({ config }: TestService): Promise<boolean> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql`select from pg_stat_activity where datname = ${config.registry.connection.database}
      and wait_event_type = 'Lock' and query ~ 'tenants'`.execute(db),
  );
  return rows.length > 0;
}

describe('a cluster that is moved after it was chosen, but before the tenant’s row is written,', () => {
  it.each(['made', 'adopted'] as const)('gets no tenant at its old place, if the tenant is %s', async (how) => {
    const cluster = inject('cluster');
    const registryName = await createRegistry();
    const proxy = await startStatementProxy(superuser);
    onTestFinished(() => proxy.close());
    // Two addresses of one server.
    const [from, to] = [await startProxyForTest(cluster.provisioner), await startProxyForTest(cluster.provisioner)];
    const service = await startServiceIn(
      { ...cluster, superuser: { ...superuser, host: proxy.host, port: proxy.port } },
      { registry: registryName, env: { CLUSTER_HOSTS: from.host } },
    );
    onTestFinished(() => service.close());
    const { send, operatorToken: token } = service;
    const registered = await send<{ id: string }>('POST', '/clusters', {
      token,
      body: {
        name: 'moving',
        host: from.host,
        port: from.port,
        provisionerUser: cluster.provisioner.user,
        provisionerPassword: cluster.provisioner.password,
        tls: 'off',
        connectionBudget: 20,
        connectionReserve: 4,
      },
    });
    expect(registered.status, registered.text).toBe(201);
    const clusterId = registered.body.id;
    const database = `legacy_${randomBytes(6).toString('hex')}`;
    await createLegacyDatabase(database, cluster.provisioner.user);
    const request = how === 'made' ? { clusterId } : { adopt: { clusterId, database } };

    let moved: Answer | undefined;
    proxy.onStatement = async ({ sql: text }): Promise<Verdict> => {
      if (/insert into "?tenants"?/i.test(text) && !moved) {
        const body = { port: to.port, provisionerPassword: cluster.provisioner.password };
        moved = await send('PATCH', `/clusters/${clusterId}`, { token, body });
      }
      return 'pass';
    };
    const answer = await make(service, 'moved', request);
    expect(moved?.status, moved?.text).toBe(200);
    expect([201, 503], answer.text).toContain(answer.status);
    expect(await placesOf(registryName)).not.toContain(from.port);
    if (answer.status === 503) {
      const again = await make(service, 'moved', request);
      expect(again.status, again.text).toBe(201);
    }
    expect(await placesOf(registryName)).toEqual([to.port]);
    expect(await signIn(service, 'moved')).toBe(200);
  });

  async function startProxyForTest(target: ConnectionSettings): Promise<Proxy> {
    const proxy = await startProxy(target);
    onTestFinished(() => proxy.close());
    return proxy;
  }

  /** The ports of all tenants. */
  async function placesOf(registry: string): Promise<number[]> {
    const { rows } = await asSuperuser(registry, (db) =>
      sql<{ port: number }>`select db_port as port from tenants`.execute(db),
    );
    return rows.map(({ port }) => port);
  }
});
