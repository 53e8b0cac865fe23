// The lock of a tenant in the registry. Take this lock before creating, opening, closing or deleting a tenant's database, or
// changing its password. Otherwise two workers act on different versions of its row.
//
// The lock is held on a connection of its own. An unlocked tenant in the middle of such work was left by a process that died. A
// lock is free when its connection is lost, although the work goes on. So nothing may depend on the lock unless housekeeping can
// repair it.
import type { Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Registry } from '../../db/registry/registry-schema.js';
import { freeTenantLocks, tryTenantLock } from '../../db/registry/tenant-lock-keys.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { AppError } from '../errors.js';
import { Slots } from '../jobs/bounded-tasks.js';

export interface TenantLocks {
  /** Lends a connection whose locks are freed after the work, for statements that also take a tenant's lock. */
  session<T>(work: (session: Kysely<Registry>) => Promise<T>): Promise<T>;
  /** Runs the work under a tenant's lock, or not at all if another worker has the lock. Returns whether the work ran. */
  attempt(tenantId: string, work: () => Promise<unknown>): Promise<boolean>;
  /**
   * Runs the work under a tenant's lock as soon as the lock is free. Do not call this while holding another session: if all
   * sessions did, each would wait for one more.
   *
   * @throws AppError `unavailable` if another worker has the lock for too long; DatabaseFault `busy` if too many hold locks
   */
  hold<T>(tenantId: string, work: () => Promise<T>): Promise<T>;
}

/** Longest wait (ms) for a lock that another worker has, and for a connection to hold a lock on. */
const PATIENCE = 5_000;

const LOOK_EVERY = 50;

/**
 * @param registry a pool for locks: a lock holds a connection until the work ends
 * @param atOnce the most connections held at once, of a pool that others use too
 */
export function createTenantLocks(registry: Kysely<Registry>, atOnce = Infinity): TenantLocks {
  // As a full pool refuses: the work did not begin.
  const busy = (): DatabaseFault => new DatabaseFault('busy', 'too many operations hold locks');
  const holders = new Slots(atOnce, Infinity, PATIENCE, busy);
  function session<T>(work: (session: Kysely<Registry>) => Promise<T>): Promise<T> {
    return holders.run(() =>
      registry.connection().execute(async (connection) => {
        try {
          return await work(connection);
        } finally {
          // A connection that no longer answers is closed, which frees its locks.
          await freeTenantLocks(connection).catch(() => undefined);
        }
      }),
    );
  }

  return {
    session,

    attempt: (tenantId, work) =>
      session(async (connection) => {
        if (!(await tryTenantLock(connection, tenantId))) return false;
        await work();
        return true;
      }),

    hold(tenantId, work) {
      const until = performance.now() + PATIENCE;
      return session(async (connection) => {
        while (!(await tryTenantLock(connection, tenantId))) {
          if (performance.now() > until)
            throw new AppError('unavailable', {
              detail: 'Another operation works on the tenant. Try again in a moment.',
              retryAfter: 5,
            });
          await sleep(LOOK_EVERY);
        }
        return work();
      });
    },
  };
}
