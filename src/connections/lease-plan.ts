// How replicas share the connection slots of a cluster: what one replica may take and must give back, given the slots that all
// hold. This file has only the rule; src/connections/cluster-lease.ts applies the rule under a lock.

export interface LeaseSituation {
  /** Slots that all replicas together may hold. */
  readonly budget: number;
  /** Slots that the replica holds. */
  readonly held: number;
  readonly others: readonly { readonly slots: number; readonly wanted: number }[];
  /** The replica's open connections: more than `held` if its lease was lost. */
  readonly used: number;
  /** Requests that wait for a slot. */
  readonly missing: number;
  /** The most slots that the replica needed lately; it gives back what it holds beyond that. */
  readonly recent: number;
  /** Slots are taken in multiples of this. */
  readonly block: number;
  /**
   * Slots that the replica holds even if it does not need them, up to its equal share. With them it can serve while the registry
   * is away.
   */
  readonly keep: number;
}

export interface LeasePlan {
  /** Slots that the replica may use. It opens no connection beyond them. */
  readonly leased: number;
  /** Slots that the replica holds: more than `leased` until its surplus connections have closed. */
  readonly slots: number;
  /** How many more slots the replica could use at once. */
  readonly wanted: number;
}

/**
 * Plans the slots of one replica. If other replicas lack slots, or more slots are held than the budget has, a replica gives up
 * slots above its equal share. It keeps slots that it needs above its share until another replica lacks them. `slots` exceeds
 * `held` only by slots that no replica holds.
 */
export function planLease(situation: LeaseSituation): LeasePlan {
  const { held, used, missing } = situation;
  const leased = target(situation);
  return {
    leased,
    slots: Math.max(leased, Math.min(held, used)),
    wanted: Math.max(0, Math.min(missing, used + missing - leased)),
  };
}

function target({ budget, held, others, used, missing, recent, block, keep }: LeaseSituation): number {
  /** Below zero if the budget has become smaller. */
  const free = budget - held - sum(others, ({ slots }) => slots);
  const share = budget / (others.length + 1);
  const fair = Math.floor(share);
  const needed = used + missing;
  const inBlocks = (slots: number): number => Math.ceil(slots / block) * block;

  const lackedBelowShare = sum(others, ({ slots, wanted }) => Math.min(wanted, Math.max(0, fair - slots)));
  const lacked = sum(others, ({ wanted }) => wanted);
  const due = Math.max(lackedBelowShare - free, Math.min(lacked - free, held - needed));
  if (due > 0 && held > fair) return Math.max(fair, held - due);

  const kept = Math.min(keep, fair);
  if (needed > held || kept > held) {
    const goal = Math.max(inBlocks(needed), kept);
    // Up to its share the replica takes what is free. Beyond its share it takes what the other replicas leave. If the budget does
    // not divide evenly, the first replica that asks gets the rest.
    const most = lacked > 0 ? Math.ceil(share) : budget;
    const takes = Math.max(Math.min(fair - held, free), Math.min(most - held, free - lackedBelowShare));
    return held + Math.max(0, Math.min(goal - held, takes));
  }
  return Math.min(held, Math.max(inBlocks(recent), kept));
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}
