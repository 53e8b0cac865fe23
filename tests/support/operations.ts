// Finishes what is left now, instead of waiting for the jobs and for the pauses between attempts.
import { sql } from 'kysely';
import type { Engine } from '../../src/engine/index.js';

/**
 * Records operations for unfinished rows, and works on every unfinished operation now, whenever its next attempt is due. Resolves
 * when this process can do no more: an operation that fails again waits again.
 */
export async function finishOperations({ leftovers, registry, runner }: Engine): Promise<void> {
  await leftovers.record(new AbortController().signal);
  await registry
    .updateTable('operations')
    .set({ not_before: sql<string>`now()` })
    .where('ended_at', 'is', null)
    .execute();
  await runner.takeUp.now();
}
