// Moves tenants from one state to another. The registry's row changes first and decides. Then all replicas are notified, and
// PostgreSQL follows the row. To serve a tenant again the order is reversed, so that no request reaches a closed database.
import type { Kysely, Transaction } from 'kysely';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import type { ExpectedVersions } from '../../../db/shared/row-version.js';
import type { OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import {
  beginRestoration,
  findSettledTenant,
  markTenantDeleted,
  stopRestoration,
} from '../../../db/registry/tenant-status-queries.js';
import { listTenantsToPurge, retryRefusedPurges } from '../../../db/registry/tenant-worklists.js';
import { findTenant, type TenantRecord } from '../../../db/registry/tenant-queries.js';
import { auditAct, confirmOperator } from '../../audit/operator-act.js';
import { AppError } from '../../errors.js';
import { demandVersion } from '../../http/row-versions.js';
import { changeTenant, type TenantChanges } from '../../tenants/tenant-changes.js';
import type { RecordEvent } from '../../observability/security-events.js';
import { changedMeanwhile, type DoorActs } from './door-acts.js';
import { isEmpty, type DoorOperations } from './door-operations.js';
import type { Doors } from './open-close.js';
import { ensurePossible } from '../../tenants/tenant-states.js';
import type { Removal, RemovalAct, RemovalWish } from '../remove/removal.js';

/**
 * Each transition is audited. When it resolves, it is effective on every replica and in PostgreSQL.
 *
 * @throws AppError `not-found` and `tenant-state` (src/tenants/tenant-states.ts)
 * @throws AppError `operation-unfinished` if the act goes on after its deadline; `detail` says what is in force already
 * @throws AppError `unavailable` if nothing was begun, because another operation works on the tenant
 * @throws DatabaseFault if nothing was begun, because the registry, or a server that is needed first, does not answer
 */
export interface Transitions {
  /**
   * @param changes other changes, made together with the transition or not at all
   * @param expected versions that the tenant's row may have
   * @throws AppError `slug-taken` and `precondition-failed` as well
   */
  suspend(id: string, origin: AuditOrigin, changes?: TenantChanges, expected?: ExpectedVersions): Promise<TenantRecord>;
  /** As `suspend`. */
  resume(id: string, origin: AuditOrigin, changes?: TenantChanges, expected?: ExpectedVersions): Promise<TenantRecord>;
  /**
   * Soft deletion: the tenant can be restored until it is purged. Continues a removal that was left unfinished.
   *
   * @param expected versions that the tenant's row may have
   * @throws AppError `precondition-failed` as well
   */
  delete(id: string, origin: AuditOrigin, expected?: ExpectedVersions): Promise<void>;
  /** Restores a deleted tenant to the state before its deletion. */
  restore(id: string, origin: AuditOrigin): Promise<TenantRecord>;
  /**
   * Removes a deleted tenant permanently.
   *
   * @param database what happens to its database; default: a database that the service made is dropped, and an adopted database
   *   stays
   * @throws AppError `operation-unfinished` if not everything could be removed yet
   */
  purge(id: string, origin: AuditOrigin, database?: RemovalWish['database']): Promise<void>;
  /** Records the purge of every tenant whose grace period is over. Workers do them, each server at its own pace. */
  purgeDue(signal: AbortSignal): Promise<void>;
  /** Waits for work that continues after its answer. */
  close(): Promise<void>;
}

/** Purges that are recorded in one run. */
const PURGE_BATCH = 1_000;

export function createTransitions(deps: {
  readonly registry: Kysely<Registry>;
  readonly doors: Pick<Doors, 'confirm'>;
  readonly doorOperations: Pick<DoorOperations, 'beginClosing' | 'beginOpening'>;
  readonly doorActs: DoorActs;
  readonly removal: Removal;
  readonly publish: (tenantId: string) => Promise<void>;
  /** Called when an act is committed. */
  readonly record: RecordEvent;
  /** Time (ms) from a tenant's deletion until its purge. */
  readonly grace: number;
  /** Called when operations were recorded that any worker may take. */
  readonly onRecorded: () => void;
}): Transitions {
  const { registry, doors, doorOperations, doorActs, removal, publish, record } = deps;
  async function existing(id: string): Promise<TenantRecord> {
    const tenant = await findTenant(registry, id);
    if (!tenant) throw new AppError('not-found');
    return tenant;
  }

  async function removed(id: string, origin: AuditOrigin, act: RemovalAct, wish?: RemovalWish): Promise<void> {
    if (await removal.remove(id, origin, act, wish)) return;
    ensurePossible(act, (await existing(id)).status);
    throw changedMeanwhile();
  }

  return {
    async suspend(id, origin, changes = {}, expected) {
      const known = await existing(id);
      ensurePossible('suspend', known.status);
      demandVersion(known, expected);
      const isSuspended = known.status === 'suspended';
      let begun: OperationRecord | undefined;
      const begin = async (trx: Transaction<Registry>, tenant: TenantRecord): Promise<OperationRecord | undefined> =>
        (begun = await doorOperations.beginClosing(trx, tenant, origin));
      let tenant = known;
      if (isSuspended && isEmpty(changes))
        await registry.transaction().execute(async (trx) => {
          await begin(trx, known);
          await confirmOperator(trx, origin);
        });
      else
        tenant = await changeTenant(registry, id, { ...changes, status: 'suspended' }, origin, {
          expected,
          also: begin,
        });
      if (!isSuspended) record('tenant-suspended', { tenantId: id }, origin);
      await publish(id);
      await doorActs.close(tenant, begun);
      return tenant;
    },

    async resume(id, origin, changes = {}, expected) {
      ensurePossible('resume', (await existing(id)).status);
      return doorActs.open(
        id,
        async () => {
          const tenant = await existing(id);
          demandVersion(tenant, expected);
          const begun = await doorOperations.beginOpening(registry, tenant, origin, 'resume');
          if (!begun) throw changedMeanwhile();
          return begun;
        },
        { changes, origin, expected },
      );
    },

    async delete(id, origin, expected) {
      const known = await existing(id);
      ensurePossible('delete', known.status);
      demandVersion(known, expected);
      if (known.status === 'deleting') {
        await removed(id, origin, 'abandon');
        return;
      }
      let begun: OperationRecord | undefined;
      const { tenant, isNew } = await registry.transaction().execute(async (trx) => {
        const marked = (await markTenantDeleted(trx, id, expected)) ?? (await stopRestoration(trx, id, expected));
        const now = marked ?? (await findSettledTenant(trx, id));
        if (!now) throw new AppError('not-found');
        ensurePossible('delete', now.status);
        if (!marked) demandVersion(now, expected);
        if (now.status === 'deleted') begun = await doorOperations.beginClosing(trx, now, origin);
        if (marked) await auditAct(trx, { ...origin, action: 'tenant.deleted', ...concerning(id) }, begun);
        else await confirmOperator(trx, origin);
        return { tenant: now, isNew: marked !== undefined };
      });
      if (isNew) record('tenant-deleted', { tenantId: id }, origin);
      await publish(id);
      await doorActs.close(tenant, begun);
    },

    async restore(id, origin) {
      const known = await existing(id);
      ensurePossible('restore', known.status);
      return doorActs.open(id, async (earlier) => {
        const now = (await doors.confirm(id)) ?? (await existing(id));
        // An earlier request has begun this restoration, and it is finished now.
        if (earlier?.operation.details['restores'] === true && now.status !== 'deleted') return undefined;
        ensurePossible('restore', now.status);
        const begun = await registry.transaction().execute(async (trx) => {
          const tenant = await beginRestoration(trx, id);
          const to = tenant?.statusBeforeDeletion;
          // A former build may have begun it.
          if (!tenant && !now.restoring) throw changedMeanwhile();
          const operation = await doorOperations.beginOpening(trx, tenant ?? now, origin, 'restore');
          // Rolls the beginning back: an operation that does something else must end first.
          if (!operation) throw changedMeanwhile();
          const entry = { ...origin, action: 'tenant.restored', ...concerning(id) } as const;
          if (to) await auditAct(trx, { ...entry, details: { status: to } }, operation);
          return operation;
        });
        if (!now.restoring) record('tenant-restored', { tenantId: id }, origin);
        return begun;
      });
    },

    async purge(id, origin, database) {
      ensurePossible('purge', (await existing(id)).status);
      await removed(id, origin, 'purge', { database });
    },

    async purgeDue(signal) {
      await retryRefusedPurges(registry);
      for (const tenant of await listTenantsToPurge(registry, deps.grace, PURGE_BATCH)) {
        if (signal.aborted) return;
        await removal.recordPurge(tenant, deps.grace);
      }
      deps.onRecorded();
    },

    async close() {
      await doorActs.finished();
    },
  };
}

function concerning(id: string): {
  readonly target: { readonly kind: 'tenant'; readonly id: string };
  tenantId: string;
} {
  return { target: { kind: 'tenant', id }, tenantId: id };
}
