// Results of earlier requests for a tenant: the tenant that a request with the same Idempotency-Key made, and an unfinished
// tenant that has the slug.
import type { Kysely } from 'kysely';
import { findRequestKey, type RequestKey } from '../../db/registry/idempotency-keys.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, findTenantBySlug, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { AppError } from '../errors.js';
import type { Reconciler } from './reconciler.js';

/** An Idempotency-Key, with a check whether a stored hash is the hash of the same request. */
export interface GivenKey extends RequestKey {
  /** Whether a stored hash is the hash of this request. */
  readonly matches: (requestHash: string) => boolean;
}

export interface EarlierRequests {
  /**
   * The tenant that a request with this key made. If the process of that request died, the tenant is finished first. Undefined if
   * there was no such request, or its tenant was undone.
   *
   * @throws AppError `idempotency-key-reused`, `idempotency-key-in-use`
   */
  madeBy(key: GivenKey): Promise<TenantRecord | undefined>;
  /**
   * Finishes or undoes an unfinished tenant that has the slug.
   *
   * @throws AppError `slug-taken` if a complete tenant, or a tenant that is being made, has the slug; `unavailable` if the
   *   unfinished tenant cannot be undone
   */
  clearAbandoned(slug: string): Promise<void>;
}

export function createEarlierRequests(deps: {
  readonly registry: Kysely<Registry>;
  readonly reconciler: Pick<Reconciler, 'settle'>;
  readonly onError: (error: unknown, context: { tenantId?: string; step: string }) => void;
}): EarlierRequests {
  const { registry, reconciler } = deps;

  async function madeBy(key: GivenKey): Promise<TenantRecord | undefined> {
    const known = await findRequestKey(registry, key);
    if (!known) return undefined;
    if (!key.matches(known.requestHash)) throw new AppError('idempotency-key-reused');
    const tenant = await findTenant(registry, known.tenantId);
    if (!tenant || tenant.status === 'deleting') {
      // If the attempt has just been undone, its key is free again.
      if (!(await findRequestKey(registry, key))) return undefined;
      throw new AppError('idempotency-key-reused', {
        detail: 'The tenant that was created with this key was removed. Use a new key.',
      });
    }
    if (tenant.status !== 'provisioning') return tenant;
    if (!(await reconciler.settle(tenant.id))) throw new AppError('idempotency-key-in-use', { retryAfter: 1 });
    // The tenant is now active, or was undone.
    const settled = await findTenant(registry, tenant.id);
    return settled?.status === 'active' ? settled : undefined;
  }

  async function clearAbandoned(slug: string): Promise<void> {
    const existing = await findTenantBySlug(registry, slug);
    if (!existing) return;
    if (!['deleting', 'provisioning'].includes(existing.status)) throw new AppError('slug-taken');
    let settled;
    try {
      settled = await reconciler.settle(existing.id);
    } catch (error) {
      deps.onError(error, { tenantId: existing.id, step: 'settle' });
      throw new AppError('unavailable', {
        detail: `The unfinished tenant ${existing.id} has this slug and could not be removed yet. Try again in a moment.`,
        retryAfter: 5,
        cause: error,
      });
    }
    if (!settled) throw new AppError('slug-taken', { retryAfter: 5 });
    const left = await findTenant(registry, existing.id);
    if (left?.slug === slug && left.status === 'deleting')
      throw new AppError('slug-taken', {
        detail: `The tenant ${left.id} has this slug. Its removal is not finished, because its database is left as it is: DELETE /tenants/${left.id} finishes that.`,
      });
  }

  return { madeBy, clearAbandoned };
}
