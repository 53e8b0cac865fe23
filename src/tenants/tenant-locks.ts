// The lock of a tenant in the registry. Take this lock before creating, opening, closing or deleting a tenant's database, or
// changing its password. Otherwise two workers act on different versions of its row.
//
// A lock is free when its connection is lost, although the work goes on. So nothing may depend on the lock unless an operation
// can repair it.
import { setTimeout as sleep } from 'node:timers/promises';
import type { HeldLock, LockSession } from '../../db/registry/lock-session.js';
import { tenantLockName } from '../../db/registry/tenant-lock-keys.js';
import { AppError } from '../errors.js';

export interface TenantLocks {
  /** Runs the work under a tenant's lock, or not at all if another worker has the lock. Returns whether the work ran. */
  attempt(tenantId: string, work: (held: HeldLock) => Promise<unknown>): Promise<boolean>;
  /**
   * Runs the work under a tenant's lock as soon as the lock is free.
   *
   * @throws AppError `unavailable` if another worker has the lock for too long
   */
  hold<T>(tenantId: string, work: (held: HeldLock) => Promise<T>): Promise<T>;
}

/** Longest wait (ms) for a lock that another worker has. */
const PATIENCE = 5_000;

const LOOK_EVERY = 50;

export function createTenantLocks(locks: LockSession): TenantLocks {
  return {
    attempt: async (tenantId, work) => (await locks.attempt(tenantLockName(tenantId), work)) !== undefined,

    async hold(tenantId, work) {
      const until = performance.now() + PATIENCE;
      for (;;) {
        const ran = await locks.attempt(tenantLockName(tenantId), work);
        if (ran) return ran.result;
        if (performance.now() > until)
          throw new AppError('unavailable', {
            detail: 'Another operation works on the tenant. Try again in a moment.',
            retryAfter: 5,
          });
        await sleep(LOOK_EVERY);
      }
    },
  };
}
