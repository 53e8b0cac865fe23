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
//
// A look needs a connection beside the budget of the server. So one replica looks at a server, once for all its silent leases. The
// replicas that are alive take turns: the one whose turn it is may have died too, or may not reach the server.
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/registry/registry-schema.js';
import { removeSilentLease, type SlotLease } from '../../db/registry/slot-lease-queries.js';
import { within } from '../lib/deadline.js';
import { LOOK_DEADLINE, LOOK_TURN, noAnswer, type LeaseTiming } from './lease-timing.js';

export interface SilentLeases {
  /**
   * Looks at the silent leases among all leases, if it is this replica's turn, and removes those of dead replicas. Leaves out a
   * server at which an earlier call still looks. Call this only if this replica has long been able to renew its own leases. Otherwise it cannot know
   * whether the other replicas could.
   */
  reclaim(all: readonly SlotLease[]): void;
  /** Forgets what the looks found, because this process stood still. */
  forget(): void;
}

export function createSilentLeases(deps: {
  readonly registry: Kysely<Registry>;
  readonly replicaId: string;
  readonly timing: Pick<LeaseTiming, 'unsureAfter' | 'deadAfter' | 'lookAgainAfter'>;
  /** Connections to a cluster that each of these replicas has open. */
  readonly openConnections: (cluster: string, replicaIds: readonly string[]) => Promise<ReadonlyMap<string, number>>;
  /** When this process last noticed that it had stood still, on the clock of performance.now. */
  readonly stoodStillAt: () => number;
  /** Called with the first of several failures in a row at one cluster. */
  readonly onError: (error: unknown) => void;
}): SilentLeases {
  const { registry, replicaId, timing, openConnections, stoodStillAt, onError } = deps;
  /** Silent leases whose replica had no connection open, and when a look first found that. */
  const abandoned = new Map<string, number>();
  /** Clusters at which a look is under way. */
  const looking = new Set<string>();
  /** Clusters at which the last look failed. */
  const failing = new Set<string>();

  async function look(cluster: string, leases: readonly SlotLease[]): Promise<void> {
    const askedAt = performance.now();
    const ids = [...new Set(leases.map((lease) => lease.replicaId))];
    const open = await within(openConnections(cluster, ids), LOOK_DEADLINE, noAnswer);
    for (const lease of leases) await judge(lease, open.get(lease.replicaId) ?? 0, askedAt);
  }

  async function judge(lease: SlotLease, open: number, askedAt: number): Promise<void> {
    const key = leaseKey(lease);
    const since = abandoned.get(key);
    if (open > 0) abandoned.delete(key);
    else if (since === undefined) abandoned.set(key, askedAt);
    // An answer from before a standstill of this process is too old.
    else if (askedAt - since >= timing.lookAgainAfter && stoodStillAt() < askedAt) {
      await removeSilentLease(registry, lease, timing.deadAfter);
      abandoned.delete(key);
    }
  }

  /**
   * Whether this replica looks at the silent leases of one cluster and kind. All replicas come to the same answer, because the
   * times are those of the registry's clock.
   */
  function isMyTurn(leases: readonly SlotLease[]): boolean {
    const alive = leases.filter(({ silentFor }) => silentFor <= timing.unsureAfter);
    const ids = alive.map((lease) => lease.replicaId).sort();
    const silence = Math.max(...leases.map(({ silentFor }) => silentFor)) - timing.deadAfter;
    return ids[Math.floor(silence / (LOOK_TURN * timing.lookAgainAfter)) % ids.length] === replicaId;
  }

  return {
    reclaim(all) {
      const isSilent = (lease: SlotLease): boolean =>
        lease.replicaId !== replicaId && lease.silentFor > timing.deadAfter;
      const keys = new Set(all.filter(isSilent).map(leaseKey));
      for (const key of abandoned.keys()) if (!keys.has(key)) abandoned.delete(key);
      const byPurpose = grouped(all, ({ cluster, kind }) => `${kind} ${cluster}`);
      const mine = [...byPurpose.values()].filter(isMyTurn).flatMap((leases) => leases.filter(isSilent));
      // A cluster that does not answer must not keep the leases of the others.
      for (const [cluster, leases] of grouped(mine, (lease) => lease.cluster)) {
        if (looking.has(cluster)) continue;
        looking.add(cluster);
        look(cluster, leases)
          .then(() => failing.delete(cluster))
          .catch((error: unknown) => {
            if (!failing.has(cluster)) onError(error);
            failing.add(cluster);
          })
          .finally(() => looking.delete(cluster));
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

function grouped(leases: readonly SlotLease[], keyOf: (lease: SlotLease) => string): Map<string, SlotLease[]> {
  const groups = new Map<string, SlotLease[]>();
  for (const lease of leases) {
    const key = keyOf(lease);
    const group = groups.get(key);
    if (group) group.push(lease);
    else groups.set(key, [lease]);
  }
  return groups;
}
