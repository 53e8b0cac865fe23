// Deletes rows of the feed that every replica has read.
import type { Kysely } from 'kysely';
import { currentSnapshot, sweepChanges } from '../../db/registry/feed-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { LONGEST_SILENCE } from './feed.js';

/**
 * Time (ms) between two sweeps. A row that one sweep saw is deleted by the next sweep. By then each replica has read the row, or
 * was silent for so long that it assumes a gap.
 */
export const SWEEP_EVERY = 2 * LONGEST_SILENCE;

/**
 * Makes a sweep that remembers the previous sweep; the first sweep deletes nothing.
 *
 * @returns the function that sweeps; its signal stops it between two batches; it throws DatabaseFault
 */
export function createFeedSweep(registry: Kysely<Registry>): (signal: AbortSignal) => Promise<void> {
  let earlier: { readonly snapshot: string; readonly at: number } | undefined;
  return async (signal) => {
    const now = performance.now();
    // An operator can also start the sweep by hand, so it may run at any time.
    if (earlier && now - earlier.at < SWEEP_EVERY) return;
    const next = { snapshot: await currentSnapshot(registry), at: performance.now() };
    while (earlier && !signal.aborted && (await sweepChanges(registry, earlier.snapshot)));
    earlier = next;
  };
}
