// Connection slots leased from the registry, so that all replicas together stay within a server's budget. A replica takes
// slots before it needs them one by one, and renews what it holds in the background: no request touches the registry for a
// slot that is there. Two things must never happen: that slots are counted free while a connection may stand on them, and
// that a registry which is away takes connections from replicas that serve.
import type { Kysely } from 'kysely';
import type { Registry, SlotKind } from '../../db/central/schema.js';
import {
  changeLease,
  removeLeases,
  removeSilentLease,
  renewLeases,
  type SlotLease,
  type SlotPurpose,
} from '../../db/central/slot-leases.js';
import { within } from '../../db/deadline.js';
import { DatabaseFault } from '../../db/errors.js';
import type { SlotSource, SlotUser } from './governor.js';
import { planLease, type LeasePlan } from './lease-plan.js';

export interface SlotLeases {
  /** The slots of one cluster and kind that this replica may use; the same one each time. */
  source(cluster: string, kind: SlotKind): SlotSource;
  /**
   * Gives everything back but what connections stand on that may live on without this process: the other replicas free that when
   * they find nothing of it. To be called when every connection has closed; never rejects.
   */
  close(): Promise<void>;
}

export interface SlotLeasesDeps {
  readonly registry: Kysely<Registry>;
  /** Another one for each start of a process; its connections carry it in their application_name. */
  readonly replicaId: string;
  /**
   * Connections that all replicas may have open to a cluster. It may change at any time; where replicas were told different
   * ones, the smallest counts.
   */
  readonly budget: (cluster: string) => Readonly<Record<SlotKind, number>>;
  /**
   * Connections that a replica, alive or not, has open to a cluster (`countSessions` in db/cluster.ts). It must not wait for
   * a slot: a dead replica may hold the last one. It rejects where no such cluster is known: a row of the leases is no reason
   * to connect anywhere.
   */
  readonly openConnections: (cluster: string, replicaId: string) => Promise<number>;
  /** Told of the first of several failures in a row. */
  readonly onError: (error: unknown, context: { readonly step: 'renew' | 'reclaim' | 'close' }) => void;
  readonly timing?: Partial<LeaseTiming>;
}

/** In ms. */
export interface LeaseTiming {
  /** Between two renewals. Four times as often while somebody waits for slots, or connections are to close. Default 1,000. */
  readonly renewEvery: number;
  /** What was not needed for this long is given back. Default 5,000. */
  readonly giveBackAfter: number;
  /**
   * A replica that could not renew for this long may be taken for dead before long: without a connection open it opens none
   * until it has renewed. Nor does one that did nothing at all for this long, since it cannot know what it missed.
   * Default 15,000.
   */
  readonly unsureAfter: number;
  /** A replica that did not renew for this long, and has no connection open, is dead. Default 30,000. */
  readonly deadAfter: number;
  /**
   * Between the two looks that must both find no connection of a dead replica: one whose handshake is under way is seen by
   * the second. Default 2,000.
   */
  readonly lookAgainAfter: number;
}

const TIMING: LeaseTiming = {
  renewEvery: 1_000,
  giveBackAfter: 5_000,
  unsureAfter: 15_000,
  deadAfter: 30_000,
  lookAgainAfter: 2_000,
};

/** Slots are taken in blocks, so that a replica that grows asks seldom; what is kept lets it serve while the registry is away. */
const portions: Readonly<Record<SlotKind, { readonly block: number; readonly keep: number }>> = {
  tenants: { block: 8, keep: 8 },
  // A small budget that few need at a time. What needs it needs the registry as well.
  reserve: { block: 2, keep: 0 },
};

/** Looks at the clock for each renewal: what has to be quick waits for one look. */
const LOOKS = 4;

/** Longest (ms) that nothing is closed for those who wait, because the registry may give more. */
const ASKING = 200;

/** An answer of the registry that takes longer (ms) counts as none. */
const DEADLINE = 1_500;

export function createSlotLeases(deps: SlotLeasesDeps): SlotLeases {
  const { registry, replicaId, openConnections, onError } = deps;
  const timing = { ...TIMING, ...deps.timing };
  const leases = new Map<string, Lease>();
  const look = timing.renewEvery / LOOKS;
  let lookedAt = clocks();
  /** When this process noticed last that it had stood still. */
  let stoodStillAt = -Infinity;
  /** Since when every renewal has succeeded. */
  let healthySince: number | undefined;
  let failing = false;
  let renewing: Promise<void> | undefined;
  let renewedAt = -Infinity;
  let closed = false;
  /** Silent leases behind which no connection was found, and when that was first seen. */
  const abandoned = new Map<string, number>();
  let reclaiming = false;
  let reclaimFailing = false;

  const timer = setInterval(() => {
    noticeStandstill();
    lookedAt = clocks();
    let hurried = false;
    for (const lease of leases.values()) {
      lease.measure();
      hurried ||= lease.hurried;
    }
    const every = hurried && !failing ? look : timing.renewEvery;
    // A timer that fires a little early must not cost a whole look.
    if (!renewing && leases.size > 0 && performance.now() - renewedAt > every - look / 2) {
      renewing = renew().finally(() => {
        renewing = undefined;
      });
    }
  }, look);
  timer.unref();

  const shared: Shared = {
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

  /** After a standstill the world may have moved on before any timer of this process tells it so: looked at wherever it counts. */
  function noticeStandstill(): void {
    const now = clocks();
    // The wall clock also counts the time that a suspended machine does not.
    const still = Math.max(now.monotonic - lookedAt.monotonic, now.wall - lookedAt.wall);
    if (still <= timing.unsureAfter) return;
    lookedAt = now;
    stoodStillAt = now.monotonic;
    healthySince = undefined;
    abandoned.clear();
  }

  async function renew(): Promise<void> {
    const sentAt = performance.now();
    renewedAt = sentAt;
    try {
      const all = await within(renewLeases(registry, replicaId), DEADLINE, noAnswer);
      failing = false;
      healthySince ??= sentAt;
      for (const lease of leases.values()) lease.renewed(all.filter(lease.concerns), sentAt);
      void reclaim(all);
    } catch (error) {
      failed(error);
    }
  }

  function failed(error: unknown): void {
    if (closed) return;
    if (!failing) onError(error, { step: 'renew' });
    failing = true;
    healthySince = undefined;
    for (const lease of leases.values()) lease.changed();
  }

  /** Removes the leases of replicas that died. */
  async function reclaim(all: readonly SlotLease[]): Promise<void> {
    // Whoever could not renew itself does not know who else could.
    if (reclaiming || closed || healthySince === undefined || performance.now() - healthySince < timing.deadAfter)
      return;
    reclaiming = true;
    try {
      const silent = all.filter((lease) => lease.replicaId !== replicaId && lease.silentFor > timing.deadAfter);
      const keys = new Set(silent.map(leaseKey));
      for (const key of abandoned.keys()) if (!keys.has(key)) abandoned.delete(key);
      // A cluster that does not answer must not keep the leases of the others.
      const looks = await Promise.allSettled(silent.map(lookAfter));
      const failure = looks.find((look) => look.status === 'rejected');
      if (failure) throw failure.reason;
      reclaimFailing = false;
    } catch (error) {
      if (!reclaimFailing) onError(error, { step: 'reclaim' });
      reclaimFailing = true;
    } finally {
      reclaiming = false;
    }
  }

  async function lookAfter(lease: SlotLease): Promise<void> {
    const key = leaseKey(lease);
    const askedAt = performance.now();
    const open = await within(openConnections(lease.cluster, lease.replicaId), DEADLINE, noAnswer);
    const since = abandoned.get(key);
    if (open > 0) abandoned.delete(key);
    else if (since === undefined) abandoned.set(key, askedAt);
    // An answer from before a standstill of this process is too old.
    else if (askedAt - since >= timing.lookAgainAfter && shared.stoodStillAt() < askedAt) {
      await removeSilentLease(registry, lease, timing.deadAfter);
      abandoned.delete(key);
    }
  }

  return {
    source(cluster, kind) {
      const key = `${kind} ${cluster}`;
      let lease = leases.get(key);
      if (!lease) {
        lease = new Lease({ cluster, kind }, () => deps.budget(cluster)[kind], shared);
        leases.set(key, lease);
      }
      return lease;
    },

    async close() {
      closed = true;
      clearInterval(timer);
      const kept = [...leases.values()].filter(({ used }) => used > 0).map(({ purpose }) => purpose);
      const pending = [renewing, ...[...leases.values()].map(({ changing }) => changing)].filter(
        (work) => work !== undefined,
      );
      try {
        // Or what is still under way would write a lease anew.
        const removed = Promise.allSettled(pending).then(() => {
          return removeLeases(registry, replicaId, kept);
        });
        await within(removed, DEADLINE, noAnswer);
      } catch (error) {
        onError(error, { step: 'close' });
      }
    },
  };
}

/** What all leases of a replica have in common. */
interface Shared {
  readonly registry: Kysely<Registry>;
  readonly replicaId: string;
  readonly timing: LeaseTiming;
  /** Whether the registry did not answer when it was last asked. */
  readonly failing: boolean;
  readonly closed: boolean;
  stoodStillAt(): number;
  answered(): void;
  failed(error: unknown): void;
}

/** The slots of one cluster and kind. */
class Lease implements SlotSource {
  /** A change that is under way. One at a time, so that what is granted here never exceeds what is written there. */
  changing: Promise<void> | undefined;
  /** Whether the next renewal should not be waited for: others are to give something up, or this replica is about to. */
  hurried = false;
  /** What the other replicas hold, by the last look. */
  others = 0;
  /** Slots that may be used. */
  #granted = 0;
  #missing = 0;
  /** Whether anybody ever needed it: what nobody needs is not held. */
  #needed = false;
  /** The most needed in this stretch of time and the one before. */
  #peaks: [now: number, before: number] = [0, 0];
  #stretchSince = performance.now();
  /** When the last renewal that succeeded was sent. */
  #confirmedAt = -Infinity;
  #changedAt = -Infinity;
  #askedAt = -Infinity;
  /** When slots were last asked for in vain. */
  #refusedAt = -Infinity;
  #user: SlotUser = { used: 0, changed: () => undefined };

  constructor(
    readonly purpose: SlotPurpose,
    private readonly budgetNow: () => number,
    private readonly shared: Shared,
  ) {}

  get leased(): number {
    const { used } = this.#user;
    const { unsureAfter } = this.shared.timing;
    const current = used > 0 || performance.now() - this.#confirmedAt <= unsureAfter;
    // What is open stays open: only a new connection could be one too many.
    return current && this.#confirmedAt > this.shared.stoodStillAt() ? this.#granted : Math.min(this.#granted, used);
  }

  get used(): number {
    return this.#user.used;
  }

  private get budget(): number {
    return this.budgetNow();
  }

  get asking(): boolean {
    return this.changing !== undefined && performance.now() - this.#askedAt < ASKING;
  }

  get fault(): DatabaseFault | undefined {
    if (!this.shared.failing || this.#user.used > 0 || this.leased > 0) return undefined;
    return new DatabaseFault('unavailable', 'no connection slots are leased, and the registry does not answer');
  }

  attach(user: SlotUser): void {
    this.#user = user;
  }

  want(missing: number): void {
    this.#missing = missing;
    this.measure();
    if (missing === 0) return;
    this.#needed = true;
    // Where there was nothing to have, the next renewal asks again.
    if (performance.now() - this.#refusedAt >= this.shared.timing.renewEvery / LOOKS) this.#change();
  }

  /** Whether a row is one of those that this lease is divided with. */
  readonly concerns = ({ cluster, kind }: SlotPurpose): boolean =>
    cluster === this.purpose.cluster && kind === this.purpose.kind;

  changed(): void {
    this.#user.changed();
  }

  /** Notes how much is needed. */
  measure(): void {
    const needed = this.#user.used + this.#missing;
    const now = performance.now();
    if (now - this.#stretchSince >= this.shared.timing.giveBackAfter) {
      this.#peaks = [0, this.#peaks[0]];
      this.#stretchSince = now;
    }
    this.#peaks[0] = Math.max(this.#peaks[0], needed);
  }

  /** @param sentAt when the renewal was sent that answered `all` */
  renewed(all: readonly SlotLease[], sentAt: number): void {
    // What was read before a change says nothing any more.
    if (this.changing || this.#changedAt > sentAt) return;
    const own = this.#own(all);
    if (!own) {
      if (!this.#needed) return;
      this.#confirmedAt = -Infinity;
      this.#change();
      return;
    }
    this.#confirmedAt = sentAt;
    const plan = this.#plan(all);
    if (plan.slots === own.slots && plan.wanted === own.wanted && this.budget === own.budget) this.#adopt(plan);
    else this.#change();
    this.changed();
  }

  #change(): void {
    if (this.changing || this.shared.closed) return;
    this.#askedAt = performance.now();
    this.changing = this.#changeNow(this.#askedAt).finally(() => {
      this.changing = undefined;
      this.#changedAt = performance.now();
      this.changed();
    });
  }

  async #changeNow(sentAt: number): Promise<void> {
    const { registry, replicaId } = this.shared;
    let plan: LeasePlan | undefined;
    // It cannot be given up half-way: another one must not start before it is known to have ended.
    const overdue = setTimeout(() => {
      this.shared.failed(noAnswer());
    }, DEADLINE);
    const asked = setTimeout(() => {
      this.changed();
    }, ASKING);
    try {
      await changeLease(registry, { ...this.purpose, replicaId }, (all) => {
        plan = this.#plan(all);
        // Before it is written that they are free.
        this.#granted = Math.min(this.#granted, plan.leased);
        return { budget: this.budget, slots: plan.slots, wanted: plan.wanted };
      });
      if (plan) this.#adopt(plan);
      this.#confirmedAt = sentAt;
      this.shared.answered();
    } catch (error) {
      this.#refusedAt = performance.now();
      this.shared.failed(error);
    } finally {
      clearTimeout(overdue);
      clearTimeout(asked);
    }
  }

  #adopt({ leased, slots, wanted }: LeasePlan): void {
    this.#granted = leased;
    this.hurried = wanted > 0 || slots > leased;
    if (wanted > 0) this.#refusedAt = performance.now();
  }

  #plan(all: readonly SlotLease[]): LeasePlan {
    this.measure();
    const own = this.#own(all);
    const { block, keep } = portions[this.purpose.kind];
    // One that may be dead keeps what it holds, and is not waited for: it shares nothing with anybody any more.
    const isSilent = (lease: SlotLease): boolean => lease !== own && lease.silentFor > this.shared.timing.unsureAfter;
    const silent = all.filter(isSilent).reduce((sum, { slots }) => sum + slots, 0);
    const others = all.filter((lease) => lease !== own && !isSilent(lease));
    this.others = silent + others.reduce((sum, { slots }) => sum + slots, 0);
    return planLease({
      budget: Math.min(this.budget, ...others.map(({ budget }) => budget)) - silent,
      held: own?.slots ?? 0,
      others,
      used: this.#user.used,
      missing: this.#missing,
      recent: Math.max(...this.#peaks),
      block,
      keep: this.#needed ? keep : 0,
    });
  }

  #own(all: readonly SlotLease[]): SlotLease | undefined {
    return all.find(({ replicaId }) => replicaId === this.shared.replicaId);
  }
}

function leaseKey({ cluster, kind, replicaId }: SlotLease): string {
  return `${kind} ${replicaId} ${cluster}`;
}

function clocks(): { readonly monotonic: number; readonly wall: number } {
  return { monotonic: performance.now(), wall: Date.now() };
}

function noAnswer(): DatabaseFault {
  return new DatabaseFault('timeout', 'no answer in time');
}
