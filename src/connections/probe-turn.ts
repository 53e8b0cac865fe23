// When a breaker's probe may connect: probes that a server never answered count as connections to it until a look says that
// they are gone, and must not take the slots of the tenants one after the other while the server hangs.
import { DatabaseFault } from '../../db/driver/database-fault.js';
import type { Governor } from './governor-types.js';

/** The tenant under which probes take their slots. */
export const PROBES = 'probe';

/** Slots of one server that probes hold at once, those of cut probes included. */
const MAX_SLOTS = 8;

/** Between two looks (ms) at what probes hold. */
const LOOK_EVERY = 25;

/** Resolves as soon as one more probe may connect. @throws DatabaseFault `busy` when that takes longer than `patience` (ms) */
export async function probeTurn(governor: Pick<Governor, 'heldBy'>, patience: number): Promise<void> {
  const until = performance.now() + patience;
  while (governor.heldBy(PROBES) >= MAX_SLOTS) {
    if (performance.now() >= until) throw new DatabaseFault('busy', 'probes that were cut hold their slots');
    await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY));
  }
}
