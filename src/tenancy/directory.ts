// The tenant directory: the registry's rows as this process knows them. A known tenant costs no query until a change is
// told; one that the registry cannot confirm is served for a stated time.
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/central/schema.js';
import { findTenant, findTenantBySlug, type TenantRecord } from '../../db/central/tenants.js';
import { FreshCache } from '../cache/fresh-cache.js';
import { believedFor, type Events } from '../events.js';
import { isTenantId } from './ids.js';

/** Rows of some 1 kB. */
const MAX_REMEMBERED = 20_000;

export interface TenantDirectory {
  /** The tenant where it is known and fresh, without waiting. Only what connections depend on is kept up to date. */
  peek(id: string): TenantRecord | undefined;
  /** @throws DatabaseFault where the registry does not answer and the tenant is not known */
  find(id: string): Promise<TenantRecord | undefined>;
  /** For sign-in, by slug or id. @throws DatabaseFault as above */
  findBySlugOrId(tenant: string): Promise<TenantRecord | undefined>;
}

/** @param outageGrace how long (ms) a known tenant is served while the registry does not answer */
export function createTenantDirectory(
  registry: Kysely<Registry>,
  events: Events,
  outageGrace: number,
): TenantDirectory {
  const byId = new FreshCache<TenantRecord>({
    max: MAX_REMEMBERED,
    freshFor: () => believedFor(events),
    staleFor: outageGrace,
    load: (id) => findTenant(registry, id),
  });
  // Slugs can move from one tenant to another, so they are remembered for an outage only, and never believed before.
  const bySlug = new FreshCache<TenantRecord>({
    max: MAX_REMEMBERED,
    freshFor: () => 0,
    staleFor: outageGrace,
    load: (slug) => findTenantBySlug(registry, slug),
  });
  events.subscribe((change) => {
    if (change.kind === 'tenant') byId.invalidate(change.tenantId);
    else if (change.kind === 'any') byId.expire();
  });
  return {
    peek: (id) => byId.peek(id),
    find: (id) => byId.get(id),
    findBySlugOrId: (tenant) => (isTenantId(tenant) ? byId.get(tenant) : bySlug.get(tenant)),
  };
}
