// The terms between the connection governor (src/connections/governor.ts), the pools it admits, and the source of its slots.
import type { DatabaseFault } from '../../db/driver/database-fault.js';
import type { Membership } from '../../db/driver/pool/slot.js';
import type { Backends } from './backends.js';

/** The slots that this process may use: a number that never changes, or leases that come and go. */
export interface SlotSource {
  /** Slots that may be used now. */
  readonly leased: number;
  /** Whether more slots may come within moments. While they may, the governor closes nothing for requests that wait. */
  readonly asking?: boolean;
  /** Why there is no slot and none to wait for; undefined while there is one, or may be. */
  readonly fault?: DatabaseFault | undefined;
  /** Slots that the other replicas lease, as far as is known. */
  readonly others?: number;
  /** The server refused a connection for want of room (53300); its slot is still in use. */
  refused?(): void;
  /** Called with the number of slots that could be used at once, whenever it has changed; 0 when no request waits. */
  want(missing: number): void;
  /** To be called once, before anything else. */
  attach(user: SlotUser): void;
}

/** The user of a source's slots. */
export interface SlotUser {
  /** Slots in use. */
  readonly used: number;
  /** To be called when any answer of the source has changed. */
  changed(): void;
}

export interface GovernorOptions {
  /** A number that never changes, or leases that come and go. */
  readonly slots: number | SlotSource;
  /** Finds out when a backend that may live on is gone. Without it such a slot is free at once. */
  readonly backends?: Pick<Backends, 'track'>;
  /** Requests for a slot that may wait, all tenants together; more are refused at once. Default 10,000. */
  readonly maxWaiting?: number;
  /** The same for one tenant, so that one alone cannot fill the queue. Default 1,000. */
  readonly maxWaitingPerTenant?: number;
  /** Milliseconds on a clock that never goes back. Default `performance.now`. */
  readonly now?: () => number;
}

/** All counters since the governor was made. */
export interface GovernorStats {
  /** Slots that may be used. */
  readonly leased: number;
  /**
   * Slots in use: connections that are opening, open or closing, and backends that may live on. More than `leased` for a while
   * after a lease was lost.
   */
  readonly used: number;
  readonly highestUsed: number;
  /** Connections that were asked to close and have not closed yet. */
  readonly closing: number;
  /** Connections that have closed, and whose backend may live on. */
  readonly unknown: number;
  /** Pools that have an unused connection. */
  readonly idleHolders: number;
  /** Requests that wait for a slot. */
  readonly waiting: number;
  /** Unused connections closed because their slot was needed. */
  readonly evictions: number;
  /** Connections closed when they were given back, because their slot was needed. */
  readonly yields: number;
  /** Requests refused at once, because too many waited. */
  readonly refused: number;
  /** Requests that got no slot within their timeout. */
  readonly timedOut: number;
}

export interface Governor {
  /**
   * Lets a pool take part until it leaves. The pool's requests that still wait then are rejected with DatabaseFault
   * `unavailable`. A tenant may have several pools at a time (one that closes, and its successor): they take turns as one.
   *
   * @param closeIdle closes one unused connection of the pool, and calls `closing` of its slot; false if there is none
   */
  join(tenantId: string, closeIdle: () => boolean): Membership;
  /** Requests of this tenant that wait for a slot. */
  waitingOf(tenantId: string): number;
  /** Slots in use by this tenant. */
  heldBy(tenantId: string): number;
  stats(): GovernorStats;
  /** Rejects all waiting requests with DatabaseFault `unavailable`, and admits none from then on. */
  close(): void;
}
