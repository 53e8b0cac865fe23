// Removes the leases of replicas that died, so that their slots can be leased again. A slot must never count as free while a
// connection may still use it. So a lease is removed only when its replica is silent and has no connection open.
//
// A lease of another replica, from here:
//
//     alive ── no renewal for deadAfter ──▶ silent
//     silent ── a look finds no connection ──▶ abandoned
//     abandoned ── a look at least lookAgainAfter later, without a standstill in between, finds none either ──▶ removed
//     abandoned ── a look finds a connection, or this process stood still ──▶ silent
//     silent, abandoned ── renewed ──▶ alive
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/registry/registry-schema.js';
import { removeSilentLease, type SlotLease } from '../../db/registry/slot-lease-queries.js';
import { within } from '../lib/deadline.js';
import { LEASE_DEADLINE, noAnswer, type LeaseTiming } from './lease-timing.js';

export interface SilentLeases {
  /**
   * Looks at the silent leases among all leases, and removes those of dead replicas. Does nothing while an earlier call is under
   * way; never rejects. Call this only if this replica has long been able to renew its own leases. Otherwise it cannot know
   * whether the other replicas could.
   */
  reclaim(all: readonly SlotLease[]): Promise<void>;
  /** Forgets what the looks found, because this process stood still. */
  forget(): void;
}

export function createSilentLeases(deps: {
  readonly registry: Kysely<Registry>;
  readonly replicaId: string;
  readonly timing: Pick<LeaseTiming, 'deadAfter' | 'lookAgainAfter'>;
  /** Connections to a cluster that a replica has open. */
  readonly openConnections: (cluster: string, replicaId: string) => Promise<number>;
  /** When this process last noticed that it had stood still, on the clock of performance.now. */
  readonly stoodStillAt: () => number;
  /** Called with the first of several failures in a row. */
  readonly onError: (error: unknown) => void;
}): SilentLeases {
  const { registry, replicaId, timing, openConnections, stoodStillAt, onError } = deps;
  /** Silent leases whose replica had no connection open, and when a look first found that. */
  const abandoned = new Map<string, number>();
  let reclaiming = false;
  let failing = false;

  async function look(lease: SlotLease): Promise<void> {
    const key = leaseKey(lease);
    const askedAt = performance.now();
    const open = await within(openConnections(lease.cluster, lease.replicaId), LEASE_DEADLINE, noAnswer);
    const since = abandoned.get(key);
    if (open > 0) abandoned.delete(key);
    else if (since === undefined) abandoned.set(key, askedAt);
    // An answer from before a standstill of this process is too old.
    else if (askedAt - since >= timing.lookAgainAfter && stoodStillAt() < askedAt) {
      await removeSilentLease(registry, lease, timing.deadAfter);
      abandoned.delete(key);
    }
  }

  return {
    async reclaim(all) {
      if (reclaiming) return;
      reclaiming = true;
      try {
        const silent = all.filter((lease) => lease.replicaId !== replicaId && lease.silentFor > timing.deadAfter);
        const keys = new Set(silent.map(leaseKey));
        for (const key of abandoned.keys()) if (!keys.has(key)) abandoned.delete(key);
        // A cluster that does not answer must not keep the leases of the others.
        const looks = await Promise.allSettled(silent.map(look));
        const failure = looks.find((one) => one.status === 'rejected');
        if (failure) throw failure.reason;
        failing = false;
      } catch (error) {
        if (!failing) onError(error);
        failing = true;
      } finally {
        reclaiming = false;
      }
    },

    forget() {
      abandoned.clear();
    },
  };
}

function leaseKey({ cluster, kind, replicaId }: SlotLease): string {
  return `${kind} ${replicaId} ${cluster}`;
}
