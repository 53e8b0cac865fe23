// How often and how long a replica leases connection slots.
import type { Kysely } from 'kysely';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { LOCK_TIMEOUT } from '../../db/registry/slot-lease-queries.js';
import { within } from '../lib/deadline.js';
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

/**
 * An answer that takes longer than this (ms) counts as no answer. The time begins when there is a connection: opening one has a
 * deadline of its own, and takes 2.1 s if a round trip takes 300 ms.
 */
export const LEASE_DEADLINE = 1_500;

/** The same for a change of a lease, which takes five round trips and waits for the changes of other replicas. */
export const CHANGE_DEADLINE = LEASE_DEADLINE + LOCK_TIMEOUT;

/** The same for a look at a server, which opens a connection first. The server may be far away. */
export const LOOK_DEADLINE = CONNECT_TIMEOUT + LEASE_DEADLINE;

export function noAnswer(): DatabaseFault {
  return new DatabaseFault('timeout', 'no answer in time');
}

/**
 * Asks on a connection of its own, and waits at most LEASE_DEADLINE for the answer.
 *
 * @throws DatabaseFault if there is no connection, or no answer in time; then the question may still be under way
 */
export async function askInTime<T>(
  registry: Kysely<Registry>,
  question: (db: Kysely<Registry>) => Promise<T>,
): Promise<T> {
  let begin: () => void = () => undefined;
  const begun = new Promise<void>((resolve) => (begin = resolve));
  const answer = registry.connection().execute((db) => {
    begin();
    return question(db);
  });
  await Promise.race([begun, answer]);
  return within(answer, LEASE_DEADLINE, noAnswer);
}
