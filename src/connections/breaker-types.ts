// What breakers (src/connections/breakers.ts) are asked, and what they tell of themselves.
import type { DatabaseFault } from '../../db/driver/database-fault.js';

export type BreakerScope = 'tenant' | 'cluster';

/** Whom a request is for; of a tenant's record no more than breakers need. */
export interface BreakerTenant {
  readonly id: string;
  /** `host:port` */
  readonly cluster: string;
}

export interface ProbeTarget {
  readonly scope: BreakerScope;
  /** The tenant's id or the cluster's `host:port`. */
  readonly key: string;
  /** Whose database to connect to: the tenant itself, or one of the cluster: see `BreakerDeps.neighbour`. */
  readonly tenant: BreakerTenant;
}

export interface BreakerChange {
  readonly scope: BreakerScope;
  readonly key: string;
  readonly state: 'open' | 'closed';
  /** The fault that opened it (`DatabaseFault.reason`), or why it closed. */
  readonly reason: string;
  /** Milliseconds that it was open, and probes made in them; zero when it opens. */
  readonly openFor: number;
  readonly probes: number;
}

/** One breaker, for operators. */
export interface BreakerStatus {
  readonly scope: BreakerScope;
  readonly key: string;
  /** `half-open` while a probe is under way: requests are refused until it succeeds. A suspected cluster is `closed`. */
  readonly state: 'closed' | 'open' | 'half-open';
  /** Failures in a row that count towards opening. */
  readonly failures: number;
  /** The fault that opened it; undefined while closed. */
  readonly reason: string | undefined;
  /** Milliseconds since it opened; undefined while closed. */
  readonly openFor: number | undefined;
  /** Probes since it opened, or was suspected before. */
  readonly probes: number;
  /** Milliseconds until the next probe; undefined while closed, while one is under way, and where nobody asks any more. */
  readonly nextProbeIn: number | undefined;
  /** Times it opened since it is remembered. */
  readonly opened: number;
}

export interface BreakerStats {
  /** Breakers opened, and requests refused, since the start. */
  readonly opened: Readonly<Record<BreakerScope, number>>;
  readonly refused: number;
  /** Every breaker that is remembered: open, or closed with failures or an opening of late. */
  readonly breakers: readonly BreakerStatus[];
}

export interface BreakerDeps {
  /**
   * Opens and closes a connection. Must settle by a deadline of its own, and reject with a DatabaseFault where the server
   * refused or did not answer; what else it rejects with proves nothing, and the breaker stays open.
   */
  readonly probe: (target: ProbeTarget) => Promise<void>;
  /** Another tenant of the same cluster, whose database a probe of the server should enter; undefined if there is none. */
  readonly neighbour?: (tenant: BreakerTenant) => BreakerTenant | undefined;
  readonly onChange: (change: BreakerChange) => void;
  /** Milliseconds on a clock that never goes back; `performance.now` unless told. */
  readonly now?: () => number;
  /** From 0 to below 1; `Math.random` unless told. */
  readonly random?: () => number;
}

export interface Breakers {
  /**
   * To be called before a request waits for the tenant's database. Never waits: a request that finds the breaker open is
   * answered, also where its asking starts the probing again, because nobody knows how long the probe will take.
   *
   * @throws DatabaseFault `unavailable`, with the seconds after which a retry makes sense, where a breaker is open
   */
  admit(tenant: BreakerTenant): void;
  /** Whether a success can change anything: pools report successes only while a failure is remembered. */
  readonly successes: { readonly wanted: boolean };
  /** The tenant's database answered. A breaker that is open does not close by it: the answer may be older than the fault. */
  succeeded(tenant: BreakerTenant): void;
  /**
   * Counts the fault of one connection; call it once a connection, however many statements failed on it. `blamed` decides
   * which faults count, and for what. The loss of an unused connection is not reported: no request waited for it, and the
   * next one finds out.
   *
   * @param since when the failed attempt began, on the breakers' clock: what began before the breaker closed counts no more
   * @param opening whether the connection was a new one that did not come about
   */
  failed(tenant: BreakerTenant, fault: DatabaseFault, since?: number, opening?: boolean): void;
  /** Drops what is known of a tenant: its settings changed, or it was removed. Its cluster's breaker stays. */
  forget(tenantId: string): void;
  /** Undefined where nothing is wrong with it, and was not of late. */
  state(scope: BreakerScope, key: string): BreakerStatus | undefined;
  stats(): BreakerStats;
  /** Stops all probing; from then on everything is admitted and nothing counted. */
  close(): void;
}
