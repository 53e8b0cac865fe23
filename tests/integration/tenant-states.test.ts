// Suspending, resuming, deleting, restoring and purging tenants: every pair of state and act by the table of
// src/tenants/tenant-states.ts, in the registry and in PostgreSQL.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Registry, TenantStatus } from '../../db/registry/registry-schema.js';
import { findTenant, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { createDatabase } from '../../db/driver/client.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { databaseIs, tenantStatuses, transitions, type TenantAct } from '../../src/tenants/tenant-states.js';
import { createLockSession } from '../../db/registry/lock-session.js';
import { createTenantLocks } from '../../src/tenants/tenant-locks.js';
import { migrateAll } from '../../src/rollouts/migrate-fleet.js';
import { openProvisioner } from '../../src/clusters/provisioner-connections.js';
import {
  ADMIN,
  asSuperuser,
  connectAs,
  startService,
  type Answer,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { finishOperations } from '../support/operations.js';
import { enter as enterAs, passwordOf, rowOf } from '../support/tenants.js';

interface Tenant {
  readonly id: string;
  readonly status: TenantStatus;
  readonly active: boolean;
  readonly deletedAt: string | null;
  readonly purgeAfter: string | null;
  readonly code?: string;
  readonly detail?: string;
}

const UNKNOWN_ID = '01900000-0000-7000-8000-00000000ffff';
const GRACE = 5 * 3_600_000;

let service: TestService;
beforeAll(async () => {
  service = await startService({ env: { TENANT_DELETION_GRACE_MS: String(GRACE) } });
});
afterAll(() => service.close());

type OperatorsAct = Exclude<TenantAct, 'activate' | 'abandon'>;

/** Each act by its request; two of them have two requests. */
const asks: readonly (readonly [OperatorsAct, 'POST' | 'PATCH' | 'DELETE', string, object?])[] = [
  ['suspend', 'POST', '/suspend'],
  ['suspend', 'PATCH', '', { active: false }],
  ['resume', 'POST', '/resume'],
  ['resume', 'PATCH', '', { active: true }],
  ['delete', 'DELETE', ''],
  ['restore', 'POST', '/restore'],
  ['purge', 'POST', '/purge'],
];

function ask(
  [, method, path, body]: (typeof asks)[number],
  id: string,
  token = service.operatorToken,
): Promise<Answer<Tenant>> {
  return service.send<Tenant>(method, `/tenants/${id}${path}`, { token, ...(body && { body }) });
}

function act(name: OperatorsAct, id: string): Promise<Answer<Tenant>> {
  return ask(asks.find(([each]) => each === name) ?? expect.fail(name), id);
}

/** Brings a new tenant into a state, by acts as far as possible. */
async function inState(status: TenantStatus, before: 'active' | 'suspended' = 'active'): Promise<TestTenant> {
  const tenant = await service.createTenant();
  if (status === 'suspended' || before === 'suspended') expect((await act('suspend', tenant.id)).status).toBe(200);
  if (status === 'deleted') expect((await act('delete', tenant.id)).status).toBe(204);
  if (status === 'provisioning' || status === 'deleting')
    await service.app.engine.registry
      .updateTable('tenants')
      .set({ status, on_purge: 'drop' })
      .where('id', '=', tenant.id)
      .execute();
  return tenant;
}

async function actsOn(id: string): Promise<string[]> {
  const rows = await service.app.engine.registry
    .selectFrom('audit')
    .select('action')
    .where('tenant_id', '=', id)
    .orderBy('at')
    .orderBy('id')
    .execute();
  return rows.map(({ action }) => action);
}

/** Whether PostgreSQL accepts the tenant's role, by its catalog; undefined without such a database. */
async function isOpen({ dbName, dbUser }: TenantRecord): Promise<boolean | undefined> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ open: boolean }>`
      select datallowconn and has_database_privilege(${dbUser}, oid, 'CONNECT') as open
      from pg_database where datname = ${dbName}`.execute(db),
  );
  return rows[0]?.open;
}

async function sessionsIn(database: string): Promise<number> {
  const { rows } = await asSuperuser('postgres', (db) =>
    // An autovacuum worker in it is no client's session.
    sql<{ count: number }>`
      select count(*)::int as count from pg_stat_activity
      where datname = ${database} and backend_type = 'client backend'`.execute(db),
  );
  return rows[0]?.count ?? -1;
}

/** Connects to the tenant's database as its role, with its password. Returns the SQLSTATE of the refusal. */
async function enter(row: TenantRecord): Promise<string | undefined> {
  const handle = enterAs({ row, password: passwordOf(service, row) });
  try {
    await sql`select 1`.execute(handle.db);
    return undefined;
  } catch (error) {
    if (error instanceof DatabaseFault) return error.reason;
    throw error;
  } finally {
    await handle.close(0);
  }
}

const signIn = async ({ slug }: TestTenant): Promise<number> => {
  const { email, password } = ADMIN;
  return (await service.send('POST', '/auth/login', { body: { tenant: slug, email, password } })).status;
};
const asUser = ({ adminToken }: TestTenant): Promise<Answer<Tenant>> =>
  service.send<Tenant>('GET', '/products', { token: adminToken });

const pairs = tenantStatuses.flatMap((status) => asks.map((how) => [status, how[1] + how[2], how] as const));

describe('every pair of state and act has the result of the table:', () => {
  it.each(pairs)('%s, %s', async (status, _name, how) => {
    const [name] = how;
    const tenant = await inState(status);
    const before = await rowOf(service, tenant);
    const acts = await actsOn(tenant.id);
    const targets = transitions[status][name];
    const answer = await ask(how, tenant.id);

    if (!targets) {
      expect([answer.status, answer.body.code]).toEqual([409, 'tenant-state']);
      expect(answer.body.detail).toContain(status);
      expect(await rowOf(service, tenant)).toEqual(before);
      expect(await actsOn(tenant.id)).toEqual(acts);
      expect(await isOpen(before)).toBe(databaseIs[status] !== 'closed');
      return;
    }
    expect(answer.status, answer.text).toBe(['delete', 'purge'].includes(name) ? 204 : 200);
    if (targets.includes('deleting')) {
      expect(await findTenant(service.app.engine.registry, tenant.id)).toBeUndefined();
      expect(await isOpen(before)).toBeUndefined();
      return;
    }
    // What was active is active again.
    const [to] = targets;
    const after = await rowOf(service, tenant);
    expect(after.status).toBe(to);
    expect(await isOpen(after)).toBe(to === 'active');
    if (answer.status === 200)
      expect(answer.body).toMatchObject({ id: tenant.id, status: to, active: to === 'active' });
    // An act without a change leaves no row.
    expect((await actsOn(tenant.id)).length - acts.length).toBe(to === status ? 0 : 1);
    if (to === status) expect(after).toEqual(before);
  });

  it('an unknown tenant gets 404, and a user 403', async () => {
    const tenant = await service.createTenant();
    for (const how of asks) {
      const unknown = await ask(how, UNKNOWN_ID);
      expect([how[0], unknown.status, unknown.body.code]).toEqual([how[0], 404, 'not-found']);
      const user = await ask(how, tenant.id, tenant.adminToken);
      expect([how[0], user.status, user.body.code]).toEqual([how[0], 403, 'forbidden']);
    }
    expect((await rowOf(service, tenant)).status).toBe('active');
  });
});

describe('a suspended tenant', () => {
  it('is refused by the service and by PostgreSQL, and served again after the resumption', async () => {
    const tenant = await service.createTenant();
    const row = await rowOf(service, tenant);
    expect((await asUser(tenant)).status).toBe(200);
    expect(await enter(row)).toBeUndefined();

    expect((await act('suspend', tenant.id)).status).toBe(200);
    expect(await sessionsIn(row.dbName)).toBe(0);
    expect(await enter(row)).toBe('55000');
    expect((await asUser(tenant)).body.code).toBe('tenant-suspended');
    expect(await signIn(tenant)).toBe(401);

    expect((await act('resume', tenant.id)).status).toBe(200);
    expect(await enter(row)).toBeUndefined();
    expect((await asUser(tenant)).status).toBe(200);
    expect(await signIn(tenant)).toBe(200);
  });

  it('is changed with all other fields of the request, or not at all', async () => {
    const [tenant, other] = [await service.createTenant(), await service.createTenant()];
    const patch = (body: object): Promise<Answer<Tenant>> =>
      service.send<Tenant>('PATCH', `/tenants/${tenant.id}`, { token: service.operatorToken, body });
    for (const active of [false, true]) {
      const refused = await patch({ active, slug: other.slug });
      expect([refused.status, refused.body.code]).toEqual([409, 'slug-taken']);
      const row = await rowOf(service, tenant);
      expect([row.status, row.slug]).toEqual([active ? 'suspended' : 'active', tenant.slug]);
      expect(await isOpen(row)).toBe(!active);
      expect((await patch({ active, name: `Now ${String(active)}` })).body).toMatchObject({
        active,
        name: `Now ${String(active)}`,
      });
    }
  });
});

describe('a deleted tenant', () => {
  it('answers its users as an unknown tenant does, and is closed in PostgreSQL', async () => {
    const tenant = await service.createTenant();
    const refresh = await service.send<{ refreshToken: string }>('POST', '/auth/login', {
      body: { tenant: tenant.slug, email: ADMIN.email, password: ADMIN.password },
    });
    expect((await asUser(tenant)).status).toBe(200);
    const before = await rowOf(service, tenant);
    expect((await act('delete', tenant.id)).status).toBe(204);

    expect(await sessionsIn(before.dbName)).toBe(0);
    expect(await enter(before)).toBe('55000');
    expect((await asUser(tenant)).body).toMatchObject({ status: 403, code: 'forbidden' });
    const { refreshToken } = refresh.body;
    const unknown = { tenant: 'no-such-tenant', email: ADMIN.email, password: ADMIN.password };
    const [deleted, nowhere, refreshed] = await Promise.all([
      service.send('POST', '/auth/login', { body: { ...unknown, tenant: tenant.slug } }),
      service.send('POST', '/auth/login', { body: unknown }),
      service.send('POST', '/auth/refresh', { body: { refreshToken } }),
    ]);
    expect({ ...deleted.body, requestId: '' }).toEqual({ ...nowhere.body, requestId: '' });
    expect([deleted.status, refreshed.status, refreshed.body['code']]).toEqual([401, 401, 'invalid-refresh-token']);
  });

  it.each(['active', 'suspended'] as const)('is restored to its former state: %s', async (before) => {
    const tenant = await inState('deleted', before);
    const shown = await service.send<Tenant>('GET', `/tenants/${tenant.id}`, { token: service.operatorToken });
    const { deletedAt, purgeAfter } = shown.body;
    expect(Date.parse(purgeAfter ?? '') - Date.parse(deletedAt ?? '')).toBe(GRACE);

    const restored = await act('restore', tenant.id);
    expect(restored.body).toMatchObject({ status: before, deletedAt: null, purgeAfter: null });
    expect(await isOpen(await rowOf(service, tenant))).toBe(before === 'active');
    expect((await asUser(tenant)).status).toBe(before === 'active' ? 200 : 403);
    if (before === 'suspended') expect((await act('resume', tenant.id)).status).toBe(200);
    expect(await signIn(tenant)).toBe(200);
  });

  it('is purged after its grace time, and not before', async () => {
    const [over, within] = [await inState('deleted'), await inState('deleted', 'suspended')];
    const gone = await rowOf(service, over);
    const { registry, housekeeping } = service.app.engine;
    const at = new Date(Date.now() - GRACE - 1_000).toISOString();
    await registry.updateTable('tenants').set({ deleted_at: at }).where('id', '=', over.id).execute();
    const later = new Date(Date.now() - GRACE + 600_000).toISOString();
    await registry.updateTable('tenants').set({ deleted_at: later }).where('id', '=', within.id).execute();
    await housekeeping.runNow('lifecycle purge');
    await finishOperations(service.app.engine);

    expect(await findTenant(registry, over.id)).toBeUndefined();
    expect(await isOpen(gone)).toBeUndefined();
    expect((await actsOn(over.id)).at(-1)).toBe('tenant.purged');
    expect((await act('restore', over.id)).status).toBe(404);
    expect((await act('restore', within.id)).body.status).toBe('suspended');
  });

  it('whose removal was interrupted is removed by another worker', async () => {
    const tenant = await service.createTenant();
    const row = await rowOf(service, tenant);
    const { registry } = service.app.engine;
    await act('delete', tenant.id);
    const begun = { status: 'deleting', on_purge: 'drop', deleted_at: null, status_before_deletion: null } as const;
    await registry.updateTable('tenants').set(begun).where('id', '=', tenant.id).execute();
    await finishOperations(service.app.engine);
    expect(await findTenant(registry, tenant.id)).toBeUndefined();
    expect(await isOpen(row)).toBeUndefined();
  });

  it('whose database was not marked as deleted keeps it, whatever its row says, until an operator purges it', async () => {
    const tenant = await service.createTenant();
    const row = await rowOf(service, tenant);
    const { registry } = service.app.engine;
    const begun = { status: 'deleting', on_purge: 'drop' } as const;
    await registry.updateTable('tenants').set(begun).where('id', '=', tenant.id).execute();
    await finishOperations(service.app.engine);
    expect((await rowOf(service, tenant)).status).toBe('deleting');
    expect(await isOpen(row)).toBe(true);
    expect((await act('purge', tenant.id)).status).toBe(204);
    expect(await isOpen(row)).toBeUndefined();
  });
});

describe('a database that disagrees with its tenant’s row', () => {
  /** The job records operations, and a worker takes them. */
  async function settle(): Promise<void> {
    await service.app.engine.housekeeping.runNow('lifecycle settle');
    await finishOperations(service.app.engine);
  }

  it('is opened or closed, whatever the reason, and other databases are not touched', async () => {
    const [opened, closed, busy, right] = await Promise.all([
      inState('suspended'),
      inState('active'),
      inState('deleted'),
      inState('active'),
    ]);
    const [openRow, closedRow, busyRow, rightRow] = await Promise.all(
      [opened, closed, busy, right].map((each) => rowOf(service, each)),
    );
    if (!openRow || !closedRow || !busyRow || !rightRow) throw new Error('four tenants have four rows');
    await asSuperuser('postgres', async (db) => {
      await sql`alter database ${sql.id(openRow.dbName)} allow_connections true`.execute(db);
      await sql`alter database ${sql.id(closedRow.dbName)} allow_connections false`.execute(db);
      await sql`alter database ${sql.id(busyRow.dbName)} allow_connections true`.execute(db);
      await sql`grant connect on database ${sql.id(busyRow.dbName)} to ${sql.id(busyRow.dbUser)}`.execute(db);
    });
    expect(await enter(busyRow)).toBeUndefined();
    await settle();
    const open = await Promise.all([openRow, closedRow, busyRow, rightRow].map(isOpen));
    expect(open).toEqual([false, true, false, true]);
    expect([await enter(openRow), await enter(closedRow)]).toEqual(['55000', undefined]);
    expect((await asUser(right)).status).toBe(200);
  });

  it('is not touched while another worker holds the tenant’s lock', async () => {
    const tenant = await inState('suspended');
    const row = await rowOf(service, tenant);
    const other = connectAs<Registry>(service.config.registry.connection.database);
    await createTenantLocks(createLockSession(other.db, () => undefined)).attempt(tenant.id, async () => {
      await asSuperuser('postgres', async (db) => {
        await sql`alter database ${sql.id(row.dbName)} allow_connections true`.execute(db);
        await sql`grant connect on database ${sql.id(row.dbName)} to ${sql.id(row.dbUser)}`.execute(db);
      });
      await settle();
      expect(await isOpen(row)).toBe(true);
    });
    await other.close(0);
    await settle();
    expect(await isOpen(row)).toBe(false);
  });

  it('loses its open sessions if it is closed', async () => {
    const tenant = await service.createTenant();
    const row = await rowOf(service, tenant);
    expect((await asUser(tenant)).status).toBe(200);
    expect(await sessionsIn(row.dbName)).toBeGreaterThan(0);
    // By hand, without the service: the row changes, and this process's pool does not know in time.
    const { registry } = service.app.engine;
    await asSuperuser('postgres', (db) =>
      sql`alter database ${sql.id(row.dbName)} allow_connections false`.execute(db),
    );
    await registry.updateTable('tenants').set({ status: 'suspended' }).where('id', '=', tenant.id).execute();
    await settle();
    await expect.poll(() => sessionsIn(row.dbName), { timeout: 1_000 }).toBe(0);
  });
});

describe('migrations', () => {
  it('reach suspended and deleted tenants, however long they take, and their roles still cannot connect', async () => {
    const { app, config } = service;
    const tenants = [await inState('suspended'), await inState('deleted')];
    // This replica would work on the rollout too.
    await app.engine.rolling.close();
    const behind = { schema_version: '0000' };
    for (const { id } of tenants)
      await app.engine.registry.updateTable('tenants').set(behind).where('id', '=', id).execute();
    const timeout = 2_000;
    const central = createDatabase<Registry>(
      config.registry.connection,
      { ...config.registry.pool, timeout },
      { applicationName: 'tests', preparedStatements: false },
    );
    const provisioner = openProvisioner(config.tenants.provisioner, config.tenants.provisionerPool);
    try {
      const seen: (string | undefined)[] = [];
      const report = await migrateAll({
        registry: central.db,
        cluster: provisioner.cluster,
        provisioner: config.tenants.provisioner.user,
        inDatabase: (database, work) =>
          provisioner.inDatabase(database, async (db) => {
            const row = await app.engine.registry
              .selectFrom('tenants')
              .select('id')
              .where('db_name', '=', database)
              .executeTakeFirst();
            if (row) seen.push(await enter(await rowOf(service, row)));
            // Longer than the connection that holds its lock may wait in a transaction.
            if (seen.length === 1) await sleep(timeout + 500);
            return work(db);
          }),
      });
      expect(report.failed).toEqual([]);
      expect(report.tenantsMigrated).toBe(tenants.length);
      // Not even while the owner was in it: permission denied.
      expect(seen).toEqual(['42501', '42501']);
    } finally {
      await Promise.all([central.close(0), provisioner.close()]);
    }
    for (const { id } of tenants) {
      const row = await rowOf(service, { id });
      expect(row.schemaVersion).not.toBe('0000');
      expect(await isOpen(row)).toBe(false);
      expect(await enter(row)).toBe('55000');
    }
  });
});
