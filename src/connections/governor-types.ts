// The types that the connection governor (src/connections/governor.ts) shares with its pools and with the source of its slots.
import type { DatabaseFault } from '../../db/driver/database-fault.js';
import type { Membership } from '../../db/driver/pool/slot.js';
import type { Backends } from './backends.js';

/** The slots that this process may use: a fixed number, or leases that come and go. */
export interface SlotSource {
  /** Slots that may be used now. */
  readonly leased: number;
  /** Whether more slots may come within moments. Until they come, the governor closes no connection for requests that wait. */
  readonly asking?: boolean;
  /** Why there is no slot, and none to wait for; undefined while there is a slot, or may be one. */
  readonly fault?: DatabaseFault | undefined;
  /** Slots that the other replicas lease, as far as this replica knows. */
  readonly others?: number;
  /** The server refused a connection because it has no room (53300). The slot of that connection is still in use. */
  refused?(): void;
  /** Called after each change of the number of slots that could be used at once; 0 when no request waits. */
  want(missing: number): void;
  /** Call this once, before anything else. */
  attach(user: SlotUser): void;
}

/** The user of a source's slots. */
export interface SlotUser {
  /** Slots in use. */
  readonly used: number;
  /** Call this when any answer of the source has changed. */
  changed(): void;
}

export interface GovernorOptions {
  /** A fixed number, or leases that come and go. */
  readonly slots: number | SlotSource;
  /** Finds out when a backend that may live on is gone. Without it, the slot of such a backend is free at once. */
  readonly backends?: Pick<Backends, 'track'>;
  /** Requests of all tenants together that may wait for a slot; further requests are refused at once. Default 10,000. */
  readonly maxWaiting?: number;
  /** The same limit for one tenant, so that a single tenant cannot fill the queue. Default 1,000. */
  readonly maxWaitingPerTenant?: number;
  /** Milliseconds on a clock that never goes back. Default `performance.now`. */
  readonly now?: () => number;
}

/** The state of a governor. Counters count from the start of the governor. */
export interface GovernorStats {
  /** Slots that may be used. */
  readonly leased: number;
  /**
   * Slots in use: connections that are opening, open or closing, and backends that may live on. For a while after a lease was
   * lost, this may be more than `leased`.
   */
  readonly used: number;
  readonly highestUsed: number;
  /** Connections that were asked to close and have not closed yet. */
  readonly closing: number;
  /** Connections that have closed, but whose backend may live on. */
  readonly unknown: number;
  /** Pools that have an unused connection. */
  readonly idleHolders: number;
  /** Requests that wait for a slot. */
  readonly waiting: number;
  /** Unused connections that were closed because their slot was needed. */
  readonly evictions: number;
  /** Connections that were closed when they were given back, because their slot was needed. */
  readonly yields: number;
  /** Requests refused at once, because too many requests waited. */
  readonly refused: number;
  /** Requests that got no slot within their timeout. */
  readonly timedOut: number;
}

export interface Governor {
  /**
   * Admits a pool until it leaves. Then the pool's waiting requests are rejected with DatabaseFault `unavailable`. A tenant may
   * have several pools at a time (a closing pool and its successor); they take turns as one tenant.
   *
   * @param closeIdle closes one unused connection of the pool, and calls `closing` of its slot; returns false if there is none
   */
  join(tenantId: string, closeIdle: () => boolean): Membership;
  /** Requests of this tenant that wait for a slot. */
  waitingOf(tenantId: string): number;
  /** Slots in use by this tenant. */
  heldBy(tenantId: string): number;
  stats(): GovernorStats;
  /** Rejects all waiting requests with DatabaseFault `unavailable`, and admits no further request. */
  close(): void;
}
