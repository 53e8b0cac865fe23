// The tenant directory: the registry's rows as this process knows them. A known tenant costs no query for a second; one
// that the registry cannot confirm is served for a stated time; a change made here is effective here at once.
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/central/schema.js';
import { findTenant, findTenantBySlug, type TenantRecord } from '../../db/central/tenants.js';
import { FreshCache } from '../cache/fresh-cache.js';
import { isTenantId } from './ids.js';

/** How long a row is believed without asking, in ms: a change made by another replica is effective within a second. */
const FRESH_FOR = 900;

/** Rows of some 1 kB. */
const MAX_REMEMBERED = 20_000;

export interface TenantDirectory {
  /** The tenant where it is known and fresh, without waiting. */
  peek(id: string): TenantRecord | undefined;
  /** @throws DatabaseFault where the registry does not answer and the tenant is not known */
  find(id: string): Promise<TenantRecord | undefined>;
  /** For sign-in, by slug or id. @throws DatabaseFault as above */
  findBySlugOrId(tenant: string): Promise<TenantRecord | undefined>;
  /** Forgets a tenant, after a change to its row. */
  invalidate(id: string): void;
}

/** @param outageGrace how long (ms) a known tenant is served while the registry does not answer */
export function createTenantDirectory(registry: Kysely<Registry>, outageGrace: number): TenantDirectory {
  const byId = new FreshCache<TenantRecord>({
    max: MAX_REMEMBERED,
    freshFor: FRESH_FOR,
    staleFor: outageGrace,
    load: (id) => findTenant(registry, id),
  });
  // Slugs can move from one tenant to another, so they are remembered for an outage only, and never believed before.
  const bySlug = new FreshCache<TenantRecord>({
    max: MAX_REMEMBERED,
    freshFor: 0,
    staleFor: outageGrace,
    load: (slug) => findTenantBySlug(registry, slug),
  });
  return {
    peek: (id) => byId.peek(id),
    find: (id) => byId.get(id),
    findBySlugOrId: (tenant) => (isTenantId(tenant) ? byId.get(tenant) : bySlug.get(tenant)),
    invalidate: (id) => {
      byId.invalidate(id);
    },
  };
}
