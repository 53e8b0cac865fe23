// Records the statements of this build: of the tenants' routes, and of making, changing and removing a tenant.
import { registryMigrations } from '../../db/registry/migrations/index.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import type { TestCluster } from './cluster.js';
import { recordStatements, type RecordedBuild } from './recorded-statements.js';
import { startServiceIn, type TestService } from './service.js';
import { walkTenant } from './tenant-walk.js';

/** Starts the service on the cluster, and uses it. */
export async function recordBuild(cluster: TestCluster): Promise<RecordedBuild> {
  const recorder = recordStatements();
  try {
    const service = await startServiceIn(cluster);
    await use(service).finally(() => service.close());
  } finally {
    recorder.stop();
  }
  const { registryService, registryOwner, provisioner, superuser } = cluster;
  const others = [registryService, registryOwner, provisioner, superuser].map(({ user }) => user);
  return {
    tenant: { schema: latestVersion(tenantMigrations), statements: recorder.sentBy((user) => !others.includes(user)) },
    registry: {
      schema: latestVersion(registryMigrations),
      statements: recorder.sentBy((user) => user === registryService.user),
    },
  };
}

async function use(service: TestService): Promise<void> {
  const { id, slug } = await service.createTenant();
  await walkTenant(service.send, { id, slug }, service.app.routeTable);
  const operator = async (method: 'GET' | 'POST' | 'DELETE', url: string): Promise<void> => {
    const { status, text } = await service.send(method, url, { token: service.operatorToken });
    if (status >= 300) throw new Error(`${method} ${url} answered ${status}: ${text}`);
  };
  await operator('GET', '/tenants');
  for (const act of ['rotate-password', 'sign-out', 'suspend', 'resume'])
    await operator('POST', `/tenants/${id}/${act}`);
  await operator('GET', `/tenants/${id}/audit`);
  await operator('DELETE', `/tenants/${id}`);
  await operator('POST', `/tenants/${id}/purge`);
}
