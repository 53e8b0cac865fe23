// The row of the default cluster while replicas of two configurations serve, as during a rolling deployment.
import type { Kysely } from 'kysely';
import { beforeAll, afterAll, expect, it } from 'vitest';
import type { ClustersTable, Registry } from '../../db/registry/registry-schema.js';
import { ADMIN, connectAs, createRegistry, startServiceForTest, type TestService } from '../support/app.js';

let registry: string;
let central: ReturnType<typeof connectAs<Registry>>;
let tenants = 0;

beforeAll(async () => {
  registry = await createRegistry();
  central = connectAs<Registry>(registry);
});
afterAll(() => central.close(0));

async function createTenant({ send, operatorToken }: TestService): Promise<number> {
  tenants += 1;
  const body = { name: 'Acme', slug: `acme-${tenants}`, admin: ADMIN };
  return (await send('POST', '/tenants', { token: operatorToken, body })).status;
}

function rows(db: Kysely<Registry>): Promise<Pick<ClustersTable, 'connection_budget' | 'connection_reserve'>[]> {
  return db.selectFrom('clusters').selectAll().execute();
}

it('is made again when it was removed by hand', async () => {
  const service = await startServiceForTest({ registry });
  const [before] = await rows(central.db);
  await central.db.deleteFrom('clusters').execute();
  expect(await createTenant(service)).toBe(201);
  const [after] = await rows(central.db);
  expect(after?.connection_budget).toBe(before?.connection_budget);
});

it('is written at the start of a replica, and by no request of a replica with another configuration', async () => {
  const older = await startServiceForTest({ registry, operator: false, env: { CLUSTER_CONNECTION_BUDGET: '30' } });
  expect(await rows(central.db)).toMatchObject([{ connection_budget: 30 }]);
  const newer = await startServiceForTest({ registry, operator: false, env: { CLUSTER_CONNECTION_BUDGET: '40' } });
  const written = await rows(central.db);
  expect(written).toMatchObject([{ connection_budget: 40 }]);
  for (const service of [older, newer, older, newer]) {
    expect(await createTenant(service)).toBe(201);
    expect((await service.send('GET', '/clusters', { token: service.operatorToken })).status).toBe(200);
    // Compared whole: `updated_at` and the sealed password would differ too.
    expect(await rows(central.db)).toEqual(written);
  }
});
