// Finishes what runs in the background, without its pauses, and records operations that have stopped.
import { randomUUID } from 'node:crypto';
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { insertOperation, pauseOperation } from '../../db/registry/operations/operation-rows.js';
import type { Engine } from '../../src/engine/index.js';
import type { OperationKindName } from '../../src/operations/runner/operation-kinds.js';
import type { TestService } from './service.js';

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

/** Records operations that wait for a person, of a kind that has nothing to do. Once for each service. Returns their ids. */
export async function recordStoppedOperations({ app }: TestService, count: number): Promise<string[]> {
  const { registry, runner } = app.engine;
  const name = 'stopped' as OperationKindName;
  runner.add({ name, plan: () => Promise.resolve('done') });
  const ids: string[] = [];
  for (let index = 0; index < count; index += 1) {
    const operation = await insertOperation(registry, { kind: name, subject: randomUUID(), worker: 'none' });
    if (!operation) throw new Error('the operation was not recorded');
    await pauseOperation(registry, operation, {
      state: 'needs-person',
      step: 'stopped',
      undoes: false,
      error: 'as the test asks',
      delay: 0,
    });
    ids.push(operation.id);
  }
  return ids;
}
