// The types of a connection pool (db/driver/pool/pool.ts): its bounds, its options and its statistics.
import type { Destinations } from '../destinations.js';
import type { DatabaseFault } from '../database-fault.js';
import type { Prove } from '../proof.js';
import type { Membership } from './slot.js';

/** Bounds of one pool. All times in milliseconds. */
export interface PoolLimits {
  /** Most connections open at once. */
  readonly max: number;
  /** Longest wait for a connection, its opening included. */
  readonly acquireTimeout: number;
  /**
   * Longest wait for a server while one connection opens: TCP, TLS, authentication and proof together. Never more than
   * `acquireTimeout`. Default `CONNECT_TIMEOUT`.
   */
  readonly connectTimeout?: number;
  /** Longest run of one statement, enforced by the server; the client gives up one second later. */
  readonly timeout: number;
  /** An unused connection closes after this time. */
  readonly idleTimeoutMillis: number;
}

/**
 * Longest wait (ms) for the opening of a connection, which bounds the wait for a server that hangs. TCP, TLS 1.3, authentication
 * and proof take 7 round trips: 2.1 s if one takes 300 ms. Lost packets may take as long again.
 */
export const CONNECT_TIMEOUT = 4_000;

/** The deadline (ms) for opening one connection of a pool. */
export function connectTimeoutOf({ acquireTimeout, connectTimeout = CONNECT_TIMEOUT }: PoolLimits): number {
  return Math.min(acquireTimeout, connectTimeout);
}

/** A password that may change while the pool lives. */
export interface ChangingPassword {
  readonly current: string;
  /** Call this when the server refused `password`. Resolves to whether `current` is another password now. Never rejects. */
  refused(password: string): Promise<boolean>;
}

export interface PoolOptions {
  /** The name in pg_stat_activity. */
  readonly applicationName: string;
  /** Whether to use named prepared statements; false for poolers that cannot track them. */
  readonly preparedStatements: boolean;
  /** Whether short reads share a pipelined connection. Needs `max` of at least two, and prepared statements. */
  readonly lane?: boolean;
  /** Where the lane counts what it does; several pools can share it. */
  readonly laneCounts?: LaneCounts;
  /** Where the pool counts what it stopped for clients that have left; several pools can share it. */
  readonly departures?: DepartureCounts;
  /** Replaces the connection's own password. */
  readonly password?: ChangingPassword;
  /**
   * Whether other pools share the CONNECTION LIMIT of the role. If the limit is reached, the pool waits, within
   * `acquireTimeout`, for a connection that another pool gives back.
   */
  readonly sharesLimit?: boolean;
  /**
   * Runs on each new connection before its first use. If it throws, the request fails with that error. A read-only connection
   * serves reads; once a second the pool opens another connection to check whether the server accepts writes again.
   */
  readonly prove?: Prove;
  /** Retires connections that lead to the wrong server, or are too old. */
  readonly destinations?: Destinations | undefined;
  /**
   * Makes the pool ask for a slot before it opens a connection. Without it only the pool's own bound applies.
   *
   * @param closeIdle closes one unused connection of the pool, and calls `closing` of its slot; false if there is none
   */
  readonly admit?: (closeIdle: () => boolean) => Membership;
  /**
   * Called when a connection was opened, when it could not be opened, and when it is given back. The loss of one connection is
   * one outcome, however many reads were under way on it.
   *
   * @param fault undefined if the server answered
   * @param since when the failed step began, on `performance.now`
   * @param opening whether the outcome is that of an opening
   */
  readonly onOutcome?: (fault: DatabaseFault | undefined, since: number, opening: boolean) => void;
  /** If given, `onOutcome` is called for successes on open connections only while `wanted` is true. */
  readonly successes?: { readonly wanted: boolean };
  /** Whether to fail at once when the server has no room for a connection (53300). Otherwise wait, within `acquireTimeout`. */
  readonly failsWhenFull?: boolean;
  /** Called when an idle connection is lost. */
  readonly onConnectionLost?: (fault: DatabaseFault) => void;
}

/** What the lanes of several pools do, together. */
export interface LaneCounts {
  /** Lanes that have a connection now, which may be opening or closing. */
  open: number;
  /** Reads that ran on a lane, since the process started. */
  reads: number;
  /** Reads that could use a lane, and ran on a connection of their own. */
  overflows: number;
}

/** What several pools stopped because a client had left, together, since the process started. */
export interface DepartureCounts {
  /** Statements that the server was asked to cancel. */
  cancelled: number;
}

export function noLanes(): LaneCounts {
  return { open: 0, reads: 0, overflows: 0 };
}

export interface PoolStats {
  /** Connections that are open or opening, the lane's included. */
  readonly total: number;
  readonly idle: number;
  /** Connections that have closed, and whose backend may live on. They count towards `PoolLimits.max`. */
  readonly unknown: number;
  /** Requests that wait for a connection. */
  readonly waiting: number;
}
