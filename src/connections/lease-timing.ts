// The times by which a replica leases connection slots.
import { DatabaseFault } from '../../db/driver/database-fault.js';

/** In ms. */
export interface LeaseTiming {
  /** Between two renewals. Four times as often while requests wait for slots, or connections are to close. Default 1,000. */
  readonly renewEvery: number;
  /** Slots that were not needed for this long are given back. Default 5,000. */
  readonly giveBackAfter: number;
  /**
   * A replica that could not renew for this long may soon be taken for dead. If it has no connection open, it opens none until
   * it has renewed. The same holds for a replica that did nothing at all for this long, since it cannot know what it missed.
   * Default 15,000.
   */
  readonly unsureAfter: number;
  /** A replica that did not renew for this long, and has no connection open, is dead. Default 30,000. */
  readonly deadAfter: number;
  /**
   * Between the two looks that must both find no connection of a dead replica: one whose handshake is under way is seen by
   * the second. Default 2,000.
   */
  readonly lookAgainAfter: number;
}

export const LEASE_TIMING: LeaseTiming = {
  renewEvery: 1_000,
  giveBackAfter: 5_000,
  unsureAfter: 15_000,
  deadAfter: 30_000,
  lookAgainAfter: 2_000,
};

/** Looks at the clock for each renewal: an urgent renewal waits for one look. */
export const LOOKS_PER_RENEWAL = 4;

/** An answer that takes longer (ms) counts as none. */
export const LEASE_DEADLINE = 1_500;

export function noAnswer(): DatabaseFault {
  return new DatabaseFault('timeout', 'no answer in time');
}
