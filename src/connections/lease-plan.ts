// How replicas share the connection slots of a cluster: what one of them may take, and must give back, given what all hold.
// Only the rule; src/connections/cluster-lease.ts applies it, under a lock.

export interface LeaseSituation {
  /** What all replicas may hold together. */
  readonly budget: number;
  /** What the replica holds. */
  readonly held: number;
  readonly others: readonly { readonly slots: number; readonly wanted: number }[];
  /** Its connections that are open. More than `held` where its lease was lost. */
  readonly used: number;
  /** Requests that wait for a slot. */
  readonly missing: number;
  /** The most that it has needed lately: what is beyond is given back. */
  readonly recent: number;
  /** Slots are taken in multiples of this. */
  readonly block: number;
  /** What is held though it is not needed, as far as it is the replica's share: it serves while the registry is away. */
  readonly keep: number;
}

export interface LeasePlan {
  /** Slots that may be used: no connection is opened beyond them. */
  readonly leased: number;
  /** Slots that the replica holds: more than `leased` while connections are open that are to be closed. */
  readonly slots: number;
  /** How many more it could use at once. */
  readonly wanted: number;
}

/**
 * Where others lack slots, or more are held than there are, whoever holds more than an equal share gives up what is over
 * it; what a replica needs beyond its share it has as long as nobody lacks it. `slots` exceeds `held` only by slots that
 * nobody holds.
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
  /** Below zero where the budget has become smaller. */
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
    // Up to its share it takes what is there; beyond, what is left when the others have theirs. The last of an uneven
    // budget go to whoever comes first.
    const most = lacked > 0 ? Math.ceil(share) : budget;
    const takes = Math.max(Math.min(fair - held, free), Math.min(most - held, free - lackedBelowShare));
    return held + Math.max(0, Math.min(goal - held, takes));
  }
  return Math.min(held, Math.max(inBlocks(recent), kept));
}

function sum<T>(items: readonly T[], of: (item: T) => number): number {
  return items.reduce((total, item) => total + of(item), 0);
}
