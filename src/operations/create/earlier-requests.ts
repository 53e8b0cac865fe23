// Results of earlier requests for a tenant: the tenant that a request with the same Idempotency-Key made or adopted, and an
// unfinished tenant that has the slug. They count if the answer of the earlier request was not stored
// (src/operations/keyed-acts.ts).
import type { Kysely } from 'kysely';
import { findRequestKey, type RequestKey } from '../../../db/registry/idempotency-keys.js';
import { findOperationByKey } from '../../../db/registry/operations/operation-keys.js';
import { findUnfinishedOperation, insertOperation } from '../../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { findTenant, findTenantBySlug, type TenantRecord } from '../../../db/registry/tenant-queries.js';
import { AppError } from '../../errors.js';
import type { Runner } from '../runner/runner.js';

/** An Idempotency-Key, with a check whether a stored hash is the hash of the same request. */
export interface GivenKey extends RequestKey {
  /** Whether a stored hash is the hash of this request. */
  readonly matches: (requestHash: string) => boolean;
  /** Called if the answer is the tenant of an earlier request. */
  readonly onKnown?: () => void;
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
   *   unfinished tenant cannot be undone yet
   */
  clearAbandoned(slug: string): Promise<void>;
  /** @throws AppError `not-found` */
  existing(id: string): Promise<TenantRecord>;
}

export function createEarlierRequests(deps: {
  readonly registry: Kysely<Registry>;
  readonly runner: Pick<Runner, 'settle'>;
}): EarlierRequests {
  const { registry, runner } = deps;

  async function tenantOf(key: GivenKey): Promise<TenantRecord | undefined> {
    const known = await earlierOf(key);
    if (!known) return undefined;
    if (!key.matches(known.requestHash)) throw new AppError('idempotency-key-reused');
    const tenant = await findTenant(registry, known.tenantId);
    if (tenant?.status === 'provisioning') {
      if (!(await settle(tenant))) throw new AppError('idempotency-key-in-use', { retryAfter: 1 });
      // The tenant is now active, or was undone.
      const settled = await findTenant(registry, tenant.id);
      return settled?.status === 'active' ? settled : undefined;
    }
    if (tenant && tenant.status !== 'deleting') return tenant;
    // If the earlier attempt has just been undone, its key is free again.
    const still = await earlierOf(key);
    if (!still) return undefined;
    if (still.isUndoing) throw new AppError('idempotency-key-in-use', { retryAfter: 1 });
    throw new AppError('idempotency-key-reused', {
      detail: 'The tenant that was created with this key was removed. Use a new key.',
    });
  }

  /** The request that came with the key, to this build or to a former one. */
  async function earlierOf(
    key: GivenKey,
  ): Promise<{ readonly tenantId: string; readonly requestHash: string; readonly isUndoing: boolean } | undefined> {
    const found = await findOperationByKey(registry, key);
    if (found) {
      const { subject: tenantId, endedAt } = found.operation;
      return { tenantId, requestHash: found.requestHash, isUndoing: endedAt === null };
    }
    const former = await findRequestKey(registry, key);
    return former && { ...former, isUndoing: false };
  }

  /** Finishes or undoes a tenant that is being made or removed. @returns false if another worker is at it */
  async function settle({ id, status, clusterId, adopts }: TenantRecord): Promise<boolean> {
    const kind = status === 'deleting' ? 'remove' : adopts === null ? 'create' : 'adopt';
    const known =
      (await findUnfinishedOperation(registry, id, 'create')) ?? (await findUnfinishedOperation(registry, id, kind));
    // A former build records no operation.
    if (!known) await insertOperation(registry, { kind, subject: id, tenantId: id, clusterId });
    return runner.settle(id, known?.kind ?? kind);
  }

  async function existing(id: string): Promise<TenantRecord> {
    const tenant = await findTenant(registry, id);
    if (!tenant) throw new AppError('not-found');
    return tenant;
  }

  return {
    async madeBy(key) {
      const tenant = await tenantOf(key);
      if (tenant) key.onKnown?.();
      return tenant;
    },

    existing,

    async clearAbandoned(slug) {
      const earlier = await findTenantBySlug(registry, slug);
      if (!earlier) return;
      if (!['deleting', 'provisioning'].includes(earlier.status)) throw new AppError('slug-taken');
      if (!(await settle(earlier))) throw new AppError('slug-taken', { retryAfter: 5 });
      const left = await findTenant(registry, earlier.id);
      if (left?.slug !== slug) return;
      const making = await findUnfinishedOperation(registry, left.id, 'create');
      const removing = await findUnfinishedOperation(registry, left.id, 'remove');
      if ([making, removing].some((operation) => operation?.state === 'needs-person'))
        throw new AppError('slug-taken', {
          detail: `The tenant ${left.id} has this slug. Its removal is not finished: DELETE /tenants/${left.id} continues it.`,
        });
      throw new AppError('unavailable', {
        detail: `The unfinished tenant ${left.id} has this slug and could not be removed yet. Try again in a moment.`,
        retryAfter: 5,
      });
    },
  };
}
