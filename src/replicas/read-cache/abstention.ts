// The start of a replica that caches no answers: its writes invalidate nothing, so no other replica may cache answers either.
//
//     begun ── its row is in the registry, the store is removed, and every replica has heard of that ──▶ done
//
// Until it is done, the replica acknowledges no write of a cached table, and is not ready.
import { setTimeout as sleep } from 'node:timers/promises';
import { HEARD_WITHIN } from './fleet-store.js';

/** Time (ms) between two attempts. */
const RETRY_EVERY = 100;

/**
 * Resolves when no replica reads answers from a store. Other replicas must be able to see this one first: from then on none of
 * them reads from another store.
 *
 * @param isSeen resolves when the row of this replica is in the registry
 * @param remove removes the store, if there is one, and returns for how long (ms) there was none
 * @param signal ends the attempts; then the promise resolves too
 */
export async function abstain(
  isSeen: Promise<void>,
  remove: () => Promise<number>,
  signal: AbortSignal,
): Promise<void> {
  await isSeen;
  while (!signal.aborted) {
    try {
      // Another replica may have removed it a moment ago, and others may not have heard of that yet.
      if ((await remove()) < HEARD_WITHIN) await sleep(HEARD_WITHIN, undefined, { signal });
      return;
    } catch {
      await sleep(RETRY_EVERY, undefined, { signal }).catch(() => undefined);
    }
  }
}
