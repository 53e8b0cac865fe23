// Deletes rows of the feed that every replica has read.
import type { Kysely } from 'kysely';
import { currentSnapshot, sweepChanges } from '../../db/registry/feed-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { LONGEST_SILENCE } from './feed.js';

/**
 * Between two sweeps (ms). A row that one sweep saw is deleted by the next one: by then each replica has read it, or was silent for
 * so long that it takes it for a gap.
 */
export const SWEEP_EVERY = 2 * LONGEST_SILENCE;

/**
 * A sweep with a memory of the one before: the first one deletes nothing.
 *
 * @returns what runs it, with a signal that stops it between two batches; throws DatabaseFault
 */
export function createFeedSweep(registry: Kysely<Registry>): (signal: AbortSignal) => Promise<void> {
  let earlier: { readonly snapshot: string; readonly at: number } | undefined;
  return async (signal) => {
    const now = performance.now();
    // Also run by hand, and so at any time.
    if (earlier && now - earlier.at < SWEEP_EVERY) return;
    const next = { snapshot: await currentSnapshot(registry), at: performance.now() };
    while (earlier && !signal.aborted && (await sweepChanges(registry, earlier.snapshot)));
    earlier = next;
  };
}
