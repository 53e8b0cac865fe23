// Who makes, opens, closes or removes a tenant's database, or changes its password, holds the tenant's lock in the registry
// meanwhile, on a connection of its own: of two at once one would leave it as a row that has changed meanwhile wanted it. What
// is in the middle of something and is not locked was left by a process that died. A lock whose connection is lost is free,
// though the work goes on: nothing may depend on it that housekeeping does not put right.
import type { Kysely } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Registry } from '../../db/registry/registry-schema.js';
import { freeTenantLocks, tryTenantLock } from '../../db/registry/tenant-lock-keys.js';
import { AppError } from '../errors.js';
import { Slots } from '../jobs/bounded-tasks.js';

export interface TenantLocks {
  /** Lends a connection whose locks are freed behind the work: for statements that take a tenant's lock along. */
  session<T>(work: (session: Kysely<Registry>) => Promise<T>): Promise<T>;
  /** Works under a tenant's lock, or not at all where somebody else has it. Returns whether it worked. */
  attempt(tenantId: string, work: () => Promise<unknown>): Promise<boolean>;
  /**
   * Works under a tenant's lock, as soon as it is free. Must not be called with another session in hand: all of them could
   * wait for one more.
   *
   * @throws AppError `unavailable` where somebody has it for too long
   */
  hold<T>(tenantId: string, work: () => Promise<T>): Promise<T>;
}

/** Longest wait (ms) for a lock that another worker has, and for a connection to hold one on. */
const PATIENCE = 5_000;

const LOOK_EVERY = 50;

/**
 * @param registry with connections of its own: a lock holds one for as long as the work takes
 * @param atOnce connections held at once, of a pool that others use too
 */
export function createTenantLocks(registry: Kysely<Registry>, atOnce = Infinity): TenantLocks {
  const holders = new Slots(atOnce, Infinity, PATIENCE);
  function session<T>(work: (session: Kysely<Registry>) => Promise<T>): Promise<T> {
    return holders.run(() =>
      registry.connection().execute(async (connection) => {
        try {
          return await work(connection);
        } finally {
          // A connection that cannot be asked any more is closed, and its locks with it.
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

    hold: (tenantId, work) =>
      session(async (connection) => {
        const until = performance.now() + PATIENCE;
        while (!(await tryTenantLock(connection, tenantId))) {
          if (performance.now() > until)
            throw new AppError('unavailable', {
              detail: 'Another operation works on the tenant. Try again in a moment.',
              retryAfter: 5,
            });
          await sleep(LOOK_EVERY);
        }
        return work();
      }),
  };
}
