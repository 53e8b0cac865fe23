// `tenantry doctor` on tenants: each break is found under its code, alone, and after a repair nothing is left.
import { sql, type RawBuilder } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import type { DoctorCode } from '../../src/doctor/doctor-codes.js';
import { startService, asSuperuser, connectAs, type TestService, type TestTenant } from '../support/app.js';
import { codesOf, findingsOf, mend } from '../support/doctor.js';
import { holdEveryJob } from '../support/held-jobs.js';
import { inside, stateOfDatabase } from '../support/evidence.js';
import { commentOnBoth, roleExists, statusOf, writeRow } from '../support/rows-and-marks.js';
import { migrationsBefore, rebuildDatabase } from '../support/tenant-schemas.js';
import { markAgain, rowOf } from '../support/tenants.js';

const newest = latestVersion(tenantMigrations);

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
const within = (row: TenantRecord, statement: RawBuilder<unknown>): Promise<unknown> =>
  inside(row.dbName, (db) => statement.execute(db));

interface Break {
  readonly code: DoctorCode;
  readonly what: string;
  readonly done: (row: TenantRecord, tenant: TestTenant) => Promise<unknown>;
  /** Without it --repair mends it. */
  readonly undone?: (row: TenantRecord) => Promise<unknown>;
}

const act = (id: string, path: string): Promise<{ readonly status: number }> =>
  service.send('POST', `/tenants/${id}/${path}`, { token: service.operatorToken });

const breaks: readonly Break[] = [
  {
    code: 'database-missing',
    what: 'a database that is gone',
    done: async ({ dbName }) => {
      await service.app.engine.tenantPools.retire((await idOf(dbName)) ?? '');
      await onServer(sql`alter database ${sql.id(dbName)} rename to ${sql.id(`gone_${dbName}`)}`);
    },
    undone: ({ dbName }) => onServer(sql`alter database ${sql.id(`gone_${dbName}`)} rename to ${sql.id(dbName)}`),
  },
  {
    code: 'database-not-ours',
    what: 'a database of another role',
    done: ({ dbName }) => onServer(sql`alter database ${sql.id(dbName)} owner to current_user`),
    undone: ({ dbName }) =>
      onServer(sql`alter database ${sql.id(dbName)} owner to ${sql.id(service.config.tenants.provisioner.user)}`),
  },
  {
    code: 'database-foreign',
    what: 'the mark of another tenant',
    done: (row) => commentOnBoth(row, `tenantry ${row.id} ${row.id} tenant`),
    undone: ({ id, generation }) => markAgain(service, id, 'tenant', generation),
  },
  { code: 'mark-missing', what: 'a database without a mark', done: (row) => commentOnBoth(row, null) },
  {
    code: 'mark-outdated',
    what: 'a mark of an earlier change',
    done: (row) => writeRow(service, row.id, sql`generation = generation + 2`),
  },
  {
    code: 'registry-older',
    what: 'a mark of a later change',
    done: (row) => writeRow(service, row.id, sql`generation = generation - 1`),
  },
  {
    code: 'door-wrong',
    what: 'the closed database of an active tenant',
    done: ({ dbName }) => onServer(sql`alter database ${sql.id(dbName)} allow_connections false`),
  },
  {
    code: 'door-wrong',
    what: 'the open database of a suspended tenant',
    done: async ({ id, dbName }) => {
      expect((await act(id, 'suspend')).status).toBe(200);
      await onServer(sql`alter database ${sql.id(dbName)} allow_connections true`);
    },
  },
  {
    code: 'role-missing',
    what: 'a role that is gone',
    done: async (row) => {
      await service.app.engine.tenantPools.retire(row.id);
      await within(row, sql`drop owned by ${sql.id(row.dbUser)}`);
      await onServer(sql`drop owned by ${sql.id(row.dbUser)}`);
      await onServer(sql`drop role ${sql.id(row.dbUser)}`);
      expect(await roleExists(row.dbUser)).toBe(false);
    },
  },
  {
    code: 'role-not-ours',
    what: 'a role that is a superuser',
    done: ({ dbUser }) => onServer(sql`alter role ${sql.id(dbUser)} superuser`),
    undone: ({ dbUser }) => onServer(sql`alter role ${sql.id(dbUser)} nosuperuser`),
  },
  {
    code: 'role-wrong',
    what: 'a role that may not log in, and may create databases',
    done: ({ dbUser }) => onServer(sql`alter role ${sql.id(dbUser)} nologin createdb inherit`),
  },
  {
    code: 'role-wrong',
    what: 'a role that may not log in',
    done: ({ dbUser }) => onServer(sql`alter role ${sql.id(dbUser)} nologin`),
  },
  {
    code: 'role-member',
    what: 'a role that may read everything',
    done: ({ dbUser }) => onServer(sql`grant pg_monitor to ${sql.id(dbUser)}`),
    undone: ({ dbUser }) => onServer(sql`revoke pg_monitor from ${sql.id(dbUser)}`),
  },
  {
    code: 'role-limit',
    what: 'another CONNECTION LIMIT',
    done: ({ dbUser }) => onServer(sql`alter role ${sql.id(dbUser)} connection limit 1`),
  },
  {
    code: 'role-settings',
    what: 'a role without its settings',
    done: ({ dbUser }) => onServer(sql`alter role ${sql.id(dbUser)} reset all`),
  },
  {
    code: 'role-password',
    what: 'another password',
    done: ({ dbUser }) => onServer(sql`alter role ${sql.id(dbUser)} password 'another-password'`),
  },
  {
    code: 'public-may-connect',
    what: 'PUBLIC with rights on the database',
    done: ({ dbName }) => onServer(sql`grant connect, temporary on database ${sql.id(dbName)} to public`),
  },
  {
    code: 'connect-missing',
    what: 'a role that may not connect',
    done: ({ dbName, dbUser }) => onServer(sql`revoke connect on database ${sql.id(dbName)} from ${sql.id(dbUser)}`),
  },
  {
    code: 'owners-wrong',
    what: "tables of the tenant's own role",
    done: (row) =>
      within(row, sql`grant create on schema public to ${sql.id(row.dbUser)}`).then(() =>
        within(
          row,
          sql`alter table products owner to ${sql.id(row.dbUser)};
            revoke create on schema public from ${sql.id(row.dbUser)}`,
        ),
      ),
  },
  {
    code: 'grants-missing',
    what: 'a role without its rights',
    done: (row) => within(row, sql`revoke all on all tables in schema public from ${sql.id(row.dbUser)}`),
  },
  {
    code: 'grants-missing',
    what: 'a role that can rewrite the audit',
    done: (row) => within(row, sql`grant update on audit to ${sql.id(row.dbUser)}`),
  },
  {
    code: 'marker-missing',
    what: 'a database without a marker',
    done: (row) => within(row, sql`delete from tenant_marker`),
  },
  {
    code: 'marker-foreign',
    what: 'the marker of another tenant',
    done: (row) => within(row, sql`update tenant_marker set tenant_id = gen_random_uuid()`),
    undone: (row) => within(row, sql`update tenant_marker set tenant_id = ${row.id}`),
  },
  {
    code: 'schema-older',
    what: 'a database from before the last migration',
    done: (row) => rebuildDatabase(service, row, migrationsBefore(newest)),
  },
  {
    code: 'schema-behind',
    what: 'a tenant that is not migrated yet',
    done: async (row) => {
      await rebuildDatabase(service, row, migrationsBefore(newest));
      const before = Object.keys(migrationsBefore(newest)).sort().at(-1) ?? '';
      await writeRow(service, row.id, sql`schema_version = ${before}`);
    },
  },
  {
    code: 'schema-newer',
    what: 'a migration of a newer build',
    done: (row) => within(row, sql`insert into migration.kysely_migration (name, timestamp) values ('9999_newer', '')`),
    undone: (row) => within(row, sql`delete from migration.kysely_migration where name = '9999_newer'`),
  },
  {
    code: 'schema-differs',
    what: 'a migration of another line of builds',
    done: (row) => within(row, sql`insert into migration.kysely_migration (name, timestamp) values ('0000_other', '')`),
    undone: (row) => within(row, sql`delete from migration.kysely_migration where name = '0000_other'`),
  },
  {
    code: 'schema-drift',
    what: 'a column that was added by hand',
    done: (row) => within(row, sql`alter table products add column colour text`),
    undone: (row) => within(row, sql`alter table products drop column colour`),
  },
  {
    code: 'index-invalid',
    what: 'an index whose creation was interrupted',
    done: (row) =>
      within(
        row,
        sql`set allow_system_table_mods = on;
          update pg_index set indisvalid = false where indexrelid = 'products_price_id'::regclass`,
      ),
    undone: (row) =>
      within(
        row,
        sql`set allow_system_table_mods = on;
          update pg_index set indisvalid = true where indexrelid = 'products_price_id'::regclass`,
      ),
  },
];

async function idOf(dbName: string): Promise<string | undefined> {
  const row = await service.app.engine.registry
    .selectFrom('tenants')
    .select('id')
    .where('db_name', '=', dbName)
    .executeTakeFirst();
  return row?.id;
}

it('the doctor finds nothing on a tenant that was just made, also while it is suspended or deleted', async () => {
  const tenant = await service.createTenant();
  expect(await findingsOf(service, tenant)).toEqual([]);
  expect((await act(tenant.id, 'suspend')).status).toBe(200);
  expect(await findingsOf(service, tenant)).toEqual([]);
  await service.send('DELETE', `/tenants/${tenant.id}`, { token: service.operatorToken });
  expect(await findingsOf(service, tenant)).toEqual([]);
  expect(await stateOfDatabase((await rowOf(service, tenant)).dbName)).toEqual({ exists: true, open: false });
});

describe('the doctor finds, alone and under its code,', () => {
  it.each(breaks)('$what: $code', async ({ code, done, undone }) => {
    const tenant = await service.createTenant();
    const row = await rowOf(service, tenant);
    await done(row, tenant);
    const findings = await findingsOf(service, tenant);
    expect(findings.map((each) => [each.code, each.found])).toEqual([[code, expect.any(String)]]);
    expect(findings[0]?.tenant).toEqual({ id: tenant.id, slug: tenant.slug });
    expect(findings[0]?.repair === undefined).toBe(undone !== undefined);
    // A check changes nothing.
    expect(codesOf(await findingsOf(service, tenant))).toEqual([code]);
    const { left, repaired, problems } = await mend(service, { tenants: [tenant.id] });
    expect(problems).toEqual([]);
    if (undone) {
      expect(repaired).toEqual([]);
      expect(codesOf(left)).toEqual([code]);
      await undone(row);
      expect(await findingsOf(service, tenant)).toEqual([]);
    } else {
      expect(left.map((each) => [each.code, each.found])).toEqual([]);
      expect(repaired[0]).toBe(code);
      // Again: nothing to do.
      expect((await mend(service, { tenants: [tenant.id] })).repaired).toEqual([]);
    }
    if ((await statusOf(service, tenant.id)) === 'active')
      await expect
        .poll(async () => (await service.send('GET', '/products', { token: tenant.adminToken })).status, {
          timeout: 30_000,
        })
        .toSatisfy((status: number) => status === 200 || status === 401);
  });
});

it('each repair is audited as the operator, with the code and the database', async () => {
  const tenant = await service.createTenant();
  const row = await rowOf(service, tenant);
  await onServer(sql`alter role ${sql.id(row.dbUser)} connection limit 1`);
  await mend(service, { tenants: [tenant.id] });
  const registry = connectAs<unknown>(service.config.registry.connection.database);
  const { rows } = await sql`
    select actor_kind as kind, user_agent as client, details from audit
    where action = 'doctor.repaired' and tenant_id = ${tenant.id}`
    .execute(registry.db)
    .finally(() => registry.close(0));
  expect(rows).toEqual([
    { kind: 'operator', client: 'tenantry doctor', details: { code: 'role-limit', database: row.dbName } },
  ]);
});
