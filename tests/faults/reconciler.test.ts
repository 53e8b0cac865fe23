// The reconciler: it removes what has no row only if it carries this installation's mark and never held a tenant. A cluster that
// is down delays no other cluster.
import { sql, type Kysely } from 'kysely';
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { findInstallationId } from '../../db/registry/installation.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { createRuntimeRole, createTenantDatabase } from '../../db/server/server-admin.js';
import { markText, type Mark } from '../../db/server/marks.js';
import { scramVerifier } from '../../db/server/scram.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { newDatabaseName, newTenantId } from '../../src/tenants/tenant-ids.js';
import { openProvisioner, type Provisioner } from '../../src/clusters/provisioner-connections.js';
import { templateName } from '../../src/operations/template/template-names.js';
import { asSuperuser, startService, type TestService } from '../support/app.js';
import { finishOperations } from '../support/operations.js';

const lines: string[] = [];
let service: TestService;
let provisioner: Provisioner;
let registry: Kysely<Registry>;
let installation: string;

beforeAll(async () => {
  service = await startService({
    env: { LOG_LEVEL: 'error', RECONCILE_EVERY_MS: '3600000' },
    overrides: { logStream: { write: (line) => void lines.push(line) } },
  });
  const { provisioner: connection, provisionerPool } = service.config.tenants;
  provisioner = openProvisioner(connection, provisionerPool);
  registry = service.app.engine.registry;
  installation = await findInstallationId(registry);
  // Otherwise the run at the start would find what the first test has only half made.
  await reconcile();
});
afterAll(async () => {
  await Promise.all([service.close(), provisioner.close()]);
});

async function reconcile(): Promise<void> {
  await service.app.engine.housekeeping.runNow('reconciler');
}

/** Makes a database and a role without a row. Returns their name. */
async function orphan(mark?: Partial<Mark>): Promise<string> {
  const name = newDatabaseName();
  const bare = { installation, id: newTenantId(), state: 'standby', claim: null, generation: 0 } as const;
  const whole = mark && { mark: markText({ ...bare, ...mark }) };
  const verifier = await scramVerifier('never-used', 1);
  await createRuntimeRole(provisioner.cluster, { name, verifier, connectionLimit: 1, ...whole });
  const template = templateName(tenantMigrations, service.config.tenants.provisioner.user);
  await createTenantDatabase(provisioner.cluster, { name, template, runtimeRole: name, ...whole });
  return name;
}

/** What exists under a name on the server. */
async function remains(name: string): Promise<string[]> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ kind: string }>`
      select 'database' as kind from pg_database where datname = ${name}
      union all select 'role' from pg_roles where rolname = ${name}`.execute(db),
  );
  return rows.map(({ kind }) => kind);
}

it('drops a database and a role that carry its mark, never held a tenant and have no row', async () => {
  const name = await orphan({});
  await reconcile();
  expect(await remains(name)).toEqual([]);
});

it.each<[string, () => Partial<Mark> | undefined]>([
  ['that may have been a tenant’s', () => ({ state: 'tenant' })],
  ['that was being made', () => ({ state: 'making', claim: randomUUID(), generation: 1 })],
  ['whose tenant was deleted', () => ({ state: 'deleted', claim: randomUUID(), generation: 2 })],
  ['of another installation', () => ({ installation: randomUUID() })],
  ['without a mark', () => undefined],
])('keeps a database and a role that have no row: a database %s', async (_what, mark) => {
  const name = await orphan(mark());
  await reconcile();
  expect(await remains(name)).toEqual(['database', 'role']);
});

it('logs once, as an error, a database that may be a tenant’s and has no row', async () => {
  const name = await orphan({ state: 'tenant' });
  await reconcile();
  await reconcile();
  const told = lines.filter((line) => line.includes(name) && line.includes('left as it is'));
  expect(told.map((line) => JSON.parse(line) as object)).toMatchObject([
    { level: 'error', security: true, event: 'evidence-refused', name, step: 'orphans' },
  ]);
});

it('continues with other clusters while one is down, and finishes the rest when that cluster is back', async () => {
  const tenant = await service.createTenant('reconciled');
  const other = await service.createTenant('reconciled-later');
  const id = newTenantId();
  await registry
    .insertInto('clusters')
    .values({
      id,
      name: 'down',
      host: '127.0.0.1',
      port: 1,
      region: null,
      provisioner_user: 'nobody',
      provisioner_password: 'v1.never.opened.here.x',
      tls: 'off',
      tls_ca: null,
      connection_budget: 2,
      connection_reserve: 2,
      standby_target: 1,
    })
    .execute();
  // The row on the unreachable cluster comes first.
  const { dbPort } = (await findTenant(registry, tenant.id)) ?? { dbPort: 0 };
  const [down, up] = [tenant, other];
  for (const { id } of [down, up]) {
    expect((await service.send('DELETE', `/tenants/${id}`, { token: service.operatorToken })).status).toBe(204);
    // As left by a process that was killed right after it began the purge.
    const begun = { status: 'deleting', on_purge: 'drop', deleted_at: null, status_before_deletion: null } as const;
    await registry.updateTable('tenants').set(begun).where('id', '=', id).execute();
  }
  await registry.updateTable('tenants').set({ db_port: 1 }).where('id', '=', down.id).execute();
  const name = await orphan({});

  await reconcile();
  await service.app.engine.housekeeping.runNow('standby databases');
  await finishOperations(service.app.engine);
  expect(await findTenant(registry, up.id)).toBeUndefined();
  expect(await remains(name)).toEqual([]);
  expect(await findTenant(registry, down.id)).toMatchObject({ status: 'deleting' });

  await registry.updateTable('tenants').set({ db_port: dbPort }).where('id', '=', down.id).execute();
  await finishOperations(service.app.engine);
  expect(await findTenant(registry, down.id)).toBeUndefined();
  await registry.deleteFrom('standby_databases').where('cluster_id', '=', id).execute();
  await registry.deleteFrom('clusters').where('name', '=', 'down').execute();
});

it('does not touch a tenant that is active or suspended', async () => {
  const active = await service.createTenant('reconciler-active');
  const suspended = await service.createTenant('reconciler-suspended');
  await registry.updateTable('tenants').set({ status: 'suspended' }).where('id', '=', suspended.id).execute();
  await reconcile();
  expect(await findTenant(registry, active.id)).toMatchObject({ status: 'active' });
  const row = await findTenant(registry, suspended.id);
  expect(row).toMatchObject({ status: 'suspended' });
  expect(await remains(row?.dbName ?? '')).toEqual(['database', 'role']);
});
