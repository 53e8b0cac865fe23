// One lock a tenant, in the registry: what opens, closes or enters a tenant's database by what its row says does so alone, or
// a slow one would leave the database as a row that has changed meanwhile wanted it.
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/central/schema.js';
import { lockTenantIn } from '../../db/central/tenant-locks.js';

/**
 * Runs `work` while no other replica holds the tenant's lock, and keeps one connection for as long. Whoever waits does so for
 * as long as a statement of `registry` may run. A lock whose connection is lost is free, though the work goes on: nothing may
 * depend on it that housekeeping does not put right.
 *
 * @throws DatabaseFault where the lock could not be had
 */
export function inTenantLock<T>(registry: Kysely<Registry>, tenantId: string, work: () => Promise<T>): Promise<T> {
  return registry.transaction().execute(async (trx) => {
    await lockTenantIn(trx, tenantId);
    return work();
  });
}
