// When a breaker's probe may connect. A probe that the server never answered counts as a connection until a look finds its
// backend gone. While a server hangs, such probes must not take the tenants' slots one after the other.
import { DatabaseFault } from '../../db/driver/database-fault.js';
import type { Governor } from './governor-types.js';

/** Probes take their slots under this tenant id. */
export const PROBES = 'probe';

/** The most slots of one server that probes hold at once, including the slots of probes that were cut. */
const MAX_SLOTS = 8;

/** Time (ms) between two checks of what probes hold. */
const LOOK_EVERY = 25;

/** Resolves when one more probe may connect. @throws DatabaseFault `busy` if that takes longer than `patience` (ms) */
export async function probeTurn(governor: Pick<Governor, 'heldBy'>, patience: number): Promise<void> {
  const until = performance.now() + patience;
  while (governor.heldBy(PROBES) >= MAX_SLOTS) {
    if (performance.now() >= until) throw new DatabaseFault('busy', 'probes that were cut hold their slots');
    await new Promise((resolve) => setTimeout(resolve, LOOK_EVERY));
  }
}
