// `migrateAll` while other builds, sessions and servers are in its way. On a server of its own: templates are broken here.
import { sql, type Kysely } from 'kysely';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { DatabaseHandle } from '../../db/driver/client.js';
import { findInstallationId } from '../../db/registry/installation.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, recordSchema } from '../../db/registry/tenant-queries.js';
import { templateMarkText } from '../../db/server/marks.js';
import { latestVersion, migrateToLatest } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { openProvisioner, type Provisioner } from '../../src/clusters/provisioner-connections.js';
import { PlainError } from '../../src/jobs/plain-words.js';
import { templateName } from '../../src/operations/template/template-names.js';
import type { FleetServer } from '../../src/rollouts/fleet-servers.js';
import { migrateAll, type MigrationDeps, type MigrationReport } from '../../src/rollouts/migrate-fleet.js';
import { reasonOf } from '../../src/rollouts/reasons.js';
import type { TenantProgress } from '../../src/rollouts/roll-tenants.js';
import { startCluster, type TestCluster } from '../support/cluster.js';
import { startProxy } from '../support/proxy.js';
import { whileHeld } from '../support/held-tables.js';
import { finishOperations } from '../support/operations.js';
import {
  ADMIN,
  connectTo,
  startServiceIn,
  type Problem,
  type TestService,
  type TestTenant,
} from '../support/service.js';
import { eventually } from '../support/service-process.js';
import { migrationsBefore, migrationsUpTo, rebuildDatabase } from '../support/tenant-schemas.js';
import { rowOf } from '../support/tenants.js';

const OLDER = '0008_schema_version';
const NEWEST = latestVersion(tenantMigrations);

const LIMITS = { max: 2, acquireTimeout: 5_000, timeout: 60_000, idleTimeoutMillis: 1_000 };

let cluster: TestCluster;
let stop: () => Promise<void>;
let service: TestService;
let provisioner: Provisioner;
let central: DatabaseHandle<Registry>;
let registry: Kysely<Registry>;
const lines: string[] = [];

beforeAll(async () => {
  ({ cluster, stop } = await startCluster());
  service = await startServiceIn(cluster, {
    // Only what a test makes is there.
    env: { STANDBY_DATABASES: '0', LOG_LEVEL: 'warn' },
    overrides: { logStream: { write: (line: string) => void lines.push(line) } },
  });
  provisioner = openProvisioner(cluster.provisioner, service.config.tenants.provisionerPool);
  // The replica would work on the rollouts too.
  await service.app.engine.rolling.close();
  central = connectTo<Registry>(cluster, service.config.registry.connection.database);
  registry = central.db;
});
afterAll(async () => {
  await Promise.all([service.close(), provisioner.close(), central.close(0)]);
  await stop();
});
afterEach(async () => {
  await sql`delete from replicas where id = 'older'`.execute(registry);
});

const migrate = (deps: Partial<MigrationDeps> = {}, tenant?: TenantProgress): Promise<MigrationReport> =>
  migrateAll(
    { registry, ...provisioner, provisioner: cluster.provisioner.user, ...deps },
    { ...(tenant && { tenant }) },
  );

async function asSuperuser<T>(database: string, work: (db: Kysely<unknown>) => Promise<T>): Promise<T> {
  const handle = connectTo<unknown>(cluster, database);
  try {
    return await work(handle.db);
  } finally {
    await handle.close(0);
  }
}

/** Makes a tenant's database again, as a build makes it whose newest migration is OLDER. */
async function makeOlder(tenant: TestTenant): Promise<void> {
  await service.app.engine.tenantPools.retire(tenant.id);
  await rebuildDatabase(service, tenant, migrationsUpTo(OLDER));
  await sql`update tenants set schema_version = ${OLDER} where id = ${tenant.id}`.execute(registry);
}

/** Drops a tenant's database. Its row stays. */
async function dropDatabase(tenant: TestTenant): Promise<void> {
  const { id, dbName } = await rowOf(service, tenant);
  await service.app.engine.tenantPools.retire(id);
  await asSuperuser('postgres', (db) => sql`drop database ${sql.id(dbName)} with (force)`.execute(db));
}

async function olderTenants(count: number): Promise<TestTenant[]> {
  const made: TestTenant[] = [];
  for (let index = 0; index < count; index += 1) made.push(await service.createTenant());
  await Promise.all(made.map(makeOlder));
  return made;
}

async function versionOf(id: string): Promise<string | undefined> {
  return (await findTenant(registry, id))?.schemaVersion;
}

/** The row of a replica of the older build that lives. */
async function olderReplica(): Promise<void> {
  await sql`
    insert into replicas (id, version, schema_version, node, host, started_at, seen_at, slots_used)
    values ('older', '0.0.1', ${OLDER}, 'v20', 'older', now(), now() + interval '1 hour', '{}')`.execute(registry);
}

async function databases(): Promise<string[]> {
  const { rows } = await sql<{ name: string }>`select datname as name from pg_database`.execute(provisioner.cluster);
  return rows.map(({ name }) => name);
}

describe('a migration of the fleet', () => {
  it('takes templates and standby databases from older builds before it migrates the first tenant', async () => {
    await olderTenants(2);
    const template = 'tenantry_template_of_an_older_build';
    const mark = templateMarkText({
      installation: await findInstallationId(registry),
      state: 'template',
      version: OLDER,
    });
    await sql`create database ${sql.id(template)} allow_connections false`.execute(provisioner.cluster);
    await sql`comment on database ${sql.id(template)} is ${sql.lit(mark)}`.execute(provisioner.cluster);
    await sql`update clusters set standby_target = 1`.execute(registry);
    await service.app.engine.standby.refill(new AbortController().signal);
    await finishOperations(service.app.engine);
    await sql`update clusters set standby_target = 0`.execute(registry);
    // Otherwise the service would withdraw it by itself.
    await olderReplica();
    await sql`update standby_databases set schema_version = ${OLDER}`.execute(registry);

    const seen: unknown[] = [];
    const look: MigrationDeps['inDatabase'] = async (database, work) => {
      const ready = await registry.selectFrom('standby_databases').select('id').where('ready', '=', true).execute();
      if (database.startsWith('tn_'))
        seen.push({ ready: ready.length, template: (await databases()).includes(template) });
      return provisioner.inDatabase(database, work);
    };
    const report = await migrate({ inDatabase: look });
    expect(seen).toEqual([
      { ready: 0, template: false },
      { ready: 0, template: false },
    ]);
    expect(report).toMatchObject({ tenantsMigrated: 2, standbyWithdrawn: 1, templatesLeft: [], failed: [] });
    await finishOperations(service.app.engine);
    expect(await registry.selectFrom('standby_databases').select('id').execute()).toEqual([]);
  });

  it('migrates a tenant that an older build finishes meanwhile', async () => {
    const [first, late] = await olderTenants(2);
    if (!first || !late) throw new Error('no tenants');
    await olderReplica();
    const status = (to: string): Promise<unknown> =>
      sql`update tenants set status = ${to} where id = ${late.id}`.execute(registry);
    // It is being made when the migration begins, and ends while the migration waits for it.
    await status('provisioning');
    setTimeout(() => void status('active'), 1_000);
    const report = await migrate();
    expect(report).toMatchObject({ tenantsMigrated: 2, tenantsUnfinished: 0, failed: [] });
    expect([await versionOf(first.id), await versionOf(late.id)]).toEqual([NEWEST, NEWEST]);
  });

  it('migrates a tenant that appears while others are migrated', async () => {
    const [first, late] = await olderTenants(2);
    if (!first || !late) throw new Error('no tenants');
    await sql`update tenants set schema_version = ${NEWEST} where id = ${late.id}`.execute(registry);
    const report = await migrate({}, ({ id }) => {
      if (id === first.id)
        void sql`update tenants set schema_version = ${OLDER} where id = ${late.id}`.execute(registry);
    });
    expect(report.tenantsMigrated).toBe(2);
    expect(await versionOf(late.id)).toBe(NEWEST);
  });

  it('reports a tenant that an older build has begun and left', async () => {
    const [left] = await olderTenants(1);
    if (!left) throw new Error('no tenant');
    const status = (to: string): Promise<unknown> =>
      sql`update tenants set status = ${to} where id = ${left.id}`.execute(registry);
    await status('provisioning');
    expect(await migrate()).toMatchObject({ tenantsMigrated: 0, tenantsUnfinished: 1 });
    await status('active');
    expect(await migrate()).toMatchObject({ tenantsMigrated: 1, tenantsUnfinished: 0 });
  });

  it('enters no more databases of a server at once than it is told to', async () => {
    await olderTenants(7);
    let inside = 0;
    let most = 0;
    const counting: MigrationDeps['inDatabase'] = async (database, work) => {
      most = Math.max(most, (inside += 1));
      try {
        return await provisioner.inDatabase(database, work);
      } finally {
        inside -= 1;
      }
    };
    const told: string[] = [];
    const report = await migrate({ inDatabase: counting, atOnce: 3 }, (_, { done, all }) => {
      told.push(`${done} of ${all}`);
    });
    expect(report).toMatchObject({ tenantsMigrated: 7, failed: [] });
    expect(most).toBe(3);
    expect(told).toEqual([1, 2, 3, 4, 5, 6, 7].map((done) => `${done} of 7`));
  });

  it('leaves a tenant that a session keeps locked until the others are migrated, and then tries it again', async () => {
    const [locked, ...others] = await olderTenants(4);
    if (!locked) throw new Error('no tenants');
    const { dbName } = await rowOf(service, locked);
    const events: unknown[] = [];
    // The migration replaces this view.
    const report = await whileHeld(
      dbName,
      'tenant_schema_version',
      ({ release }) =>
        migrate({ atOnce: 2 }, ({ id }, { done, error, again }) => {
          events.push({ tenant: id === locked.id ? 'locked' : 'other', done, again, error: error && reasonOf(error) });
          if (id === locked.id) release();
        }),
      cluster,
    );
    expect(events).toEqual([
      ...others.map((_, index) => ({ tenant: 'other', done: index + 1, again: undefined, error: undefined })),
      {
        tenant: 'locked',
        done: 3,
        again: true,
        error: expect.stringMatching(/^other sessions \(pid \d+\) kept tables locked for too long \(55P03\)/) as string,
      },
      { tenant: 'locked', done: 4, again: undefined, error: undefined },
    ]);
    expect(report).toMatchObject({ tenantsMigrated: 4, failed: [] });
  });

  it('tries a tenant whose database is gone twice, reports it, and migrates the others', async () => {
    const [gone, fine] = await olderTenants(2);
    if (!gone || !fine) throw new Error('no tenants');
    await dropDatabase(gone);
    const attempts: unknown[] = [];
    const report = await migrate({}, ({ id }, { again }) => {
      if (id === gone.id) attempts.push(again);
    });
    expect(report).toMatchObject({ tenantsMigrated: 1, failed: [{ tenant: { id: gone.id } }] });
    expect(attempts).toEqual([true, false]);
    expect(await versionOf(fine.id)).toBe(NEWEST);
    await sql`delete from tenants where id = ${gone.id}`.execute(registry);
  });
});

describe('a server that fails', () => {
  /** Moves a tenant's row to another address of the same server. */
  async function moveTo({ id }: TestTenant, host: string, port: number): Promise<void> {
    await sql`update tenants set db_host = ${host}, db_port = ${port} where id = ${id}`.execute(registry);
  }

  it('in the middle of its tenants stops no other, and is asked once', async () => {
    const [here, ...there] = await olderTenants(4);
    if (!here) throw new Error('no tenant');
    const proxy = await startProxy(cluster.provisioner);
    const other = openProvisioner({ ...cluster.provisioner, port: proxy.port }, { ...LIMITS, acquireTimeout: 1_000 });
    for (const tenant of there) await moveTo(tenant, cluster.provisioner.host, proxy.port);
    let entered = 0;
    const server: FleetServer = {
      cluster: other.cluster,
      role: cluster.provisioner.user,
      atOnce: 1,
      inDatabase: async (database, work) => {
        entered += 1;
        await proxy.close();
        return other.inDatabase(database, work);
      },
    };
    const place = { host: cluster.provisioner.host, port: proxy.port };
    const report = await migrate({ others: () => Promise.resolve([{ place, server }]) });
    expect(report).toMatchObject({
      tenantsMigrated: 1,
      tenantsOfFailedClusters: 3,
      failed: [],
      clustersFailed: [{ cluster: `${place.host}:${place.port}` }],
    });
    expect(entered).toBe(1);
    expect(await versionOf(here.id)).toBe(NEWEST);
    await other.close();
    for (const tenant of there) await moveTo(tenant, cluster.provisioner.host, cluster.provisioner.port);
    expect(await migrate()).toMatchObject({ tenantsMigrated: 3, tenantsOfFailedClusters: 0 });
  });

  it('or whose password cannot be read is reported, and its tenants are not looked for on another server', async () => {
    const [tenant] = await olderTenants(1);
    if (!tenant) throw new Error('no tenant');
    await moveTo(tenant, 'elsewhere.example', 5_432);
    const error = new PlainError('the password of its provisioner does not decrypt');
    const place = { host: 'elsewhere.example', port: 5_432 };
    const report = await migrate({ others: () => Promise.resolve([{ place, error }]) });
    expect(report).toMatchObject({
      tenantsMigrated: 0,
      tenantsOfFailedClusters: 1,
      clustersFailed: [{ cluster: 'elsewhere.example:5432', error }],
    });
    expect(await versionOf(tenant.id)).toBe(OLDER);
    await moveTo(tenant, cluster.provisioner.host, cluster.provisioner.port);
    expect((await migrate()).tenantsMigrated).toBe(1);
  });
});

describe('the row and the database of a tenant', () => {
  it('disagree after a restore from an old backup: the refusal records it, and the migration mends it', async () => {
    const tenant = await service.createTenant();
    await service.app.engine.tenantPools.retire(tenant.id);
    await rebuildDatabase(service, tenant, migrationsBefore(OLDER));
    const get = () => service.send<Problem>('GET', '/products', { token: tenant.adminToken });
    expect(await get()).toMatchObject({ status: 503, body: { code: 'tenant-upgrading' } });
    await eventually(
      'the row says that the tenant is behind',
      async () => ((await versionOf(tenant.id)) ?? '') < OLDER,
    );
    expect(await migrate()).toMatchObject({ tenantsMigrated: 1, failed: [] });
    expect(await versionOf(tenant.id)).toBe(NEWEST);
    const signIn = () =>
      service.send('POST', '/auth/login', {
        body: { tenant: tenant.slug, email: ADMIN.email, password: ADMIN.password },
      });
    await eventually('it is served', async () => (await signIn()).status === 200);
  });

  it('are left as they are if a newer build has migrated the database', async () => {
    const [tenant] = await olderTenants(1);
    if (!tenant) throw new Error('no tenant');
    const row = await rowOf(service, tenant);
    const newer = { ...tenantMigrations, '9999_next': { up: () => Promise.resolve() } };
    await provisioner.inDatabase(row.dbName, async (db) => {
      await migrateToLatest(db, newer);
      // As the newer build may want it for a table of its own.
      await sql`revoke delete on products from ${sql.id(row.dbUser)}`.execute(db);
    });
    expect(await migrate()).toMatchObject({ tenantsMigrated: 0, failed: [] });
    expect(await versionOf(row.id)).toBe(OLDER);
    const { rows } = await asSuperuser(row.dbName, (db) =>
      sql`select has_table_privilege(${row.dbUser}, 'products', 'delete') as may`.execute(db),
    );
    expect(rows).toEqual([{ may: false }]);
    await sql`update tenants set schema_version = '9999_next' where id = ${row.id}`.execute(registry);
    expect((await migrate()).newer).toEqual(['9999_next']);
    expect(await versionOf(row.id)).toBe('9999_next');
    await sql`delete from tenants where id = ${row.id}`.execute(registry);
  });

  it('are no failure if the tenant is purged, or migrated by another run, after an attempt has failed', async () => {
    const [purged, elsewhere] = await olderTenants(2);
    if (!purged || !elsewhere) throw new Error('no tenants');
    await Promise.all([purged, elsewhere].map(dropDatabase));
    const changes: Promise<unknown>[] = [];
    const report = await migrate({}, ({ id }, { again }) => {
      if (again && id === purged.id) changes.push(sql`delete from tenants where id = ${id}`.execute(registry));
      if (again && id === elsewhere.id)
        changes.push(sql`update tenants set schema_version = ${NEWEST} where id = ${id}`.execute(registry));
    });
    await Promise.all(changes);
    expect(report.failed).toEqual([]);
    await sql`delete from tenants where id = ${elsewhere.id}`.execute(registry);
  });

  it('renew the connections of a replica after a migration that some builds cannot work with', async () => {
    const tenant = await service.createTenant();
    const { dbName } = await rowOf(service, tenant);
    const get = () => service.send<Problem>('GET', '/products', { token: tenant.adminToken });
    expect((await get()).status).toBe(200);
    const up = async (db: Kysely<unknown>): Promise<void> => {
      await sql`alter table products drop sku`.execute(db);
    };
    const newer = { ...tenantMigrations, '9999_contract': { up, needs: '9999_contract' } };
    await provisioner.inDatabase(dbName, (db) => migrateToLatest(db, newer));
    await recordSchema(registry, tenant.id, { version: '9999_contract', renews: true });
    await eventually('it is refused as documented', async () => (await get()).body.code === 'tenant-upgrading', 5_000);
    expect((await get()).status).toBe(503);
    await sql`delete from tenants where id = ${tenant.id}`.execute(registry);
  });
});

describe('a template that cannot be copied', () => {
  const template = (): string => templateName(tenantMigrations, cluster.provisioner.user);
  const make = (slug: string) =>
    service.send<Problem>('POST', '/tenants', {
      token: service.operatorToken,
      body: { name: 'Collated', slug, admin: ADMIN },
    });

  /** The check of the cluster. */
  async function check(): Promise<{ body: { usable: boolean; problems: string[] } }> {
    const { body: clusters } = await service.send<{ data: { id: string }[] }>('GET', '/clusters', {
      token: service.operatorToken,
    });
    return service.send('POST', `/clusters/${clusters.data[0]?.id ?? ''}/check`, { token: service.operatorToken });
  }

  async function comment(installation: string): Promise<void> {
    const text = templateMarkText({ installation, state: 'template', version: NEWEST });
    await sql`comment on database ${sql.id(template())} is ${sql.lit(text)}`.execute(provisioner.cluster);
  }

  // The template of the test server was made for another registry.
  beforeAll(async () => comment(await findInstallationId(registry)));

  it('with a collation of another version is named in the log, the operation and the check, and made again by the migration', async () => {
    const cause =
      /the template database was made with version 0\.0 of the collation, and the server now has .*npm run migrate/;
    await asSuperuser('postgres', (db) =>
      sql`update pg_database set datcollversion = '0.0' where datname = ${template()}`.execute(db),
    );
    lines.length = 0;
    expect(await make('collated')).toMatchObject({ status: 503, body: { code: 'provisioning-failed' } });
    await eventually('the log names the cause', () => Promise.resolve(lines.some((line) => cause.test(line))));
    const operations = await service.send<{ data: { error: string }[] }>('GET', '/operations?kind=create&limit=1', {
      token: service.operatorToken,
    });
    expect(operations.body.data[0]?.error).toMatch(cause);
    const { body } = await check();
    expect(body.usable).toBe(false);
    expect(body.problems.join()).toMatch(/^The template database was made with version 0\.0 of the collation/);

    expect(await migrate()).toMatchObject({ templateMade: true, templatesLeft: [] });
    expect((await databases()).filter((name) => name.startsWith('tenantry_'))).toEqual([template()]);
    expect((await check()).body).toMatchObject({ usable: true, problems: [] });
    expect((await make('collated')).status).toBe(201);
    expect(await migrate()).toMatchObject({ templateMade: false });
  });

  it('stays if it does not carry the mark of this installation', async () => {
    await comment('00000000-0000-4000-8000-000000000000');
    await asSuperuser('postgres', (db) =>
      sql`update pg_database set datcollversion = '0.0' where datname = ${template()}`.execute(db),
    );
    await expect(migrate()).rejects.toThrow('the template carries the mark of another installation, or none');
    expect(await databases()).toContain(template());
    await comment(await findInstallationId(registry));
    expect(await migrate()).toMatchObject({ templateMade: true });
  });

  it('that is missing is named in the log and in the check, and made by the migration', async () => {
    await asSuperuser('postgres', (db) => sql`drop database ${sql.id(template())}`.execute(db));
    lines.length = 0;
    expect((await make('no-template')).status).toBe(503);
    await eventually('the log names the cause', () =>
      Promise.resolve(lines.some((line) => line.includes('the server has no template database of this build'))),
    );
    expect((await check()).body.problems.join()).toMatch(/^The server has no template database of this build/);
    expect(await migrate()).toMatchObject({ templateMade: true });
    expect((await make('no-template')).status).toBe(201);
  });
});
