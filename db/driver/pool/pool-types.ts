// What a connection pool (db/driver/pool/pool.ts) is given, its bounds and options, and what it shows of itself.
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
   * Longest wait for a server while one connection is opened: TCP, TLS, authentication and proof together. Never more than
   * `acquireTimeout`. Default `CONNECT_TIMEOUT`.
   */
  readonly connectTimeout?: number;
  /** Longest run of one statement, enforced by the server; the client gives up one second later. */
  readonly timeout: number;
  /** An unused connection closes after this time. */
  readonly idleTimeoutMillis: number;
}

/**
 * Longest wait (ms) for the opening of a connection: it ends the wait for a server that hangs. TCP, TLS 1.3, authentication and
 * proof take 7 round trips, 2.1 s if one takes 300 ms; as much again is for lost packets.
 */
export const CONNECT_TIMEOUT = 4_000;

/** The deadline (ms) of one opening in a pool. */
export function connectTimeoutOf({ acquireTimeout, connectTimeout = CONNECT_TIMEOUT }: PoolLimits): number {
  return Math.min(acquireTimeout, connectTimeout);
}

/** A password that may be changed while the pool lives. */
export interface ChangingPassword {
  readonly current: string;
  /** The server refused this password. Resolves to whether another one is `current` now. Never rejects. */
  refused(password: string): Promise<boolean>;
}

export interface PoolOptions {
  /** Shown in pg_stat_activity. */
  readonly applicationName: string;
  /** Use named prepared statements; false for poolers that cannot track them. */
  readonly preparedStatements: boolean;
  /** Let short reads share a pipelined connection. Needs two connections at least, and prepared statements. */
  readonly lane?: boolean;
  /** Used instead of the connection's own password. */
  readonly password?: ChangingPassword;
  /**
   * Whether other pools draw on the same CONNECTION LIMIT of the role. If it is reached, the pool waits, within
   * `acquireTimeout`, for a connection that another pool gives back.
   */
  readonly sharesLimit?: boolean;
  /**
   * Run on each new connection before it is used; what it throws is what the request fails with. A read-only connection serves
   * reads, and once a second the pool opens another one to see whether the server takes writes again.
   */
  readonly prove?: Prove;
  /** Retires connections that lead to the wrong server, or are old. */
  readonly destinations?: Destinations | undefined;
  /**
   * Makes the pool ask before it opens a connection. Without it only the pool's own bound counts.
   *
   * @param closeIdle closes one unused connection of the pool, and calls `closing` of its slot; false if there is none
   */
  readonly admit?: (closeIdle: () => boolean) => Membership;
  /**
   * Called when a connection was opened, or could not be, and when one is given back: undefined if the server answered,
   * otherwise the fault, when what failed began (on `performance.now`), and whether it was the opening. The loss of one
   * connection is one outcome, however many reads were under way on it.
   */
  readonly onOutcome?: (fault: DatabaseFault | undefined, since: number, opening: boolean) => void;
  /** If given, `onOutcome` hears of what succeeded on an open connection only while this is so. */
  readonly successes?: { readonly wanted: boolean };
  /** Fail at once when the server has no room for a connection (53300). Otherwise wait for room, within `acquireTimeout`. */
  readonly failsWhenFull?: boolean;
  /** Called when an idle connection is lost. */
  readonly onConnectionLost?: (fault: DatabaseFault) => void;
}

export interface PoolStats {
  /** Connections open or being opened, the lane's included. */
  readonly total: number;
  readonly idle: number;
  /** Connections that have closed, and whose backend may live on. They count towards `PoolLimits.max`. */
  readonly unknown: number;
  /** Requests that wait for a connection. */
  readonly waiting: number;
}
