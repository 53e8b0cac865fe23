// Circuit breakers: a tenant's database, or a whole cluster, that refuses or hangs is answered for at once, instead of
// making each request wait for the same deadline; one probe at a time finds out when it is back.
import { DatabaseFault } from '../../db/errors.js';
import { IN_RECOVERY } from '../../db/proof.js';
import { Evidence } from './breaker-evidence.js';
import type { BreakerDeps, Breakers, BreakerScope, BreakerStatus, BreakerTenant } from './breaker-types.js';

export type { BreakerChange, Breakers, BreakerTenant, ProbeTarget } from './breaker-types.js';

/*
 * States of a breaker, and what changes them:
 *
 *     closed     → suspected  a cluster's only: a connection got no answer, or two connections failed
 *     closed     → open       three connections in a row failed; for a cluster, if they blame the server
 *                             (Evidence.blamesServer)
 *     suspected  → closed     a request or a probe succeeded, or the failures are too old
 *     suspected  → open       three connections in a row failed, probes included, and they blame the server
 *     open       → closed     a probe succeeded, or the breaker was dropped
 *
 * An open breaker refuses requests; a closed and a suspected one admit them. Probes are made while it is suspected or open. A
 * probe of a suspected cluster goes to another tenant than the one that failed, if this process knows another.
 */

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

interface Breaker {
  readonly scope: BreakerScope;
  readonly key: string;
  readonly cluster: string;
  readonly evidence: Evidence;
  /** Undefined while it is closed and not suspected. */
  trial: Trial | undefined;
  closedAt: number;
  opened: number;
}

/** From suspicion or opening to closing. */
interface Trial {
  /** False while the cluster is only suspected. */
  isOpen: boolean;
  /** When it opened; until then, when it was suspected. */
  at: number;
  /** The fault that opened it, or the last one that made it suspected. */
  reason: string;
  /** Who asked last, and when. */
  tenant: BreakerTenant;
  askedAt: number;
  probes: number;
  /** The number of the probe that is under way and not given up; 0 where none is. */
  probing: number;
  /** Whether a probe was not answered within its patience. */
  probeWaits: boolean;
  /** When the probe under way began, or the next one does; undefined where nobody asks any more. */
  probeAt: number | undefined;
  /** Of the next probe, or of the patience with this one. */
  timer: NodeJS.Timeout | undefined;
}

export function createBreakers(deps: BreakerDeps): Breakers {
  const { probe, neighbour, onChange, now = () => performance.now(), random = Math.random } = deps;
  const breakers = { tenant: new Map<string, Breaker>(), cluster: new Map<string, Breaker>() };
  const opened = { tenant: 0, cluster: 0 };
  /** When a cluster that was suspected was probed last; one number a cluster. */
  const suspectProbedAt = new Map<string, number>();
  let refused = 0;
  /** Breakers open now: the request path looks no further while there is none. */
  let openNow = 0;
  let closed = false;
  let sweeper: NodeJS.Timeout | undefined;

  function remember(scope: BreakerScope, key: string, cluster: string): Breaker {
    let breaker = breakers[scope].get(key);
    if (!breaker) {
      const evidence = new Evidence();
      breaker = { scope, key, cluster, evidence, trial: undefined, closedAt: -Infinity, opened: 0 };
      breakers[scope].set(key, breaker);
      sweeper ??= setInterval(sweep, REMEMBER_CLOSED_FOR / 2).unref();
    }
    return breaker;
  }

  function all(): Breaker[] {
    return [...breakers.cluster.values(), ...breakers.tenant.values()];
  }

  function drop(breaker: Breaker, reason: string): void {
    if (breaker.trial) close(breaker, breaker.trial, reason);
    breakers[breaker.scope].delete(breaker.key);
  }

  function sweep(): void {
    const time = now();
    for (const breaker of all()) {
      const { trial, evidence, closedAt } = breaker;
      if (trial?.isOpen) {
        if (time - trial.askedAt > DROP_AFTER) drop(breaker, 'nobody asks any more');
      } else if (time - Math.max(closedAt, evidence.last?.at ?? -Infinity) > REMEMBER_CLOSED_FOR) {
        drop(breaker, 'nothing to remember');
      }
    }
    if (breakers.cluster.size + breakers.tenant.size > 0) return;
    clearInterval(sweeper);
    sweeper = undefined;
  }

  function countSuccess(breaker: Breaker | undefined): void {
    if (!breaker || breaker.trial?.isOpen) return;
    if (breaker.trial) close(breaker, breaker.trial, 'a request succeeded');
    else startAfresh(breaker);
  }

  function startAfresh(breaker: Breaker): void {
    breaker.evidence.clear();
    if (breaker.closedAt === -Infinity) breakers[breaker.scope].delete(breaker.key);
  }

  /** Opens a cluster's breaker, if the evidence is enough for it. */
  function judge(breaker: Breaker, tenant: BreakerTenant, reason: string): void {
    const { evidence, trial } = breaker;
    if (!evidence.suffices || !evidence.blamesServer(trial?.probeWaits ?? false)) return;
    // One dead server is one open breaker, and its tenants start afresh when that closes.
    for (const own of [...breakers.tenant.values()])
      if (own.cluster === breaker.key) drop(own, "the cluster's breaker opened");
    open(breaker, tenant, reason);
  }

  /** Probes a cluster of which it is not known whether the server is at fault. */
  function suspect(breaker: Breaker, tenant: BreakerTenant, fault: DatabaseFault): void {
    const { evidence, trial } = breaker;
    if (trial) Object.assign(trial, { tenant, askedAt: now(), reason: fault.reason });
    // Each further silence would take seconds to be noticed: the first one is enough.
    else if (!evidence.blamesServer(false) && (evidence.size > 1 || fault.kind === 'timeout')) {
      const newOne = (breaker.trial = newTrial(tenant, fault.reason));
      // One that is suspected again and again is not probed more often than an open one.
      const pause = Math.max(0, (suspectProbedAt.get(breaker.key) ?? -Infinity) + LONGEST_PAUSE - now());
      newOne.probeAt = now() + pause;
      if (pause === 0) void runProbe(breaker, newOne);
      else newOne.timer = setTimeout(() => void runProbe(breaker, newOne), pause).unref();
    }
  }

  function newTrial(tenant: BreakerTenant, reason: string): Trial {
    const at = now();
    const probing = { probes: 0, probing: 0, probeWaits: false, probeAt: undefined, timer: undefined };
    return { isOpen: false, at, reason, tenant, askedAt: at, ...probing };
  }

  function open(breaker: Breaker, tenant: BreakerTenant, reason: string): void {
    const trial = (breaker.trial ??= newTrial(tenant, reason));
    const at = now();
    const probing = trial.probing > 0;
    Object.assign(trial, { isOpen: true, at, reason, tenant, askedAt: at });
    breaker.opened += 1;
    opened[breaker.scope] += 1;
    openNow += 1;
    if (!probing) {
      clearTimeout(trial.timer);
      planProbe(breaker, trial, at);
    }
    onChange({ scope: breaker.scope, key: breaker.key, state: 'open', reason, openFor: 0, probes: 0 });
  }

  function close(breaker: Breaker, trial: Trial, reason: string): void {
    clearTimeout(trial.timer);
    breaker.trial = undefined;
    if (trial.isOpen) breaker.closedAt = now();
    startAfresh(breaker);
    if (!trial.isOpen) return;
    openNow -= 1;
    const { scope, key } = breaker;
    onChange({ scope, key, state: 'closed', reason, openFor: breaker.closedAt - trial.at, probes: trial.probes });
  }

  /** @param from when the pause begins: with the probe before, not with its end */
  function planProbe(breaker: Breaker, trial: Trial, from: number): void {
    const time = now();
    if (!trial.isOpen && breaker.evidence.isOld(time)) {
      close(breaker, trial, 'nothing to suspect');
      return;
    }
    if (time - trial.askedAt > IDLE_AFTER) {
      trial.probeAt = undefined;
      trial.timer = undefined;
      return;
    }
    const ceiling = Math.min(FIRST_PAUSE * 2 ** trial.probes, LONGEST_PAUSE);
    const pause = SHORTEST_PAUSE + random() * (ceiling - SHORTEST_PAUSE);
    trial.probeAt = Math.max(time, from + pause);
    trial.timer = setTimeout(() => void runProbe(breaker, trial), trial.probeAt - time).unref();
  }

  async function runProbe(breaker: Breaker, trial: Trial): Promise<void> {
    const begun = now();
    trial.probes += 1;
    const number = trial.probes;
    trial.probing = number;
    trial.probeAt = begun;
    if (!trial.isOpen) suspectProbedAt.set(breaker.key, begun);
    const goOn = (): void => {
      if (breaker.trial !== trial || trial.probing !== number) return;
      clearTimeout(trial.timer);
      trial.probing = 0;
      planProbe(breaker, trial, begun);
    };
    const losePatience = (): void => {
      trial.probeWaits = true;
      if (breaker.trial === trial && !trial.isOpen) judge(breaker, trial.tenant, trial.reason);
      goOn();
    };
    trial.timer = setTimeout(losePatience, PROBE_PATIENCE).unref();
    const tenant = (trial.isOpen ? undefined : neighbour?.(trial.tenant)) ?? trial.tenant;
    try {
      await probe({ scope: breaker.scope, key: breaker.key, tenant });
    } catch (error) {
      if (!answers(breaker.scope, error)) {
        if (breaker.trial === trial && !trial.isOpen) probeFailed(breaker, tenant, error);
        goOn();
        return;
      }
    }
    if (breaker.trial === trial) close(breaker, trial, 'a probe succeeded');
  }

  /** Of a suspected cluster. */
  function probeFailed(breaker: Breaker, tenant: BreakerTenant, error: unknown): void {
    if (!(error instanceof DatabaseFault) || blamed(error) !== 'cluster') return;
    breaker.evidence.add({ at: now(), tenantId: tenant.id, during: 'probe' });
    judge(breaker, tenant, error.reason);
  }

  function refuse(breaker: Breaker, trial: Trial, tenant: BreakerTenant): DatabaseFault {
    refused += 1;
    const time = now();
    trial.tenant = tenant;
    trial.askedAt = time;
    if (trial.probeAt === undefined) void runProbe(breaker, trial);
    const known = (trial.probeAt ?? time) + PROBE_PATIENCE;
    const retryAfter = Math.max(1, Math.ceil((known - time) / 1_000));
    return new DatabaseFault('unavailable', `the ${breaker.scope}'s breaker is open`, retryAfter);
  }

  function statusOf(breaker: Breaker): BreakerStatus {
    const { scope, key, evidence } = breaker;
    const trial = breaker.trial?.isOpen ? breaker.trial : undefined;
    const time = now();
    const waiting = trial?.probing === 0 ? trial.probeAt : undefined;
    return {
      scope,
      key,
      state: !trial ? 'closed' : trial.probing > 0 ? 'half-open' : 'open',
      failures: evidence.size,
      reason: trial?.reason,
      openFor: trial && time - trial.at,
      probes: trial?.probes ?? 0,
      nextProbeIn: waiting === undefined ? undefined : Math.max(0, waiting - time),
      opened: breaker.opened,
    };
  }

  return {
    admit(tenant) {
      if (openNow === 0) return;
      const cluster = breakers.cluster.get(tenant.cluster);
      if (cluster?.trial?.isOpen) throw refuse(cluster, cluster.trial, tenant);
      const own = breakers.tenant.get(tenant.id);
      if (own?.trial) throw refuse(own, own.trial, tenant);
    },

    succeeded(tenant) {
      if (breakers.cluster.size > 0) countSuccess(breakers.cluster.get(tenant.cluster));
      if (breakers.tenant.size > 0) countSuccess(breakers.tenant.get(tenant.id));
    },

    failed(tenant, fault, since = now(), opening = false) {
      const blame = blamed(fault);
      if (!blame || closed || breakers.cluster.get(tenant.cluster)?.trial?.isOpen) return;
      const failure = { at: now(), tenantId: tenant.id, during: opening ? 'opening' : 'use' } as const;
      if (blame === 'cluster') {
        const cluster = remember('cluster', tenant.cluster, tenant.cluster);
        if (since < cluster.closedAt) return;
        cluster.evidence.add(failure);
        judge(cluster, tenant, fault.reason);
        if (cluster.trial?.isOpen) return;
        suspect(cluster, tenant, fault);
      }
      const own = remember('tenant', tenant.id, tenant.cluster);
      if (own.trial || since < own.closedAt) return;
      own.evidence.add(failure);
      if (own.evidence.suffices) open(own, tenant, fault.reason);
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
export function blamed({ kind, reason, answered }: DatabaseFault): BreakerScope | undefined {
  // An ERROR in answer to a statement: the server works, and other statements may succeed.
  if (kind === 'busy' || answered) return undefined;
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
  '54': 'nobody', // a limit of the server, such as transaction ids that are used up: reads are answered
  '58': 'nobody', // I/O errors: of one file, perhaps
  F0: 'cluster', // configuration file error
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
