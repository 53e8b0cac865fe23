// Finishes what is left now, instead of waiting for the jobs and for the pauses between attempts.
import { sql } from 'kysely';
import { insertOperation } from '../../db/registry/operation-rows.js';
import { listUnfinishedTenants } from '../../db/registry/tenant-worklists.js';
import type { Engine } from '../../src/engine/index.js';

/**
 * Records operations for unfinished rows, and works on every unfinished operation now, whenever its next attempt is due. Resolves
 * when this process can do no more: an operation that fails again waits again.
 */
export async function finishOperations({ registry, runner }: Engine): Promise<void> {
  for (const { id, status, adopts, clusterId, claim } of await listUnfinishedTenants(registry)) {
    const kind = status === 'deleting' ? 'remove' : adopts === null ? 'create' : 'adopt';
    await insertOperation(registry, {
      kind,
      subject: id,
      tenantId: id,
      clusterId,
      ...(claim !== null && { claim }),
    });
  }
  await registry
    .updateTable('operations')
    .set({ not_before: sql<string>`now() - interval '1 second'` })
    .where('ended_at', 'is', null)
    .execute();
  await runner.takeUp.now();
}
