// Removing tenants: the sessions in a tenant's database, the database, the role, and at last the registry's row, so that
// nothing is left that no row tells of.
import type { Kysely } from 'kysely';
import type { AuditOrigin } from '../../db/audit.js';
import { insertAudit } from '../../db/central/audit.js';
import { deleteRequestKeysOf } from '../../db/central/idempotency-keys.js';
import type { Registry, TenantStatus } from '../../db/central/schema.js';
import { deleteTenantRow, markTenantDeleting, type TenantRecord } from '../../db/central/tenants.js';
import { dropDatabase, dropRole, endStatementsOn } from '../../db/cluster.js';
import { AppError } from '../errors.js';
import { releaseRole } from './adoption.js';
import { statusesFor } from './lifecycle.js';
import type { TenantLocks } from './locks.js';
import type { Provisioners } from './provisioners.js';

export interface Removal {
  /**
   * Removes a tenant: its sessions, database, role and row. What a failure leaves is finished by calling it again, and by the
   * reconciler. It is audited when it begins, behind which there is no way back.
   *
   * @param act why: a deleted tenant is purged, one whose making came to nothing is abandoned
   * @returns false where there is no such tenant in a state that allows it (src/tenancy/lifecycle.ts)
   * @throws AppError `unavailable` where not all of it could be removed
   */
  remove(tenantId: string, origin: AuditOrigin, act?: 'abandon' | 'purge'): Promise<boolean>;
  /**
   * Takes back a tenant that was never finished, or finishes a removal that was begun; under the tenant's lock, which the
   * caller holds. A tenant in another status stays.
   *
   * @param unfinished statuses that say that it was never finished
   */
  finish(tenantId: string, unfinished?: readonly TenantStatus[]): Promise<void>;
}

export function createRemoval(deps: {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly locks: TenantLocks;
  /** Called after the row turned to deleting and before the database goes: closes the pools of this process. */
  readonly beforeDrop: (tenantId: string) => Promise<void>;
  readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
}): Removal {
  const { registry, provisioners, locks } = deps;

  /** Two that drop the same role or database at once make PostgreSQL fail one with an internal error: they share the work. */
  const removals = new Map<string, Promise<boolean>>();

  async function removeNow(tenantId: string, origin: AuditOrigin, act: 'abandon' | 'purge'): Promise<boolean> {
    const tenant = await registry.transaction().execute(async (trx) => {
      const fresh = statusesFor(act).filter((status) => status !== 'deleting');
      const begun = await markTenantDeleting(trx, tenantId, fresh);
      const target = { kind: 'tenant', id: tenantId } as const;
      if (begun) await insertAudit(trx, { ...origin, action: 'tenant.purged', target, tenantId });
      // One that came to a halt is taken up, and stands in the audit already.
      return begun ?? markTenantDeleting(trx, tenantId, ['deleting']);
    });
    if (!tenant) return false;
    try {
      await dropTenant(tenant);
    } catch (error) {
      deps.onError(error, { tenantId, step: 'remove' });
      throw new AppError('unavailable', {
        detail: `Not all of the tenant ${tenantId} could be removed. It is tried again by itself, and POST /tenants/${tenantId}/purge does so at once.`,
        retryAfter: 5,
        cause: error,
      });
    }
    return true;
  }

  async function finish(tenantId: string, unfinished: readonly TenantStatus[] = ['provisioning']): Promise<void> {
    const undone = await registry.transaction().execute(async (trx) => {
      const found = await markTenantDeleting(trx, tenantId, unfinished);
      // The same request may make the tenant once more.
      if (found) await deleteRequestKeysOf(trx, tenantId);
      return found;
    });
    const tenant = undone ?? (await markTenantDeleting(registry, tenantId, ['deleting']));
    if (tenant) await dropTenant(tenant);
  }

  async function dropTenant({ id, dbHost: host, dbPort: port, dbName, dbUser }: TenantRecord): Promise<void> {
    await deps.beforeDrop(id);
    const provisioner = await provisioners.at({ host, port });
    await endStatementsOn(provisioner.cluster, dbName);
    await dropDatabase(provisioner.cluster, dbName);
    await releaseRole(provisioner, dbUser, id);
    await dropRole(provisioner.cluster, dbUser);
    await deleteTenantRow(registry, id);
  }

  return {
    remove(tenantId, origin, act = 'abandon') {
      const removal =
        removals.get(tenantId) ??
        locks.hold(tenantId, () => removeNow(tenantId, origin, act)).finally(() => removals.delete(tenantId));
      removals.set(tenantId, removal);
      return removal;
    },

    finish,
  };
}
