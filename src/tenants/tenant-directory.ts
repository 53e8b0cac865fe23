// The tenant directory caches the registry's tenant rows. A known tenant costs no query until a notification of a change. If the
// registry does not answer, a known tenant is served for a configured time.
import type { Kysely } from 'kysely';
import { recentMap } from '../lib/recent-map.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, findTenantBySlug, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { FreshCache } from '../replicas/fresh-cache.js';
import { believedFor, type Events } from '../replicas/events.js';
import { isTenantId } from './tenant-ids.js';

/** Rows of some 1 kB. */
const MAX_REMEMBERED = 20_000;

export interface TenantDirectory {
  /** The tenant if it is known and fresh, without waiting. Only the fields that connections depend on are kept up to date. */
  peek(id: string): TenantRecord | undefined;
  /** @throws DatabaseFault if the registry does not answer and the tenant is not known */
  find(id: string): Promise<TenantRecord | undefined>;
  /** Reads the tenant again, for a caller that found the known row to be wrong. @throws DatabaseFault as for `find` */
  reload(id: string): Promise<TenantRecord | undefined>;
  /** For sign-in, by slug or id. @throws DatabaseFault as for `find` */
  findBySlugOrId(tenant: string): Promise<TenantRecord | undefined>;
}

/**
 * @param outageGrace how long (ms) a known tenant is served while the registry does not answer
 * @param knowCluster called with a tenant's place before the tenant is known, so that a caller that connects to the tenant
 *   already knows its cluster
 */
export function createTenantDirectory(
  registry: Kysely<Registry>,
  events: Events,
  outageGrace: number,
  knowCluster: (place: { readonly host: string; readonly port: number }) => Promise<unknown>,
): TenantDirectory {
  const placed = async (tenant: TenantRecord | undefined): Promise<TenantRecord | undefined> => {
    if (tenant) await knowCluster({ host: tenant.dbHost, port: tenant.dbPort });
    return tenant;
  };
  const byId = new FreshCache<TenantRecord>({
    max: MAX_REMEMBERED,
    freshFor: () => believedFor(events),
    caughtUp: () => events.caughtUp(),
    staleFor: outageGrace,
    load: async (id) => placed(await findTenant(registry, id)),
  });
  // A slug can move from one tenant to another. So the last known tenant of a slug is only checked first.
  const idsBySlug = recentMap<string, string>(MAX_REMEMBERED);
  // Used during an outage only; otherwise the database is asked.
  const bySlug = new FreshCache<TenantRecord>({
    max: MAX_REMEMBERED,
    freshFor: () => 0,
    staleFor: outageGrace,
    load: async (slug) => placed(await findTenantBySlug(registry, slug)),
  });
  events.subscribe((change) => {
    if (change.kind === 'tenant') byId.invalidate(change.tenantId);
    else if (change.kind === 'any') byId.expire();
  });

  async function findBySlug(slug: string): Promise<TenantRecord | undefined> {
    const id = idsBySlug.get(slug) ?? '';
    // A silent feed soon knows whether the tenant has changed.
    const known = byId.peek(id) ?? (await events.caughtUp()?.then(() => byId.peek(id)));
    // A change of the slug is published like any other change.
    if (known?.slug === slug) return known;
    const found = await bySlug.get(slug);
    if (found) idsBySlug.set(slug, found.id);
    return found;
  }

  return {
    peek: (id) => byId.peek(id),
    find: (id) => byId.get(id),
    reload: (id) => byId.reload(id),
    findBySlugOrId: (tenant) => (isTenantId(tenant) ? byId.get(tenant) : findBySlug(tenant)),
  };
}
