// Rollouts on replicas that serve: a rollout that an operator starts is prepared and done by them, without a command.
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { SERVICE } from '../../src/audit/operator-act.js';
import { createRegistry, startService, type TestService, type TestTenant } from '../support/app.js';
import { eventually } from '../support/service-process.js';
import { migrationsUpTo, rebuildDatabase } from '../support/tenant-schemas.js';

const OLDER = '0008_schema_version';
const NEWEST = latestVersion(tenantMigrations);

let services: TestService[];

beforeAll(async () => {
  const registry = await createRegistry();
  services = [await startService({ registry }), await startService({ registry, operator: false })];
  for (const { app } of services) app.engine.rolling.begin();
});
afterAll(() => Promise.all(services.map((service) => service.close())));

async function olderTenants(service: TestService, count: number): Promise<TestTenant[]> {
  const made: TestTenant[] = [];
  for (let index = 0; index < count; index += 1) made.push(await service.createTenant());
  for (const tenant of made) {
    for (const { app } of services) await app.engine.tenantPools.retire(tenant.id);
    await rebuildDatabase(service, tenant, migrationsUpTo(OLDER));
    await sql`update tenants set schema_version = ${OLDER} where id = ${tenant.id}`.execute(
      service.app.engine.registry,
    );
  }
  return made;
}

it('is done by the replicas, with a canary and waves, and the tenants are served', async () => {
  const [service, other] = services;
  if (!service || !other) throw new Error('no services');
  const { rollouts, registry } = service.app.engine;
  const tenants = await olderTenants(service, 4);
  const { id } = await rollouts.start({ canary: { count: 1 }, waves: [50], budget: 0 }, SERVICE);
  await eventually('the rollout is done', async () => (await rollouts.find(id))?.state === 'done', 60_000);
  expect(await other.app.engine.rollouts.find(id)).toMatchObject({
    prepared: true,
    progress: { done: 4, failed: 0, percent: 100, waves: [{ done: 1 }, { done: 2 }, { done: 1 }] },
  });
  for (const { id: tenantId } of tenants) expect((await findTenant(registry, tenantId))?.schemaVersion).toBe(NEWEST);
});

it('raises no epoch for migrations that every build can work with, so that no pool is opened again', async () => {
  const [service] = services;
  if (!service) throw new Error('no service');
  const { rollouts, registry } = service.app.engine;
  const [tenant] = await olderTenants(service, 1);
  if (!tenant) throw new Error('no tenant');
  const needed = Object.entries(tenantMigrations).some(([name, { needs }]) => name > OLDER && needs !== undefined);
  const before = (await findTenant(registry, tenant.id))?.epoch ?? 0;
  const { id } = await rollouts.start({}, SERVICE);
  await eventually('the rollout is done', async () => (await rollouts.find(id))?.state === 'done', 60_000);
  const after = (await findTenant(registry, tenant.id))?.epoch ?? 0;
  expect(needed ? after > before : after === before).toBe(true);
});

it('comes to the end of its running items when a replica closes, and another one continues', async () => {
  const [service, other] = services;
  if (!service || !other) throw new Error('no services');
  const { rollouts } = other.app.engine;
  await olderTenants(service, 6);
  const { id } = await service.app.engine.rollouts.start({}, SERVICE);
  await eventually('some are done', async () => ((await rollouts.find(id))?.progress.done ?? 0) > 0, 60_000);
  await service.close();
  await eventually('the rollout is done', async () => (await rollouts.find(id))?.state === 'done', 60_000);
  expect(await rollouts.find(id)).toMatchObject({ progress: { done: 6, failed: 0 } });
});
