// The tenant directory: the registry's rows as this process knows them. A known tenant costs no query until a change is
// told; one that the registry cannot confirm is served for a stated time.
import type { Kysely } from 'kysely';
import { LRUCache } from 'lru-cache';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, findTenantBySlug, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { FreshCache } from '../replicas/fresh-cache.js';
import { believedFor, type Events } from '../replicas/events.js';
import { isTenantId } from './tenant-ids.js';

/** Rows of some 1 kB. */
const MAX_REMEMBERED = 20_000;

export interface TenantDirectory {
  /** The tenant where it is known and fresh, without waiting. Only what connections depend on is kept up to date. */
  peek(id: string): TenantRecord | undefined;
  /** @throws DatabaseFault where the registry does not answer and the tenant is not known */
  find(id: string): Promise<TenantRecord | undefined>;
  /** The same as it is now, for whoever found that what is known is wrong. @throws DatabaseFault as above */
  reload(id: string): Promise<TenantRecord | undefined>;
  /** For sign-in, by slug or id. @throws DatabaseFault as above */
  findBySlugOrId(tenant: string): Promise<TenantRecord | undefined>;
}

/**
 * @param outageGrace how long (ms) a known tenant is served while the registry does not answer
 * @param knowCluster called with a tenant's place before the tenant is known: whoever connects to it is never ahead of what is
 *   known of its cluster
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
  // Slugs can move from one tenant to another: which tenant had one last is only where to look first.
  const idsBySlug = new LRUCache<string, string>({ max: MAX_REMEMBERED });
  // Remembered for an outage only, and never believed before.
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
    // A feed that is silent soon says whether it changed.
    const known = byId.peek(id) ?? (await events.caughtUp()?.then(() => byId.peek(id)));
    // A change of its slug is told as any other is.
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
