// Gives the databases of a former build, and databases without a mark from a dump, the mark of their tenants. Bounds their roles,
// which a former build did not. Reads the tenants in pages.
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, listTenantPlaces, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { listDoorRows, type DoorRow } from '../../db/registry/tenant-worklists.js';
import { whileOpenToOwner } from '../../db/server/access.js';
import { findMarks } from '../../db/server/marks.js';
import { boundRuntimeRoles } from '../../db/server/server-admin.js';
import { claimInside, compare, complete, look } from '../operations/evidence.js';
import { PlainError } from '../jobs/plain-words.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import type { FleetServer, FleetServers } from './fleet-servers.js';

export interface FailedTenant {
  readonly tenant: Pick<TenantRecord, 'id' | 'slug'>;
  readonly error: unknown;
}

export interface MarkingDeps {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  readonly servers: FleetServers;
  readonly installation: string;
}

/** Databases in one query. */
const PAGE = 1_000;

/** @returns how many databases got a mark, the tenants whose database got none, and how many roles got bounds */
export async function markDatabases(
  deps: MarkingDeps,
): Promise<{ readonly marked: number; readonly bounded: number; readonly failed: readonly FailedTenant[] }> {
  const { registry, servers } = deps;
  const places = await listTenantPlaces(registry);
  const failed: FailedTenant[] = [];
  let marked = 0;
  let bounded = 0;

  async function markPage(server: FleetServer, page: readonly DoorRow[]): Promise<void> {
    const rows = new Map(page.map((row) => [row.dbName, row]));
    // Servers are marked side by side: the sum must not be read before the wait.
    const lacked = await boundRuntimeRoles(
      server.cluster,
      page.map(({ dbUser }) => dbUser),
    );
    bounded += lacked;
    for (const found of await findMarks(server.cluster, [...rows.keys()])) {
      const row = rows.get(found.name);
      if (!row || !['former', 'unmarked'].includes(compare(row, found, deps.installation))) continue;
      if (servers.of(row) !== server) return;
      try {
        if (await markOne(deps, server, row)) marked += 1;
      } catch (error) {
        const tenant = await findTenant(registry, row.id);
        if (tenant) failed.push({ tenant, error });
        await servers.suspect(server, error);
      }
    }
  }

  await servers.onEach(async (server) => {
    for (const { host, port } of places) {
      if (servers.of({ dbHost: host, dbPort: port }) !== server) continue;
      for (let after = ''; ;) {
        const page = await listDoorRows(registry, { place: { host, port }, after, limit: PAGE });
        if (page.length > 0) await markPage(server, page);
        if (page.length < PAGE) break;
        after = page.at(-1)?.dbName ?? '';
      }
    }
  });
  return { marked, bounded, failed };
}

/** @returns whether it got its mark; false if another worker is at the tenant */
function markOne({ registry, locks, installation }: MarkingDeps, on: FleetServer, { id }: DoorRow): Promise<boolean> {
  return locks.attempt(id, () => mark(registry, on, id, installation));
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
