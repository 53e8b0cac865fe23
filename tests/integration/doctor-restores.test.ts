// `tenantry doctor --repair` after a restore: of a tenant's database from a dump, and of the registry to an earlier moment.
import { sql, type RawBuilder } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { findInstallationId } from '../../db/registry/installation.js';
import { latestVersion } from '../../db/shared/migrator.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { startService, asSuperuser, type TestService, type TestTenant } from '../support/app.js';
import { codesOf, findingsOf, mend, originOf } from '../support/doctor.js';
import { holdEveryJob } from '../support/held-jobs.js';
import { contentOf, inside, signIn, stateOfDatabase, writeProduct } from '../support/evidence.js';
import { putBack, takeBackup } from '../support/registry-backup.js';
import { roleExists, statusOf } from '../support/rows-and-marks.js';
import { migrationsBefore, rebuildDatabase } from '../support/tenant-schemas.js';
import { rowOf } from '../support/tenants.js';

let service: TestService;
let resumeJobs: () => Promise<void>;
beforeAll(async () => {
  service = await startService({ env: { RECONCILE_EVERY_MS: '3600000', STANDBY_DATABASES: '0' } });
  resumeJobs = await holdEveryJob(service);
});
afterAll(async () => {
  await resumeJobs();
  await service.close();
});

const onServer = (statement: RawBuilder<unknown>): Promise<unknown> =>
  asSuperuser('postgres', (db) => statement.execute(db));

const act = async (id: string, path: string): Promise<void> => {
  const { status } = await service.send('POST', `/tenants/${id}/${path}`, { token: service.operatorToken });
  expect(status).toBeLessThan(300);
};

/**
 * Puts a copy in the place of a tenant's database, as `createdb` and `pg_restore --no-owner --no-acl` leave it: without mark and
 * rights, open to PUBLIC, with everything in it of one owner.
 *
 * @param owner of what is in it
 */
async function restore({ id, dbName, dbUser }: TenantRecord, owner: string): Promise<void> {
  const provisioner = service.config.tenants.provisioner.user;
  await service.app.engine.tenantPools.retire(id);
  await onServer(sql`
    select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = ${dbName} and pid <> pg_backend_pid()`);
  await onServer(sql`alter database ${sql.id(dbName)} rename to ${sql.id(`old_${dbName}`)}`);
  await onServer(
    sql`create database ${sql.id(dbName)} template ${sql.id(`old_${dbName}`)} owner ${sql.id(provisioner)}`,
  );
  await onServer(sql`drop database ${sql.id(`old_${dbName}`)}`);
  await inside(dbName, async (db) => {
    await sql`drop owned by ${sql.id(dbUser)}`.execute(db);
    if (owner === provisioner) return;
    const { rows } = await sql<{ name: string; kind: string }>`
      select oid::regclass::text as name, case relkind when 'v' then 'view' else 'table' end as kind from pg_class
      where relkind in ('r', 'v') and relnamespace::regnamespace::text in ('public', 'migration')`.execute(db);
    for (const { name, kind } of rows)
      await sql`alter ${sql.raw(kind)} ${sql.raw(name)} owner to ${sql.id(owner)}`.execute(db);
    await sql`alter schema migration owner to ${sql.id(owner)}`.execute(db);
  });
}

async function isServed({ slug }: TestTenant): Promise<void> {
  await expect.poll(() => signIn(service, slug), { timeout: 60_000 }).toBe(200);
  await writeProduct(service, slug);
}

describe('a database that was restored', () => {
  it('without owners and rights, and from before the last migration, is served again after one repair', async () => {
    const tenant = await service.createTenant();
    const row = await rowOf(service, tenant);
    await rebuildDatabase(service, row, migrationsBefore(latestVersion(tenantMigrations)));
    await restore(row, service.config.tenants.provisioner.user);
    expect(await signIn(service, tenant.slug)).toBe(503);
    expect(codesOf(await findingsOf(service, tenant))).toEqual([
      'grants-missing',
      'mark-missing',
      'public-may-connect',
      'schema-older',
    ]);
    const { left, problems } = await mend(service, { tenants: [tenant.id] });
    expect([left, problems]).toEqual([[], []]);
    await isServed(tenant);
  });

  it('by a superuser gets statements for the superuser, and is served after them and one repair', async () => {
    const tenant = await service.createTenant();
    const row = await rowOf(service, tenant);
    await restore(row, 'postgres');
    const [owners] = (await findingsOf(service, tenant)).filter(({ code }) => code === 'owners-wrong');
    expect(owners?.repair).toBeUndefined();
    const statements = /run in the database: (.*;) Then/.exec(owners?.todo ?? '')?.[1] ?? '';
    expect(statements).toContain('ALTER TABLE products OWNER TO');
    const before = await mend(service, { tenants: [tenant.id] });
    expect([codesOf(before.left), before.problems]).toEqual([['mark-missing', 'owners-wrong'], []]);
    await inside(row.dbName, (db) => sql.raw(statements).execute(db));
    expect((await mend(service, { tenants: [tenant.id] })).left).toEqual([]);
    await isServed(tenant);
  });

  it('on a server without the tenant’s role is served again after one repair, with the stored password', async () => {
    const tenant = await service.createTenant();
    const row = await rowOf(service, tenant);
    await restore(row, service.config.tenants.provisioner.user);
    await onServer(sql`drop owned by ${sql.id(row.dbUser)}`);
    await onServer(sql`drop role ${sql.id(row.dbUser)}`);
    expect(await roleExists(row.dbUser)).toBe(false);
    const { left, problems } = await mend(service, { tenants: [tenant.id] });
    expect([left, problems]).toEqual([[], []]);
    await isServed(tenant);
  });

  it('from the dump of another tenant is left as it is', async () => {
    const [tenant, other] = [await service.createTenant(), await service.createTenant()];
    const row = await rowOf(service, tenant);
    await restore(row, service.config.tenants.provisioner.user);
    await inside(row.dbName, (db) => sql`update tenant_marker set tenant_id = ${other.id}`.execute(db));
    const { left, problems } = await mend(service, { tenants: [tenant.id] });
    expect([codesOf(left), problems]).toEqual([['mark-missing', 'marker-foreign'], []]);
    expect(await signIn(service, tenant.slug)).toBe(503);
  });

  it('as an empty database is not taken for the tenant’s, and nothing is made in it', async () => {
    const tenant = await service.createTenant();
    const { dbName } = await rowOf(service, tenant);
    await service.app.engine.tenantPools.retire(tenant.id);
    await onServer(sql`alter database ${sql.id(dbName)} rename to ${sql.id(`old_${dbName}`)}`);
    const owner = service.config.tenants.provisioner.user;
    await onServer(sql`create database ${sql.id(dbName)} owner ${sql.id(owner)}`);
    const { left, problems } = await mend(service, { tenants: [tenant.id] });
    expect([codesOf(left), problems]).toEqual([['mark-missing', 'marker-missing'], []]);
    const { rows } = await inside(dbName, (db) =>
      sql`select from pg_class where relnamespace = 'public'::regnamespace`.execute(db),
    );
    expect(rows).toHaveLength(0);
    await onServer(sql`drop database ${sql.id(dbName)}`);
    await onServer(sql`alter database ${sql.id(`old_${dbName}`)} rename to ${sql.id(dbName)}`);
    expect(await findingsOf(service, tenant)).toEqual([]);
  });

  it('is completed by the next doctor if the first one ends after any of its repairs', async () => {
    const tenant = await service.createTenant();
    const row = await rowOf(service, tenant);
    await rebuildDatabase(service, row, migrationsBefore(latestVersion(tenantMigrations)));
    await restore(row, service.config.tenants.provisioner.user);
    const wish = { tenants: [tenant.id] };
    let interrupted = 0;
    const interrupt = async (): Promise<void> => {
      await service.app.engine.doctor.mend(wish, await originOf(service), {
        agree: () => Promise.resolve(),
        repaired: () => {
          interrupted += 1;
          throw new Error('the doctor was killed');
        },
      });
    };
    while ((await findingsOf(service, tenant)).length > 0) await interrupt().catch(() => undefined);
    expect(interrupted).toBe(4);
    await isServed(tenant);
  });

  it('is mended by two doctors at once as by one', async () => {
    const tenant = await service.createTenant();
    await restore(await rowOf(service, tenant), service.config.tenants.provisioner.user);
    await Promise.all([mend(service, { tenants: [tenant.id] }), mend(service, { tenants: [tenant.id] })]);
    expect((await mend(service, { tenants: [tenant.id] })).left).toEqual([]);
    await isServed(tenant);
  });
});

describe('a registry that was restored to an earlier moment', () => {
  const only = ['registry-older', 'database-unnamed', 'role-left', 'database-left'] as const;

  /** Does the work, and restores the registry to the moment before. */
  async function before(work: () => Promise<void>): Promise<void> {
    const { database } = service.config.registry.connection;
    const backup = await asSuperuser(database, (db) => takeBackup(db));
    await work();
    await asSuperuser(database, (db) => putBack(db, backup));
  }

  it('gives each tenant the status that its database shows; one that was deleted since is suspended', async () => {
    const [suspended, resumed, deleted, restored, twice] = [
      await service.createTenant(),
      await service.createTenant(),
      await service.createTenant(),
      await service.createTenant(),
      await service.createTenant(),
    ];
    await act(resumed.id, 'suspend');
    await service.send('DELETE', `/tenants/${restored.id}`, { token: service.operatorToken });
    await before(async () => {
      await act(suspended.id, 'suspend');
      await act(resumed.id, 'resume');
      await service.send('DELETE', `/tenants/${deleted.id}`, { token: service.operatorToken });
      await act(restored.id, 'restore');
      await act(twice.id, 'suspend');
      await act(twice.id, 'resume');
    });
    const tenants = [suspended, resumed, deleted, restored, twice].map(({ id }) => id);
    for (const id of tenants) expect(codesOf(await findingsOf(service, { id }))).toEqual(['registry-older']);
    const { left, problems } = await mend(service, { tenants });
    expect([left, problems]).toEqual([[], []]);
    expect(await Promise.all(tenants.map((id) => statusOf(service, id)))).toEqual([
      'suspended',
      'active',
      'suspended',
      'active',
      'active',
    ]);
    // Sessions that the registry has forgotten to be ended do not come back.
    const { status } = await service.send('GET', '/products', { token: twice.adminToken });
    expect(status).toBe(401);
    for (const each of [resumed, restored, twice]) await isServed(each);
  });

  it('gets the row of a tenant that was made since, suspended, and its data are there when it is resumed', async () => {
    let made: TestTenant | undefined;
    let row: TenantRecord | undefined;
    await before(async () => {
      made = await service.createTenant();
      await writeProduct(service, made.slug);
      row = await rowOf(service, made);
    });
    const { id = '', dbName = '' } = { ...made, ...row };
    const diagnosis = await service.app.engine.doctor.examine({ only });
    expect(diagnosis.findings.map(({ code, database }) => [code, database])).toEqual([['database-unnamed', dbName]]);
    expect(await mend(service, { only })).toEqual({ left: [], repaired: ['database-unnamed'], problems: [] });
    expect(await findingsOf(service, { id })).toEqual([]);
    expect(await statusOf(service, id)).toBe('suspended');
    expect(await stateOfDatabase(dbName)).toEqual({ exists: true, open: false });
    await act(id, 'resume');
    const { slug } = await rowOf(service, { id });
    await expect.poll(() => signIn(service, slug), { timeout: 60_000 }).toBe(200);
    expect((await contentOf(dbName))?.products).toHaveLength(1);
  });

  it('gets the row of such a tenant also after a repair that stopped before it wrote the row', async () => {
    let id = '';
    await before(async () => {
      ({ id } = await service.createTenant());
    });
    const other = await service.createTenant(`recovered-${id.slice(-12)}`);
    const stopped = await mend(service, { only });
    expect([codesOf(stopped.left), stopped.problems]).toEqual([
      ['database-unnamed'],
      [expect.stringContaining('has a row')],
    ]);
    const renamed = await service.send('PATCH', `/tenants/${other.id}`, {
      token: service.operatorToken,
      body: { slug: 'another-slug' },
    });
    expect(renamed.status, renamed.text).toBe(200);
    expect((await mend(service, { only })).left).toEqual([]);
    await act(id, 'resume');
    expect(await findingsOf(service, { id })).toEqual([]);
    await isServed({ ...other, id, slug: `recovered-${id.slice(-12)}` });
  });

  it('makes no row for a database whose marker names another tenant than its mark', async () => {
    let dbName = '';
    await before(async () => {
      const made = await service.createTenant();
      ({ dbName } = await rowOf(service, made));
      await inside(dbName, (db) => sql`update tenant_marker set tenant_id = gen_random_uuid()`.execute(db));
    });
    const { left, problems } = await mend(service, { only });
    expect(left.map(({ code, database }) => [code, database])).toEqual([['database-unnamed', dbName]]);
    expect(problems).toEqual([expect.stringContaining('another tenant')]);
    await onServer(sql`comment on database ${sql.id(dbName)} is null`);
    await onServer(sql`comment on role ${sql.id(dbName)} is null`);
  });

  it('names a role and a standby database that no row names, and leaves them', async () => {
    const installation = await findInstallationId(service.app.engine.registry);
    const name = `tn_${'f'.repeat(24)}${String(process.pid).padStart(8, '0')}`;
    const id = '01900000-0000-7000-8000-0000000000aa';
    await onServer(sql`create role ${sql.id(name)}`);
    await onServer(sql`comment on role ${sql.id(name)} is ${sql.lit(`tenantry ${installation} ${id} tenant`)}`);
    const left = await mend(service, { only });
    expect(codesOf(left.left)).toEqual(['role-left']);
    const owner = service.config.tenants.provisioner.user;
    await onServer(sql`create database ${sql.id(name)} owner ${sql.id(owner)}`);
    await onServer(sql`comment on database ${sql.id(name)} is ${sql.lit(`tenantry ${installation} ${id} standby`)}`);
    expect(codesOf((await mend(service, { only })).left)).toEqual(['database-left']);
    expect([await roleExists(name), (await stateOfDatabase(name)).exists]).toEqual([true, true]);
    await onServer(sql`drop database ${sql.id(name)}`);
    await onServer(sql`drop role ${sql.id(name)}`);
  });

  // The last test of this file: it signs the operator of the tests out.
  it('ends the sessions of all operators, some of which were ended since', async () => {
    const wish = { only: [...only, 'sessions-revived'] as const };
    expect((await service.app.engine.doctor.examine(wish)).findings).toEqual([]);
    await before(async () => {
      await service.createTenant();
    });
    const { findings } = await service.app.engine.doctor.examine(wish);
    expect(codesOf(findings)).toEqual(['database-unnamed', 'sessions-revived']);
    const answer = (): Promise<number> =>
      service.send('GET', '/tenants', { token: service.operatorToken }).then(({ status }) => status);
    expect(await answer()).toBe(200);
    expect((await mend(service, wish)).left).toEqual([]);
    await expect.poll(answer, { timeout: 30_000 }).toBe(401);
  });
});
