// How a command shows one tenant.
import type { TenantRecord } from '../../../db/registry/tenant-queries.js';
import { showTenant, type ShownTenant } from '../../tenants/tenant-shown.js';
import type { Given } from '../terminal/cli-command.js';
import { fieldsOf, shortTime } from '../terminal/table.js';
import { clusterNames } from '../terminal/named-rows.js';

/** Shows a tenant with its settings. */
export async function outputTenant({ engine, settings, out }: Given<object>, tenant: TenantRecord): Promise<void> {
  const shown = showTenant(tenant, settings.tenants);
  const clusters = await clusterNames(engine.registry);
  out.show(shown, () => tenantText(shown, clusters.get(shown.clusterId)));
}

export function tenantText(tenant: ShownTenant, cluster: string | undefined): string {
  const { max, acquireTimeout, timeout, idleTimeoutMillis } = tenant.poolOptions;
  return fieldsOf([
    ['slug', tenant.slug],
    ['name', tenant.name],
    ['id', tenant.id],
    ['status', tenant.status],
    ['cluster', cluster],
    ['schema', tenant.schemaVersion],
    ['created', shortTime(tenant.createdAt)],
    ['changed', shortTime(tenant.updatedAt)],
    ['deleted', shortTime(tenant.deletedAt)],
    ['purged after', shortTime(tenant.purgeAfter)],
    ['read cache', tenant.readCache],
    ['pool', `max ${max}, acquire ${acquireTimeout} ms, statement ${timeout} ms, idle ${idleTimeoutMillis} ms`],
    ...Object.entries(tenant.limits).map(([name, limit]) => [`limit ${name}`, limit ?? 'none'] as const),
  ]);
}
