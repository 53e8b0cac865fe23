// How often and how long a replica leases connection slots.
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { CONNECT_TIMEOUT } from '../../db/driver/pool/pool-types.js';

/** All times are in ms. */
export interface LeaseTiming {
  /** Time between two renewals; a quarter of it while requests wait for slots, or connections must close. Default 1,000. */
  readonly renewEvery: number;
  /** Slots that the replica did not need for this long are given back. Default 5,000. */
  readonly giveBackAfter: number;
  /**
   * A replica that could not renew for this long may soon be taken for dead. If it has no connection open, it opens none until it
   * has renewed. The same applies if the process stood still for this long: it cannot know what it missed. Default 15,000.
   */
  readonly unsureAfter: number;
  /** A replica that did not renew for this long, and has no connection open, is taken for dead. Default 30,000. */
  readonly deadAfter: number;
  /**
   * Time between the two looks that must both find no connection of a dead replica. The second look sees a connection whose
   * handshake was under way at the first. Default 2,000.
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

/**
 * The replicas that are alive take turns in looking for dead replicas, so that one of them looks at a server. A turn has time for
 * both looks and for failed ones: this many times `lookAgainAfter`.
 */
export const LOOK_TURN = 5;

/** How often the clock is checked for each renewal. An urgent renewal waits for one check. */
export const LOOKS_PER_RENEWAL = 4;

/** An answer that takes longer than this (ms) counts as no answer. */
export const LEASE_DEADLINE = 1_500;

/** The same for a look at a server, which opens a connection first. The server may be far away. */
export const LOOK_DEADLINE = CONNECT_TIMEOUT + LEASE_DEADLINE;

export function noAnswer(): DatabaseFault {
  return new DatabaseFault('timeout', 'no answer in time');
}
