// Circuit breakers. While a tenant's database or a whole cluster refuses or hangs, its requests are refused at once. Otherwise
// each request would wait for the same deadline.
//
// One probe at a time finds out when the database is back (src/connections/breaker-trial.ts).
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { blamed } from './breaker-blame.js';
import { Evidence } from './breaker-evidence.js';
import { LONGEST_PAUSE, Trial } from './breaker-trial.js';
import type { BreakerDeps, Breakers, BreakerScope, BreakerStatus, BreakerTenant } from './breaker-types.js';

export type { BreakerChange, Breakers, BreakerTenant, ProbeTarget } from './breaker-types.js';

/*
 * States of a breaker, and what changes them:
 *
 *     closed     → suspected  clusters only: a connection got no answer, or two connections failed
 *     closed     → open       three connections in a row failed; for a cluster, if they blame the server
 *                             (Evidence.blamesServer)
 *     suspected  → closed     a request or a probe succeeded, or the failures are too old
 *     suspected  → open       three connections in a row failed, probes included, and they blame the server
 *     open       → closed     a probe succeeded, or the breaker was dropped
 *
 * An open breaker refuses requests. A closed breaker and a suspected one admit them. Probes run while a breaker is suspected or
 * open. A probe of a suspected cluster goes to another tenant than the failed one, if this process knows another tenant.
 */

/** An open breaker that has refused no request for this long (ms) is dropped: its tenant may not exist any more. */
const DROP_AFTER = 600_000;
/**
 * An attempt that began before a breaker closed proves nothing about the time after the closing. Such an attempt can fail as late
 * as a statement may run. So the time of closing is remembered for this long (ms).
 */
const REMEMBER_CLOSED_FOR = 60_000;

interface Breaker {
  readonly scope: BreakerScope;
  readonly key: string;
  readonly cluster: string;
  readonly evidence: Evidence;
  /** Undefined while the breaker is closed and not suspected. */
  trial: Trial | undefined;
  closedAt: number;
  opened: number;
}

export function createBreakers(deps: BreakerDeps): Breakers {
  const { probe, neighbour, onChange, now = () => performance.now(), random = Math.random } = deps;
  const breakers = { tenant: new Map<string, Breaker>(), cluster: new Map<string, Breaker>() };
  const successes = { wanted: false };
  const opened = { tenant: 0, cluster: 0 };
  /** When a suspected cluster was last probed, by its key. */
  const suspectProbedAt = new Map<string, number>();
  let refused = 0;
  /** Breakers that are open now. While there are none, `admit` looks no further. */
  let openNow = 0;
  let closed = false;
  let sweeper: NodeJS.Timeout | undefined;

  function remember(scope: BreakerScope, key: string, cluster: string): Breaker {
    let breaker = breakers[scope].get(key);
    if (!breaker) {
      const evidence = new Evidence();
      breaker = { scope, key, cluster, evidence, trial: undefined, closedAt: -Infinity, opened: 0 };
      breakers[scope].set(key, breaker);
      successes.wanted = true;
      sweeper ??= setInterval(sweep, REMEMBER_CLOSED_FOR / 2).unref();
    }
    return breaker;
  }

  function all(): Breaker[] {
    return [...breakers.cluster.values(), ...breakers.tenant.values()];
  }

  function drop(breaker: Breaker, reason: string): void {
    if (breaker.trial) close(breaker, breaker.trial, reason);
    remove(breaker);
  }

  function remove({ scope, key }: Breaker): void {
    breakers[scope].delete(key);
    successes.wanted = breakers.cluster.size + breakers.tenant.size > 0;
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
    if (successes.wanted) return;
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
    if (breaker.closedAt === -Infinity) remove(breaker);
  }

  /** Opens the breaker of a cluster if the evidence is enough. */
  function judge(breaker: Breaker, tenant: BreakerTenant, reason: string): void {
    const { evidence, trial } = breaker;
    if (!evidence.suffices || !evidence.blamesServer(trial?.probeWaits ?? false)) return;
    // One dead server is one open breaker. Its tenants start without failures when that breaker closes.
    for (const own of [...breakers.tenant.values()])
      if (own.cluster === breaker.key) drop(own, "the cluster's breaker opened");
    open(breaker, tenant, reason);
  }

  /** Probes a cluster when it is not known whether its server is at fault. */
  function suspect(breaker: Breaker, tenant: BreakerTenant, fault: DatabaseFault): void {
    const { evidence, trial } = breaker;
    if (trial) trial.suspect(tenant, fault.reason);
    // Another silent connection would take seconds to notice, so the first one is enough.
    else if (!evidence.blamesServer(false) && (evidence.size > 1 || fault.kind === 'timeout')) {
      breaker.trial = newTrial(breaker, tenant, fault.reason);
      // A cluster that is suspected again and again must not be probed more often than an open one.
      breaker.trial.begin(Math.max(0, (suspectProbedAt.get(breaker.key) ?? -Infinity) + LONGEST_PAUSE - now()));
    }
  }

  function newTrial(breaker: Breaker, first: BreakerTenant, reason: string): Trial {
    const { scope, key, evidence } = breaker;
    const trial: Trial = new Trial(
      {
        ...{ scope, key, evidence, probe, neighbour, now, random },
        onOver: (outcome) => {
          close(breaker, trial, outcome);
        },
        onSilence: () => {
          judge(breaker, trial.tenant, trial.reason);
        },
        onFailure: (tenant, fault) => {
          probeFailed(breaker, tenant, fault);
        },
      },
      first,
      reason,
    );
    return trial;
  }

  function open(breaker: Breaker, tenant: BreakerTenant, reason: string): void {
    breaker.trial ??= newTrial(breaker, tenant, reason);
    breaker.opened += 1;
    opened[breaker.scope] += 1;
    openNow += 1;
    breaker.trial.open(tenant, reason);
    onChange({ scope: breaker.scope, key: breaker.key, state: 'open', reason, openFor: 0, probes: 0 });
  }

  function close(breaker: Breaker, trial: Trial, reason: string): void {
    trial.end();
    breaker.trial = undefined;
    if (trial.suspectProbedAt !== undefined) suspectProbedAt.set(breaker.key, trial.suspectProbedAt);
    if (trial.isOpen) breaker.closedAt = now();
    startAfresh(breaker);
    if (!trial.isOpen) return;
    openNow -= 1;
    const { scope, key } = breaker;
    onChange({ scope, key, state: 'closed', reason, openFor: breaker.closedAt - trial.at, probes: trial.probes });
  }

  /** A probe of a suspected cluster failed. */
  function probeFailed(breaker: Breaker, tenant: BreakerTenant, fault: DatabaseFault): void {
    if (blamed(fault) !== 'cluster') return;
    breaker.evidence.add({ at: now(), tenantId: tenant.id, during: 'probe' });
    judge(breaker, tenant, fault.reason);
  }

  function refuse(breaker: Breaker, trial: Trial, tenant: BreakerTenant): DatabaseFault {
    refused += 1;
    const retryAfter = Math.max(1, Math.ceil(trial.refuse(tenant) / 1_000));
    return new DatabaseFault('unavailable', `the ${breaker.scope}'s breaker is open`, retryAfter);
  }

  function statusOf(breaker: Breaker): BreakerStatus {
    const { scope, key, cluster, evidence } = breaker;
    const trial = breaker.trial?.isOpen ? breaker.trial : undefined;
    return {
      scope,
      key,
      cluster,
      state: !trial ? 'closed' : trial.isProbing ? 'half-open' : 'open',
      failures: evidence.size,
      reason: trial?.reason,
      openFor: trial && now() - trial.at,
      probes: trial?.probes ?? 0,
      nextProbeIn: trial?.nextProbeIn,
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

    successes,

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
