// Circuit breakers: a tenant's database, or a whole cluster, that refuses or hangs is answered for at once, instead of
// making each request wait for the same deadline; one probe at a time finds out when it is back.
import { DatabaseFault } from '../../db/errors.js';
import { IN_RECOVERY } from '../../db/proof.js';

/** Failures in a row that open a breaker, and the time (ms) within which they must lie. */
const FAILURES_TO_OPEN = 3;
const WINDOW = 10_000;

/*
 * How soon a breaker closes after its server is back, at worst. Probes begin at most LONGEST_PAUSE after one another,
 * counted from beginning to beginning, so that one that hangs delays nothing: it is given up before (PROBE_PATIENCE is the
 * shorter). The last one in vain began before the server was back, so the next one begins within 800 ms of that, and a
 * server that answers within 200 ms is in use again within a second.
 */
/** The pause (ms) before a probe is drawn between the shortest and a ceiling that doubles from the first to the longest. */
const SHORTEST_PAUSE = 25;
const FIRST_PAUSE = 100;
const LONGEST_PAUSE = 800;
/** A probe without an answer for this long (ms) no longer holds up the next one. Its answer still counts if it comes. */
const PROBE_PATIENCE = 500;

/** A breaker that nobody asked for this long (ms) is not probed any more. */
const IDLE_AFTER = 60_000;
/** An open breaker that nobody asked for this long (ms) is dropped: its tenant may not exist any more. */
const DROP_AFTER = 600_000;
/**
 * What failed before a breaker closed says nothing about the time after, and may report as late as a statement may run
 * (ms): until then it is known when the breaker closed.
 */
const REMEMBER_CLOSED_FOR = 60_000;

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
  /** Whose database to connect to: the tenant itself, or the one of the cluster that asked last. */
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
  /** `half-open` while a probe is under way: requests are refused until it succeeds. */
  readonly state: 'closed' | 'open' | 'half-open';
  /** Failures in a row that count towards opening. */
  readonly failures: number;
  /** The fault that opened it; undefined while closed. */
  readonly reason: string | undefined;
  /** Milliseconds since it opened; undefined while closed. */
  readonly openFor: number | undefined;
  /** Probes since it opened. */
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
  /** The tenant's database answered. A breaker that is open does not close by it: the answer may be older than the fault. */
  succeeded(tenant: BreakerTenant): void;
  /**
   * Counts a fault of opening a connection or of a statement; which faults count for whom is told by `blamed`. The loss of
   * a connection that nobody used is not to be told: nobody waited for it, and the next request finds out.
   *
   * @param since when the failed attempt began, on the breakers' clock: what began before the breaker closed counts no more
   */
  failed(tenant: BreakerTenant, fault: DatabaseFault, since?: number): void;
  /** Drops what is known of a tenant: its settings changed, or it was removed. Its cluster's breaker stays. */
  forget(tenantId: string): void;
  /** Undefined where nothing is wrong with it, and was not of late. */
  state(scope: BreakerScope, key: string): BreakerStatus | undefined;
  stats(): BreakerStats;
  /** Stops all probing; from then on everything is admitted and nothing counted. */
  close(): void;
}

interface Breaker {
  readonly scope: BreakerScope;
  readonly key: string;
  readonly cluster: string;
  /** When the failures in a row happened, at most as many as open it. */
  failures: number[];
  opening: Opening | undefined;
  closedAt: number;
  opened: number;
}

/** From opening to closing. */
interface Opening {
  readonly at: number;
  readonly reason: string;
  /** Who asked last, and when. */
  tenant: BreakerTenant;
  askedAt: number;
  probes: number;
  /** The number of the probe that is under way and not given up; 0 where none is. */
  probing: number;
  /** When the probe under way began, or the next one does; undefined where nobody asks any more. */
  probeAt: number | undefined;
  /** Of the next probe, or of the patience with this one. */
  timer: NodeJS.Timeout | undefined;
}

export function createBreakers(deps: BreakerDeps): Breakers {
  const { probe, onChange, now = () => performance.now(), random = Math.random } = deps;
  const breakers = { tenant: new Map<string, Breaker>(), cluster: new Map<string, Breaker>() };
  const opened = { tenant: 0, cluster: 0 };
  let refused = 0;
  /** Breakers open now: the request path looks no further while there is none. */
  let openNow = 0;
  let closed = false;
  let sweeper: NodeJS.Timeout | undefined;

  function remember(scope: BreakerScope, key: string, cluster: string): Breaker {
    let breaker = breakers[scope].get(key);
    if (!breaker) {
      breaker = { scope, key, cluster, failures: [], opening: undefined, closedAt: -Infinity, opened: 0 };
      breakers[scope].set(key, breaker);
      sweeper ??= setInterval(sweep, REMEMBER_CLOSED_FOR / 2).unref();
    }
    return breaker;
  }

  function all(): Breaker[] {
    return [...breakers.cluster.values(), ...breakers.tenant.values()];
  }

  function drop(breaker: Breaker, reason: string): void {
    if (breaker.opening) close(breaker, breaker.opening, reason);
    breakers[breaker.scope].delete(breaker.key);
  }

  function sweep(): void {
    const time = now();
    for (const breaker of all()) {
      const { opening, failures, closedAt } = breaker;
      if (opening) {
        if (time - opening.askedAt > DROP_AFTER) drop(breaker, 'nobody asks any more');
      } else if (time - Math.max(closedAt, failures.at(-1) ?? -Infinity) > REMEMBER_CLOSED_FOR) {
        drop(breaker, 'nothing to remember');
      }
    }
    if (breakers.cluster.size + breakers.tenant.size > 0) return;
    clearInterval(sweeper);
    sweeper = undefined;
  }

  /** Whether this failure is the one that opens the breaker. */
  function countFailure(breaker: Breaker, since: number): boolean {
    if (breaker.opening || since < breaker.closedAt) return false;
    const time = now();
    breaker.failures = breaker.failures.filter((at) => time - at < WINDOW);
    breaker.failures.push(time);
    return breaker.failures.length >= FAILURES_TO_OPEN;
  }

  function countSuccess(breaker: Breaker | undefined): void {
    if (!breaker || breaker.opening) return;
    if (breaker.closedAt === -Infinity) breakers[breaker.scope].delete(breaker.key);
    else breaker.failures = [];
  }

  function open(breaker: Breaker, tenant: BreakerTenant, reason: string): void {
    const at = now();
    const opening: Opening = {
      at,
      reason,
      tenant,
      askedAt: at,
      probes: 0,
      probing: 0,
      probeAt: undefined,
      timer: undefined,
    };
    breaker.opening = opening;
    breaker.opened += 1;
    opened[breaker.scope] += 1;
    openNow += 1;
    planProbe(breaker, opening, at);
    onChange({ scope: breaker.scope, key: breaker.key, state: 'open', reason, openFor: 0, probes: 0 });
  }

  function close(breaker: Breaker, opening: Opening, reason: string): void {
    clearTimeout(opening.timer);
    breaker.opening = undefined;
    breaker.failures = [];
    breaker.closedAt = now();
    openNow -= 1;
    const { scope, key } = breaker;
    onChange({ scope, key, state: 'closed', reason, openFor: breaker.closedAt - opening.at, probes: opening.probes });
  }

  /** @param from when the pause begins: with the probe before, not with its end */
  function planProbe(breaker: Breaker, opening: Opening, from: number): void {
    const time = now();
    if (time - opening.askedAt > IDLE_AFTER) {
      opening.probeAt = undefined;
      opening.timer = undefined;
      return;
    }
    const ceiling = Math.min(FIRST_PAUSE * 2 ** opening.probes, LONGEST_PAUSE);
    const pause = SHORTEST_PAUSE + random() * (ceiling - SHORTEST_PAUSE);
    opening.probeAt = Math.max(time, from + pause);
    opening.timer = setTimeout(() => void runProbe(breaker, opening), opening.probeAt - time).unref();
  }

  async function runProbe(breaker: Breaker, opening: Opening): Promise<void> {
    const begun = now();
    opening.probes += 1;
    const number = opening.probes;
    opening.probing = number;
    opening.probeAt = begun;
    const goOn = (): void => {
      if (breaker.opening !== opening || opening.probing !== number) return;
      clearTimeout(opening.timer);
      opening.probing = 0;
      planProbe(breaker, opening, begun);
    };
    opening.timer = setTimeout(goOn, PROBE_PATIENCE).unref();
    try {
      await probe({ scope: breaker.scope, key: breaker.key, tenant: opening.tenant });
    } catch (error) {
      if (!answers(breaker.scope, error)) {
        goOn();
        return;
      }
    }
    if (breaker.opening === opening) close(breaker, opening, 'a probe succeeded');
  }

  function refuse(breaker: Breaker, opening: Opening, tenant: BreakerTenant): DatabaseFault {
    refused += 1;
    const time = now();
    opening.tenant = tenant;
    opening.askedAt = time;
    if (opening.probeAt === undefined) void runProbe(breaker, opening);
    const known = (opening.probeAt ?? time) + PROBE_PATIENCE;
    const retryAfter = Math.max(1, Math.ceil((known - time) / 1_000));
    return new DatabaseFault('unavailable', `the ${breaker.scope}'s breaker is open`, retryAfter);
  }

  function statusOf(breaker: Breaker): BreakerStatus {
    const { scope, key, failures, opening } = breaker;
    const time = now();
    const waiting = opening?.probing === 0 ? opening.probeAt : undefined;
    return {
      scope,
      key,
      state: !opening ? 'closed' : opening.probing > 0 ? 'half-open' : 'open',
      failures: failures.length,
      reason: opening?.reason,
      openFor: opening && time - opening.at,
      probes: opening?.probes ?? 0,
      nextProbeIn: waiting === undefined ? undefined : Math.max(0, waiting - time),
      opened: breaker.opened,
    };
  }

  return {
    admit(tenant) {
      if (openNow === 0) return;
      const cluster = breakers.cluster.get(tenant.cluster);
      if (cluster?.opening) throw refuse(cluster, cluster.opening, tenant);
      const own = breakers.tenant.get(tenant.id);
      if (own?.opening) throw refuse(own, own.opening, tenant);
    },

    succeeded(tenant) {
      if (breakers.cluster.size > 0) countSuccess(breakers.cluster.get(tenant.cluster));
      if (breakers.tenant.size > 0) countSuccess(breakers.tenant.get(tenant.id));
    },

    failed(tenant, fault, since = now()) {
      const blame = blamed(fault);
      if (!blame || closed || breakers.cluster.get(tenant.cluster)?.opening) return;
      if (blame === 'cluster') {
        const cluster = remember('cluster', tenant.cluster, tenant.cluster);
        if (since < cluster.closedAt) return;
        if (countFailure(cluster, since)) {
          // One dead server is one open breaker, and its tenants start afresh when that closes.
          for (const own of [...breakers.tenant.values()])
            if (own.cluster === tenant.cluster) drop(own, "the cluster's breaker opened");
          open(cluster, tenant, fault.reason);
          return;
        }
      }
      const own = remember('tenant', tenant.id, tenant.cluster);
      if (countFailure(own, since)) open(own, tenant, fault.reason);
    },

    forget(tenantId) {
      const own = breakers.tenant.get(tenantId);
      if (own) drop(own, 'forgotten');
    },

    state(scope, key) {
      const breaker = breakers[scope].get(key);
      return breaker && statusOf(breaker);
    },

    stats: () => ({ opened: { ...opened }, refused, breakers: all().map(statusOf) }),

    close() {
      closed = true;
      clearInterval(sweeper);
      for (const breaker of all()) drop(breaker, 'the service stops');
    },
  };
}

/**
 * Whose fault it is: the server's (it refused, dropped the connection, or gave no answer), the tenant's own (it may not
 * enter, or its database is not there), or nobody's that a breaker could help: a statement that took too long (57014), and
 * back-pressure (`busy`, 53300, and what else runs short), on which more refusals would be the wrong answer.
 */
export function blamed({ kind, reason }: DatabaseFault): BreakerScope | undefined {
  if (kind === 'busy') return undefined;
  // The server's own statement timeout has a SQLSTATE; where the client's deadline came first, the server was silent.
  if (kind === 'timeout') return reason === 'no answer' ? 'cluster' : undefined;
  if (isSqlState(reason)) {
    const known = bySqlState[reason] ?? bySqlState[reason.slice(0, 2)] ?? 'tenant';
    return known === 'nobody' ? undefined : known;
  }
  // A standby would refuse all of its tenants' connections: the breaker's probes find out when it has been promoted.
  return SILENCE.has(reason) || reason === IN_RECOVERY || SYSTEM_ERROR.test(reason) ? 'cluster' : undefined;
}

/** SQLSTATEs and classes; any other one came in answer to a new connection, and is about the tenant that wanted it. */
const bySqlState: Readonly<Record<string, BreakerScope | 'nobody'>> = {
  '08': 'cluster', // connection exceptions
  '08P01': 'tenant', // protocol violation: also how PgBouncer says that it knows no such database or user
  '25006': 'nobody', // read-only: reads are answered
  '53': 'nobody', // out of connections, disk or memory: the server answers, and reads may go on
  '57P01': 'tenant', // ended by an administrator: a shutdown of the server refuses the next connection as well
  '57P02': 'cluster', // crash of another backend
  '57P03': 'cluster', // starting up or shutting down
  '57P05': 'nobody', // idle session timeout
  '58': 'nobody', // I/O errors: of one file, perhaps
};

/** The fixed texts of db/errors.ts for a connection that broke, or never came about, without a code. */
const SILENCE: ReadonlySet<string> = new Set(['connection failed', 'connection lost']);

/** ECONNREFUSED and its like, and what TLS says of a certificate. */
const SYSTEM_ERROR = /^[A-Z][A-Z0-9_]*$/;

/** Five characters with a digit among them, which EPIPE has not. */
function isSqlState(reason: string): boolean {
  return /^(?=.*\d)[0-9A-Z]{5}$/.test(reason);
}

/** Whether a probe that failed found the server answering all the same, and that is all that the breaker waits for. */
function answers(scope: BreakerScope, error: unknown): boolean {
  if (!(error instanceof DatabaseFault) || !isSqlState(error.reason)) return false;
  const blame = blamed(error);
  return blame === undefined || (scope === 'cluster' && blame === 'tenant');
}
