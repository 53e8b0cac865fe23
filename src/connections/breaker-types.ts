// The types of circuit breakers (src/connections/breakers.ts): what callers ask of a breaker, and what it reports.
import type { DatabaseFault } from '../../db/driver/database-fault.js';

export type BreakerScope = 'tenant' | 'cluster';

/** The tenant that a request is for. It has only the fields that breakers need. */
export interface BreakerTenant {
  readonly id: string;
  /** `host:port` */
  readonly cluster: string;
}

export interface ProbeTarget {
  readonly scope: BreakerScope;
  /** The tenant's id or the cluster's `host:port`. */
  readonly key: string;
  /**
   * The tenant whose database the probe connects to: the tenant itself, or another tenant of the cluster
   * (`BreakerDeps.neighbour`).
   */
  readonly tenant: BreakerTenant;
}

export interface BreakerChange {
  readonly scope: BreakerScope;
  readonly key: string;
  readonly state: 'open' | 'closed';
  /** The fault that opened the breaker (`DatabaseFault.reason`), or why the breaker closed. */
  readonly reason: string;
  /** How long (ms) the breaker was open, and how many probes ran in that time; both are zero when it opens. */
  readonly openFor: number;
  readonly probes: number;
}

/** One breaker, for operators. */
export interface BreakerStatus {
  readonly scope: BreakerScope;
  readonly key: string;
  /** `host:port` of the cluster, which is the key itself if the scope is `cluster`. */
  readonly cluster: string;
  /** `half-open` while a probe is under way: requests are refused until the probe succeeds. A suspected cluster is `closed`. */
  readonly state: 'closed' | 'open' | 'half-open';
  /** Failures in a row that count towards opening. */
  readonly failures: number;
  /** The fault that opened the breaker; undefined while it is closed. */
  readonly reason: string | undefined;
  /** Milliseconds since the breaker opened; undefined while it is closed. */
  readonly openFor: number | undefined;
  /** Probes since the breaker opened, or since the suspicion before that. */
  readonly probes: number;
  /**
   * Milliseconds until the next probe. Undefined while the breaker is closed, while a probe is under way, and when requests have
   * stopped.
   */
  readonly nextProbeIn: number | undefined;
  /** How often the breaker has opened. */
  readonly opened: number;
}

export interface BreakerStats {
  /** Breakers opened and requests refused, both since the start of the process. */
  readonly opened: Readonly<Record<BreakerScope, number>>;
  readonly refused: number;
  /** Every remembered breaker: open breakers, and closed breakers with failures or with a recent opening. */
  readonly breakers: readonly BreakerStatus[];
}

export interface BreakerDeps {
  /**
   * Opens and closes a connection. Must settle by its own deadline, and reject with a DatabaseFault if the server refused or did
   * not answer. Any other rejection proves nothing, and the breaker stays open.
   */
  readonly probe: (target: ProbeTarget) => Promise<void>;
  /** Another tenant of the same cluster, whose database a probe of the server enters; undefined if there is none. */
  readonly neighbour?: (tenant: BreakerTenant) => BreakerTenant | undefined;
  readonly onChange: (change: BreakerChange) => void;
  /** Milliseconds on a clock that never goes back. Default `performance.now`. */
  readonly now?: () => number;
  /** From 0 to below 1. Default `Math.random`. */
  readonly random?: () => number;
}

export interface Breakers {
  /**
   * Call this before a request waits for the tenant's database. It never waits. A request that finds the breaker open is refused
   * at once, even if that request makes the probing begin again: the duration of a probe is not known in advance.
   *
   * @throws DatabaseFault `unavailable` if a breaker is open, with the seconds after which a retry makes sense
   */
  admit(tenant: BreakerTenant): void;
  /** Whether a success can change anything. Pools report successes only while a failure is remembered. */
  readonly successes: { readonly wanted: boolean };
  /** The tenant's database answered. This does not close an open breaker: the answer may be older than the fault. */
  succeeded(tenant: BreakerTenant): void;
  /**
   * Counts the fault of one connection. Call it once for each connection, however many statements failed on it. `blamed` decides
   * which faults count, and for which breaker. Do not report the loss of an unused connection: no request waited for it, and the
   * next request notices the fault.
   *
   * @param since when the failed attempt began, on the breakers' clock; an attempt from before the breaker closed does not count
   * @param opening whether the connection was new and could not be opened
   */
  failed(tenant: BreakerTenant, fault: DatabaseFault, since?: number, opening?: boolean): void;
  /** Forgets a tenant whose settings changed, or that was removed. The breaker of its cluster stays. */
  forget(tenantId: string): void;
  /** Undefined if the breaker is closed and has had no fault lately. */
  state(scope: BreakerScope, key: string): BreakerStatus | undefined;
  stats(): BreakerStats;
  /** Stops all probing. Afterwards every request is admitted, and nothing is counted. */
  close(): void;
}
