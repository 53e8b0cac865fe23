// What earlier requests for a tenant left: the tenant that one with the same Idempotency-Key made, and an unfinished one that has
// the slug.
import type { Kysely } from 'kysely';
import { findRequestKey, type RequestKey } from '../../db/registry/idempotency-keys.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, findTenantBySlug, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { AppError } from '../errors.js';
import type { Reconciler } from './reconciler.js';

/** A key, and what tells the request that it came with from another one. */
export interface GivenKey extends RequestKey {
  /** Whether a hash that is known is this request's. */
  readonly matches: (requestHash: string) => boolean;
}

export interface EarlierRequests {
  /**
   * The tenant that a request with this key made, finished first when its process died; undefined when there was none, or it is
   * undone.
   *
   * @throws AppError `idempotency-key-reused`, `idempotency-key-in-use`
   */
  madeBy(key: GivenKey): Promise<TenantRecord | undefined>;
  /**
   * Finishes or undoes an unfinished tenant that has the slug.
   *
   * @throws AppError `slug-taken` when a tenant that is whole, or is being made, has it; `unavailable` when it cannot be undone
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
      // An attempt that has just been undone gave its key back.
      if (!(await findRequestKey(registry, key))) return undefined;
      throw new AppError('idempotency-key-reused', {
        detail: 'The tenant that was created with this key was removed. Use a new key.',
      });
    }
    if (tenant.status !== 'provisioning') return tenant;
    if (!(await reconciler.settle(tenant.id))) throw new AppError('idempotency-key-in-use', { retryAfter: 1 });
    // It went forward, or is undone.
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
