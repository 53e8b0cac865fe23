// Records operations for unfinished rows that have none: rows of a former build whose process died, and rows of a registry that was
// restored. The runner then finishes or undoes them.
import type { Kysely } from 'kysely';
import { insertOperation } from '../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { listLeftovers, type Leftover } from '../../db/registry/tenant-worklists.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';

export interface Leftovers {
  /** One look. A row whose lock a worker holds is left to that worker, also one of a former build. */
  record(signal: AbortSignal): Promise<void>;
}

/** Rows in one look. The others are found by the next look. */
const LOOKED_AT = 500;

export function createLeftovers(deps: {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  /** Called when operations were recorded for any worker. */
  readonly wake: () => void;
}): Leftovers {
  const { registry, locks } = deps;

  /** Under the lock it is certain that no worker is between two changes of the row. */
  async function recordOne(found: Leftover): Promise<void> {
    const [left] = await listLeftovers(registry, 1, found);
    if (!left) return;
    const { id: subject, kind, tenantId, clusterId, claim } = left;
    await insertOperation(registry, {
      kind,
      subject,
      clusterId,
      ...(tenantId !== null && { tenantId }),
      ...(claim !== null && { claim }),
    });
  }

  return {
    async record(signal) {
      const found = await listLeftovers(registry, LOOKED_AT);
      for (const left of found) {
        if (signal.aborted) break;
        await locks.attempt(left.id, () => recordOne(left));
      }
      if (found.length > 0) deps.wake();
    },
  };
}
