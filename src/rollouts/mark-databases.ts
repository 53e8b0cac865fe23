// Gives the databases of a former build, and databases without a mark from a dump, the mark of their tenants.
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, listProvisionedTenants, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { whileOpenToOwner } from '../../db/server/access.js';
import { findMarks } from '../../db/server/marks.js';
import { claimInside, compare, complete, look } from '../operations/evidence.js';
import { PlainError } from '../jobs/plain-words.js';
import type { FleetServer } from './fleet-servers.js';
import type { FailedTenant, TenantsToMigrate } from './migrate-tenants.js';

/** Databases in one query. */
const PAGE = 1_000;

/** @returns how many databases got a mark, and the tenants whose database got none */
export async function markDatabases(
  deps: TenantsToMigrate,
): Promise<{ readonly marked: number; readonly failed: readonly FailedTenant[] }> {
  const failed: FailedTenant[] = [];
  let marked = 0;
  for (const [server, tenants] of await listUnmarked(deps))
    for (const tenant of tenants) {
      try {
        const { registry, locks, installation } = deps;
        if (await locks.attempt(tenant.id, () => mark(registry, server, tenant.id, installation))) marked += 1;
      } catch (error) {
        failed.push({ tenant, error });
        await deps.servers.suspect(server, error);
        if (!deps.servers.of(tenant)) break;
      }
    }
  return { marked, failed };
}

/** Without the tenants of clusters that have failed. */
async function listUnmarked({
  registry,
  servers,
  installation,
}: TenantsToMigrate): Promise<ReadonlyMap<FleetServer, readonly TenantRecord[]>> {
  const unmarked = new Map<FleetServer, readonly TenantRecord[]>();
  const groups = servers.group(await listProvisionedTenants(registry));
  await servers.onEach(async (server) => {
    const tenants = groups.get(server) ?? [];
    const found: TenantRecord[] = [];
    for (let from = 0; from < tenants.length; from += PAGE) {
      const page = new Map(tenants.slice(from, from + PAGE).map((tenant) => [tenant.dbName, tenant]));
      for (const marked of await findMarks(server.cluster, [...page.keys()])) {
        const tenant = page.get(marked.name);
        if (tenant && ['former', 'unmarked'].includes(compare(tenant, marked, installation))) found.push(tenant);
      }
    }
    unmarked.set(server, found);
  });
  return unmarked;
}

/** Runs under the tenant's lock. @throws Error if the database does not prove to be the tenant's */
async function mark(registry: Kysely<Registry>, on: FleetServer, id: string, installation: string): Promise<void> {
  const tenant = await findTenant(registry, id);
  const seen = tenant && (await look(on, tenant, installation));
  if (!tenant || !seen || !['former', 'unmarked'].includes(seen.verdict)) return;
  const completed = await complete(registry, on, tenant, seen, installation);
  if (!completed) throw new PlainError('its database carries neither its mark nor its marker');
  if (!seen.found.open)
    await whileOpenToOwner(on.cluster, completed.dbName, () => claimInside(on.inDatabase, completed));
}
