// Finishes what runs in the background, without its pauses.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Engine } from '../../src/engine/index.js';

/**
 * Records operations for unfinished rows, and lets every unfinished operation have its next attempts now, until all have ended, or
 * for about two seconds.
 *
 * @param attempts the most attempts of each operation
 */
export async function finishOperations(
  { leftovers, registry, runner }: Pick<Engine, 'leftovers' | 'registry' | 'runner'>,
  attempts = 10,
): Promise<void> {
  await leftovers.record(new AbortController().signal);
  for (let time = 0; time < attempts; time += 1) {
    const left = await registry
      .updateTable('operations')
      // The column has milliseconds: the time rounded up would be in the future.
      .set({ not_before: sql<string>`now() - interval '1 second'` })
      .where('ended_at', 'is', null)
      .where('state', '!=', 'needs-person')
      .returning('id')
      .execute();
    if (left.length === 0) return;
    await runner.takeUp.now();
    // Another replica may be at one of them.
    await sleep(time * 50);
  }
}
