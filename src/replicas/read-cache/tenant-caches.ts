// Which tenants are cached. A writer that cannot invalidate switches its tenant off; a job switches tenants on again.
//
//     on ── a writer cannot invalidate ──▶ off ── the job, after OFF_FOR ──▶ rising ── 1.2 s later ──▶ on, another generation
//                                          off ◀── a writer cannot invalidate ── rising
//
// - Answers are read from the cache only in `on`, by a replica whose feed is live.
// - A write invalidates in `on` and `rising`. In `off` it does not, if the feed is live and the replica has known `off` for
//   HEARD_WITHIN: by then no replica reads this tenant's answers from a store.
// - `rising` lasts longer than any live feed takes to hear of it. So when `on` begins, no writer believes that the tenant is off.
import type { Kysely } from 'kysely';
import {
  raiseTenantCaches,
  readTenantCache,
  switchTenantCacheOff,
  switchTenantCachesOn,
  type TenantCacheRow,
} from '../../../db/registry/fleet/read-cache-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { recentMap } from '../../lib/recent-map.js';
import { believedFor, type Events } from '../events.js';
import { FreshCache } from '../fresh-cache.js';
import { HEARD_WITHIN } from './fleet-store.js';

/** Rows of some 100 bytes. */
const MAX_REMEMBERED = 20_000;

/** How long (ms) a tenant stays off: it must not change back and forth while one replica cannot reach Redis. */
const OFF_FOR = 20_000;

/** How many tenants one run of the job switches on. */
const RAISED_AT_ONCE = 1_000;

interface KnownTenant extends TenantCacheRow {
  /** The time of performance.now() since when this state is known, at least. */
  readonly heardAt: number;
}

export interface TenantCaches {
  /** The generation, if answers of the tenant may be read from the store. Undefined if not, or if that is not known yet. */
  forReads(id: string): number | undefined;
  /** Makes `forReads` know the tenant, if it can be known. Never rejects. */
  know(id: string): Promise<void>;
  /** Time (ms) until a write may be acknowledged although nothing was invalidated; undefined if it may not. */
  offIn(id: string): Promise<number | undefined>;
  /** @throws DatabaseFault */
  switchOff(id: string): Promise<void>;
  /** Switches tenants on again. @returns how many @throws DatabaseFault */
  raise(signal: AbortSignal): Promise<number>;
}

/**
 * @param registry for many reads, and for writes that must not wait for requests
 * @param options.offFor instead of OFF_FOR; `heardWithin` instead of HEARD_WITHIN, for tests that prove that it is needed
 */
export function createTenantCaches(
  registry: { readonly reads: Kysely<Registry>; readonly writes: Kysely<Registry> },
  events: Pick<Events, 'live' | 'caughtUp' | 'subscribe'>,
  options: { readonly offFor?: number | undefined; readonly heardWithin?: number | undefined } = {},
): TenantCaches {
  const { offFor = OFF_FOR, heardWithin = HEARD_WITHIN } = options;
  /** Since when each tenant that is off is known to be off, by id and by when that began. */
  const offSince = recentMap<string, number>(MAX_REMEMBERED);
  const switching = new Map<string, Promise<void>>();
  const known = new FreshCache<KnownTenant>({
    max: MAX_REMEMBERED,
    freshFor: () => believedFor(events),
    caughtUp: () => events.caughtUp(),
    staleFor: 0,
    load: async (id) => {
      const row = await readTenantCache(registry.reads, id);
      const now = performance.now();
      if (row.state !== 'off') return { ...row, heardAt: now };
      const key = `${id} ${row.changedAt ?? ''}`;
      const heardAt = offSince.get(key) ?? now;
      offSince.set(key, heardAt);
      return { ...row, heardAt };
    },
  });
  events.subscribe((change) => {
    if (change.kind === 'tenant-cache') known.invalidate(change.tenantId);
    else if (change.kind === 'any') {
      known.expire();
      // It may have been on meanwhile.
      offSince.clear();
    }
  });
  const peek = (id: string): KnownTenant | undefined => (events.live ? known.peek(id) : undefined);

  return {
    forReads(id) {
      const tenant = peek(id);
      return tenant?.state === 'on' ? tenant.generation : undefined;
    },

    async know(id) {
      await known.get(id).catch(() => undefined);
    },

    async offIn(id) {
      // While the feed is not live, what the registry says now proves nothing.
      if (!events.live) return undefined;
      const tenant =
        peek(id) ??
        (await known
          .get(id)
          .then(() => peek(id))
          .catch(() => undefined));
      return tenant?.state === 'off' ? Math.max(0, tenant.heardAt + heardWithin - performance.now()) : undefined;
    },

    switchOff(id) {
      const underWay = switching.get(id);
      if (underWay) return underWay;
      const act = switchTenantCacheOff(registry.writes, id)
        .then(() => {
          // Do not wait for the feed.
          known.invalidate(id);
        })
        .finally(() => switching.delete(id));
      switching.set(id, act);
      return act;
    },

    async raise(signal) {
      const rising = await raiseTenantCaches(registry.writes, offFor, RAISED_AT_ONCE);
      if (rising.length === 0) return 0;
      await new Promise((resolve) => setTimeout(resolve, 2 * HEARD_WITHIN));
      return signal.aborted ? 0 : switchTenantCachesOn(registry.writes, rising);
    },
  };
}
