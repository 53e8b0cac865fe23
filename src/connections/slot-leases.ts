// Leases connection slots from the registry, so that all replicas together stay within a server's budget.
//
// A replica leases slots in blocks and renews its leases in the background. No request waits for the registry while a leased slot
// is free. Two things must never happen: a slot counts as free while a connection may use it, or a registry that is away takes
// connections from replicas that serve.
import type { Kysely } from 'kysely';
import type { SlotKind } from '../../db/registry/fleet/fleet-tables.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { removeLeases, renewLeases } from '../../db/registry/slot-lease-queries.js';
import { within } from '../lib/deadline.js';
import { ClusterLease, type LeaseHolder } from './cluster-lease.js';
import type { SlotSource } from './governor-types.js';
import {
  askInTime,
  CHANGE_DEADLINE,
  LEASE_TIMING,
  LOOKS_PER_RENEWAL,
  noAnswer,
  type LeaseTiming,
} from './lease-timing.js';
import { createSilentLeases } from './silent-leases.js';

export interface SlotLeases {
  /** The slots of one cluster and kind that this replica may use; each call returns the same source. */
  source(cluster: string, kind: SlotKind): SlotSource;
  /** Whether the registry refused or did not answer the last question about leases. */
  readonly failing: boolean;
  /**
   * Gives back every lease, except leases with slots in use: their backends may live on without this process. The other replicas
   * remove such a lease when they find no connection of this replica. Call this when every connection has closed; it never
   * rejects.
   */
  close(): Promise<void>;
}

export interface SlotLeasesDeps {
  readonly registry: Kysely<Registry>;
  /** New at each start of a process. Connections carry it in their application_name. */
  readonly replicaId: string;
  /**
   * Connections to a cluster that all replicas together may have open. It may change at any time. If replicas have different
   * budgets, the smallest counts.
   */
  readonly budget: (cluster: string) => Readonly<Record<SlotKind, number>>;
  /**
   * Connections to a cluster that each of these replicas, alive or not, has open (`countSessions` in db/server/server-admin.ts).
   * It must not wait for a slot: a dead replica may hold the last one. It rejects if the cluster is not known: a row of the leases is no
   * reason to connect to a server.
   */
  readonly openConnections: (cluster: string, replicaIds: readonly string[]) => Promise<ReadonlyMap<string, number>>;
  /** Called with the first of several failures in a row. */
  readonly onError: (error: unknown, context: { readonly step: 'renew' | 'reclaim' | 'close' }) => void;
  readonly timing?: Partial<LeaseTiming>;
}

export function createSlotLeases(deps: SlotLeasesDeps): SlotLeases {
  const { registry, replicaId, openConnections, onError } = deps;
  const timing = { ...LEASE_TIMING, ...deps.timing };
  const leases = new Map<string, ClusterLease>();
  const look = timing.renewEvery / LOOKS_PER_RENEWAL;
  let lookedAt = clocks();
  /** When this process last noticed that it had stood still. */
  let stoodStillAt = -Infinity;
  /** The time since which every renewal has succeeded. */
  let healthySince: number | undefined;
  let failing = false;
  let renewing: Promise<void> | undefined;
  let renewedAt = -Infinity;
  let closed = false;

  const timer = setInterval(() => {
    noticeStandstill();
    lookedAt = clocks();
    let hurried = false;
    for (const lease of leases.values()) {
      lease.measure();
      hurried ||= lease.hurried;
    }
    const every = hurried && !failing ? look : timing.renewEvery;
    // A timer that fires a little early must not delay the renewal by a whole look.
    if (!renewing && leases.size > 0 && performance.now() - renewedAt > every - look / 2) {
      renewing = renew().finally(() => {
        renewing = undefined;
      });
    }
  }, look);
  timer.unref();

  const holder: LeaseHolder = {
    registry,
    replicaId,
    timing,
    get failing() {
      return failing;
    },
    get closed() {
      return closed;
    },
    stoodStillAt: () => {
      noticeStandstill();
      return stoodStillAt;
    },
    answered() {
      failing = false;
    },
    failed,
  };

  const silent = createSilentLeases({
    registry,
    replicaId,
    timing,
    openConnections,
    stoodStillAt: () => holder.stoodStillAt(),
    onError: (error) => {
      onError(error, { step: 'reclaim' });
    },
  });

  /** After a standstill, code may run before any timer of this process. So each use of a lease checks the clocks itself. */
  function noticeStandstill(): void {
    const now = clocks();
    // The wall clock also counts the time while the machine is suspended; the monotonic clock does not.
    const still = Math.max(now.monotonic - lookedAt.monotonic, now.wall - lookedAt.wall);
    if (still <= timing.unsureAfter) return;
    lookedAt = now;
    stoodStillAt = now.monotonic;
    healthySince = undefined;
    silent.forget();
  }

  async function renew(): Promise<void> {
    const sentAt = performance.now();
    renewedAt = sentAt;
    try {
      const all = await askInTime(registry, (db) => renewLeases(db, replicaId));
      failing = false;
      healthySince ??= sentAt;
      for (const lease of leases.values()) lease.renewed(all.filter(lease.concerns), sentAt);
      if (knowsOthers()) silent.reclaim(all);
    } catch (error) {
      failed(error);
    }
  }

  /** A replica that could not renew for a while does not know whether the other replicas could. */
  function knowsOthers(): boolean {
    return !closed && healthySince !== undefined && performance.now() - healthySince >= timing.deadAfter;
  }

  function failed(error: unknown): void {
    if (closed) return;
    if (!failing) onError(error, { step: 'renew' });
    failing = true;
    healthySince = undefined;
    for (const lease of leases.values()) lease.changed();
  }

  return {
    source(cluster, kind) {
      const key = `${kind} ${cluster}`;
      let lease = leases.get(key);
      if (!lease) {
        lease = new ClusterLease({ cluster, kind }, () => deps.budget(cluster)[kind], holder);
        leases.set(key, lease);
      }
      return lease;
    },

    get failing() {
      return failing;
    },

    async close() {
      closed = true;
      clearInterval(timer);
      const kept = [...leases.values()].filter(({ used }) => used > 0).map(({ purpose }) => purpose);
      const pending = [renewing, ...[...leases.values()].map(({ changing }) => changing)].filter(
        (work) => work !== undefined,
      );
      try {
        // A change that is still under way would otherwise write a lease again.
        const removed = Promise.allSettled(pending).then(() => {
          return removeLeases(registry, replicaId, kept);
        });
        await within(removed, CHANGE_DEADLINE, noAnswer);
      } catch (error) {
        onError(error, { step: 'close' });
      }
    },
  };
}

function clocks(): { readonly monotonic: number; readonly wall: number } {
  return { monotonic: performance.now(), wall: Date.now() };
}
