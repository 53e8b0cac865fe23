// Moves tenants from one state to another. The registry's row changes first and decides. Then all replicas are notified, and
// PostgreSQL follows the row. To serve a tenant again the order is reversed, so that no request reaches a closed database.
import type { Kysely } from 'kysely';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { beginRestoration, markTenantDeleted, stopRestoration } from '../../db/registry/tenant-status-queries.js';
import { listTenantsToPurge, retryRefusedPurges } from '../../db/registry/tenant-worklists.js';
import { findTenant, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { within } from '../lib/deadline.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { auditAct } from '../audit/operator-act.js';
import { AppError } from '../errors.js';
import { changeTenant, type TenantChanges } from '../tenants/tenant-changes.js';
import type { RecordEvent } from '../observability/security-events.js';
import type { Doors } from './open-close.js';
import { ensurePossible } from '../tenants/tenant-states.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import type { Removal, RemovalAct, RemovalWish } from './removal.js';

/**
 * Each transition is audited. When it resolves, it is effective on every replica and in PostgreSQL.
 *
 * @throws AppError `not-found` and `tenant-state` (src/tenants/tenant-states.ts)
 * @throws AppError `unavailable` if the tenant is closed but its PostgreSQL server does not answer: its database is closed when
 *   the server answers again
 * @throws DatabaseFault if nothing was done, because the registry, or a server that is needed first, does not answer
 */
export interface Transitions {
  /** @param changes other changes, made together with the transition or not at all @throws AppError `slug-taken` as well */
  suspend(id: string, origin: AuditOrigin, changes?: TenantChanges): Promise<TenantRecord>;
  /** As `suspend`. */
  resume(id: string, origin: AuditOrigin, changes?: TenantChanges): Promise<TenantRecord>;
  /** Soft deletion: the tenant can be restored until it is purged. Continues a removal that was left unfinished. */
  delete(id: string, origin: AuditOrigin): Promise<void>;
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

/** Longest time (ms) that an answer waits for PostgreSQL to follow the row. */
const SETTLE_DEADLINE = 3_000;

/** Longest time (ms) that an answer waits for a database that must open first. */
const OPEN_DEADLINE = 10_000;

/** Purges that are recorded in one run. */
const PURGE_BATCH = 1_000;

export function createTransitions(deps: {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  readonly doors: Doors;
  readonly removal: Removal;
  readonly publish: (tenantId: string) => Promise<void>;
  /** Called when an act is committed. */
  readonly record: RecordEvent;
  /** Time (ms) from a tenant's deletion until its purge. */
  readonly grace: number;
  /** Called when operations were recorded that any worker may take. */
  readonly onRecorded: () => void;
  readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
}): Transitions {
  const { registry, locks, doors, removal, publish, record, onError } = deps;
  const running = new Set<Promise<unknown>>();

  /** Limits the time of the answer. The work continues, and `close` waits for it when the process stops. */
  function bounded<T>(work: Promise<T>, ms: number): Promise<T> {
    const tracked: Promise<unknown> = work.then(undefined, () => undefined).finally(() => running.delete(tracked));
    running.add(tracked);
    return within(work, ms, () => new DatabaseFault('unavailable', 'no answer in time'));
  }

  async function existing(id: string): Promise<TenantRecord> {
    const tenant = await findTenant(registry, id);
    if (!tenant) throw new AppError('not-found');
    return tenant;
  }

  async function settled({ id, status }: TenantRecord): Promise<void> {
    try {
      await bounded(
        locks.hold(id, () => doors.follow(id, true)),
        SETTLE_DEADLINE,
      );
    } catch (error) {
      if (error instanceof AppError && error.code === 'tenant-state')
        throw new AppError('tenant-state', {
          detail: `The tenant is ${status} and no longer served. ${error.message}`,
        });
      onError(error, { tenantId: id, step: 'close' });
      throw new AppError('unavailable', {
        detail: `The tenant is ${status} and no longer served. Its database is not closed yet: its PostgreSQL server does not answer, or another operation works on it. The service closes it by itself.`,
        retryAfter: 5,
        cause: error,
      });
    }
  }

  /** Works under the tenant's lock, and publishes the change before it answers. */
  function underLock(id: string, work: () => Promise<TenantRecord>): Promise<TenantRecord> {
    const locked = locks.hold(id, work).then(async (changed) => {
      await publish(id);
      return changed;
    });
    return bounded(locked, OPEN_DEADLINE);
  }

  async function removed(id: string, origin: AuditOrigin, act: RemovalAct, wish?: RemovalWish): Promise<void> {
    if (await removal.remove(id, origin, act, wish)) return;
    ensurePossible(act, (await existing(id)).status);
    throw new AppError('tenant-state', {
      detail: 'The tenant was changed by another request. Read it, then try again.',
    });
  }

  return {
    async suspend(id, origin, changes = {}) {
      const known = await existing(id);
      ensurePossible('suspend', known.status);
      const isSuspended = known.status === 'suspended';
      const tenant =
        isSuspended && isEmpty(changes)
          ? known
          : await changeTenant(registry, id, { ...changes, status: 'suspended' }, origin);
      if (!isSuspended) record('tenant-suspended', { tenantId: id }, origin);
      await publish(id);
      await settled(tenant);
      return tenant;
    },

    async resume(id, origin, changes = {}) {
      const known = await existing(id);
      ensurePossible('resume', known.status);
      return underLock(id, async () => {
        const now = await doors.openFirst(id);
        try {
          if (now?.status !== 'active' || !isEmpty(changes))
            await changeTenant(registry, id, { ...changes, status: 'active' }, origin);
          if (now?.status !== 'active') record('tenant-resumed', { tenantId: id }, origin);
        } finally {
          // The mark follows the row. If the row did not change, because another act was faster, the database is closed again.
          await doors.follow(id).catch((cause: unknown) => {
            onError(cause, { tenantId: id, step: 'follow' });
          });
        }
        return existing(id);
      });
    },

    async delete(id, origin) {
      const known = await existing(id);
      ensurePossible('delete', known.status);
      if (known.status === 'deleting') {
        await removed(id, origin, 'abandon');
        return;
      }
      const marked = await registry.transaction().execute(async (trx) => {
        const tenant = (await markTenantDeleted(trx, id)) ?? (await stopRestoration(trx, id));
        if (tenant) await auditAct(trx, { ...origin, action: 'tenant.deleted', ...concerning(id) });
        return tenant;
      });
      if (marked) record('tenant-deleted', { tenantId: id }, origin);
      const tenant = marked ?? (await existing(id));
      ensurePossible('delete', tenant.status);
      await publish(id);
      await settled(tenant);
    },

    async restore(id, origin) {
      const known = await existing(id);
      ensurePossible('restore', known.status);
      return underLock(id, async () => {
        const now = (await doors.confirm(id)) ?? (await existing(id));
        ensurePossible('restore', now.status);
        const begun = await registry.transaction().execute(async (trx) => {
          const tenant = await beginRestoration(trx, id);
          const to = tenant?.statusBeforeDeletion;
          if (!to) return undefined;
          await auditAct(trx, { ...origin, action: 'tenant.restored', ...concerning(id), details: { status: to } });
          return tenant;
        });
        if (!begun && !now.restoring)
          throw new AppError('tenant-state', {
            detail: 'The tenant was changed by another request. Read it, then try again.',
          });
        if (begun) record('tenant-restored', { tenantId: id }, origin);
        // From here on this request or the job finishes the restoration.
        return (await doors.follow(id, true)) ?? (await existing(id));
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
      await Promise.all(running);
    },
  };
}

function concerning(id: string): {
  readonly target: { readonly kind: 'tenant'; readonly id: string };
  tenantId: string;
} {
  return { target: { kind: 'tenant', id }, tenantId: id };
}

function isEmpty(changes: TenantChanges): boolean {
  return Object.values(changes).every((value) => value === undefined);
}
