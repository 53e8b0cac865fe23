// A tenant as people see it: in the answers of the API and at the command line.
import type { PoolLimits } from '../../db/driver/client.js';
import type { StoredLimits, TenantStatus } from '../../db/registry/registry-schema.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import { poolLimits } from './pool-options.js';
import { limitsInForce, limitsShown, type LimitName } from './tenant-limits.js';

export interface ShownTenant {
  id: string;
  name: string;
  slug: string;
  clusterId: string | null;
  status: TenantStatus;
  active: boolean;
  /** In force: `max` in connections, the others in ms. */
  poolOptions: Pick<PoolLimits, 'max' | 'acquireTimeout' | 'timeout' | 'idleTimeoutMillis'>;
  /** In force; null means no limit. */
  limits: Record<LimitName, number | null>;
  readCache: boolean;
  schemaVersion: string;
  deletedAt: string | null;
  /** A deleted tenant can be restored until this time. */
  purgeAfter: string | null;
  createdAt: string;
  updatedAt: string;
}

/** What the configuration says for tenants that have no settings of their own. `deletionGrace` is in ms. */
export interface TenantDefaults {
  readonly pool: PoolLimits;
  readonly limits: StoredLimits;
  readonly deletionGrace: number;
}

/** A tenant with the settings that are in force for it. No secret, and no address of its database. */
export function showTenant(tenant: TenantRecord, defaults: TenantDefaults): ShownTenant {
  const { id, name, slug, clusterId, status, active, readCache, schemaVersion, deletedAt, createdAt, updatedAt } =
    tenant;
  const limits = limitsInForce(tenant.limits, defaults.limits);
  const { max, acquireTimeout, timeout, idleTimeoutMillis } = poolLimits(tenant.poolOptions, defaults.pool, limits);
  return {
    id,
    name,
    slug,
    clusterId,
    status,
    active,
    poolOptions: { max, acquireTimeout, timeout, idleTimeoutMillis },
    limits: limitsShown(limits),
    readCache,
    schemaVersion,
    deletedAt,
    purgeAfter: deletedAt && laterBy(deletedAt, defaults.deletionGrace),
    createdAt,
    updatedAt,
  };
}

/** A time plus milliseconds. A time that no Date can hold, such as `infinity`, stays as it is. */
function laterBy(time: string, ms: number): string {
  const later = new Date(Date.parse(time) + ms);
  return Number.isNaN(later.getTime()) ? time : later.toISOString();
}
