// The slots of one cluster that one replica leases: how many it needs, how many the registry's rows let it have (by
// src/connections/lease-plan.ts), and how many of those it may use now.
//
// A lease, from here:
//
//     unheld ── a request waits for a slot, or a request waited before ──▶ changing
//     held ── a renewal finds another plan than the row has, or a request waits ──▶ changing
//     changing ── written ──▶ held
//     changing ── refused, or not answered ──▶ held or unheld, as before; the next renewal asks again
//     held ── a renewal finds no row (the replica was taken for dead) ──▶ changing
//
// A held lease is sure if its last renewal is not older than `unsureAfter` and the process has not stood still since. A sure
// lease may be used. A lease that is not sure covers only the connections that are open already, so the replica opens no new
// connection.
import type { Kysely } from 'kysely';
import type { SlotKind } from '../../db/registry/fleet/fleet-tables.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { changeLease, type SlotLease, type SlotPurpose } from '../../db/registry/slot-lease-queries.js';
import { DatabaseFault, hasSqlState } from '../../db/driver/database-fault.js';
import type { SlotSource, SlotUser } from './governor-types.js';
import { planLease, type LeasePlan } from './lease-plan.js';
import { CHANGE_DEADLINE, LOOKS_PER_RENEWAL, noAnswer, type LeaseTiming } from './lease-timing.js';

/** What all leases of a replica share. */
export interface LeaseHolder {
  readonly registry: Kysely<Registry>;
  readonly replicaId: string;
  readonly timing: LeaseTiming;
  /** Whether the registry failed to answer the last question. */
  readonly failing: boolean;
  readonly closed: boolean;
  /** When the process last noticed that it had stood still, on the clock of performance.now. */
  stoodStillAt(): number;
  /** The registry answered. */
  answered(): void;
  /** The registry refused, or did not answer. */
  failed(error: unknown): void;
}

/**
 * Replicas take slots in blocks, so that a growing replica asks the registry seldom. `keep` slots let it serve while the registry
 * is away.
 */
const portions: Readonly<Record<SlotKind, { readonly block: number; readonly keep: number }>> = {
  tenants: { block: 8, keep: 8 },
  // The reserve is small, and few of its users work at the same time. They also need the registry, so `keep` would not help them.
  reserve: { block: 2, keep: 0 },
};

/** SQLSTATE: the lock was not free in time. */
const LOCK_NOT_AVAILABLE = '55P03';

/** For this long (ms) after a question to the registry, no connection is closed for a waiting request: slots may still come. */
const ASKING = 200;

/** The lease of one cluster and kind. */
export class ClusterLease implements SlotSource {
  /** The change under way. Changes run one at a time, so that the slots granted here never exceed those in the registry. */
  changing: Promise<void> | undefined;
  /** Whether the next renewal is urgent: other replicas should give up slots, or this replica will give up some soon. */
  hurried = false;
  /** Slots that the other replicas held at the last answer of the registry. */
  others = 0;
  /** Slots that may be used. */
  #granted = 0;
  #missing = 0;
  /** Whether a slot was ever needed. A lease that was never needed is not held. */
  #needed = false;
  /** The most slots needed in this stretch of time, and in the stretch before. */
  #peaks: [now: number, before: number] = [0, 0];
  #stretchSince = performance.now();
  /** When the last successful renewal was sent. */
  #confirmedAt = -Infinity;
  #changedAt = -Infinity;
  #askedAt = -Infinity;
  /** When the registry last had fewer slots than this lease asked for, or did not answer. */
  #refusedAt = -Infinity;
  #user: SlotUser = { used: 0, changed: () => undefined };

  constructor(
    readonly purpose: SlotPurpose,
    private readonly budgetNow: () => number,
    private readonly holder: LeaseHolder,
  ) {}

  get leased(): number {
    const { used } = this.#user;
    const { unsureAfter } = this.holder.timing;
    const current = used > 0 || performance.now() - this.#confirmedAt <= unsureAfter;
    // Open connections stay open: only a new connection could exceed the budget.
    return current && this.#confirmedAt > this.holder.stoodStillAt() ? this.#granted : Math.min(this.#granted, used);
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
    if (!this.holder.failing || this.#user.used > 0 || this.leased > 0) return undefined;
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
    // If the registry had no slot a moment ago, the next renewal asks again.
    if (performance.now() - this.#refusedAt >= this.holder.timing.renewEvery / LOOKS_PER_RENEWAL) this.#change();
  }

  /** Whether this lease shares the budget with the lease of a row. */
  readonly concerns = ({ cluster, kind }: SlotPurpose): boolean =>
    cluster === this.purpose.cluster && kind === this.purpose.kind;

  changed(): void {
    this.#user.changed();
  }

  /** Records how many slots are needed. */
  measure(): void {
    const needed = this.#user.used + this.#missing;
    const now = performance.now();
    if (now - this.#stretchSince >= this.holder.timing.giveBackAfter) {
      this.#peaks = [0, this.#peaks[0]];
      this.#stretchSince = now;
    }
    this.#peaks[0] = Math.max(this.#peaks[0], needed);
  }

  /** @param sentAt when the renewal that answered `all` was sent */
  renewed(all: readonly SlotLease[], sentAt: number): void {
    // Rows that were read before a change are out of date.
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
    if (this.changing || this.holder.closed) return;
    this.#askedAt = performance.now();
    this.changing = this.#changeNow(this.#askedAt).finally(() => {
      this.changing = undefined;
      this.#changedAt = performance.now();
      this.changed();
    });
  }

  async #changeNow(sentAt: number): Promise<void> {
    const { registry, replicaId } = this.holder;
    let plan: LeasePlan | undefined;
    // A change is not given up half-way: the next change must not start until this one is known to have ended.
    let overdue: NodeJS.Timeout | undefined;
    const expectAnswer = (): void => {
      overdue = setTimeout(() => {
        this.holder.failed(noAnswer());
      }, CHANGE_DEADLINE);
    };
    const asked = setTimeout(() => {
      this.changed();
    }, ASKING);
    try {
      await registry.connection().execute((db) => {
        expectAnswer();
        return changeLease(db, { ...this.purpose, replicaId }, (all) => {
          plan = this.#plan(all);
          // Lower this before the registry says that these slots are free.
          this.#granted = Math.min(this.#granted, plan.leased);
          return { budget: this.budget, slots: plan.slots, wanted: plan.wanted };
        });
      });
      if (plan) this.#adopt(plan);
      this.#confirmedAt = sentAt;
      this.holder.answered();
    } catch (error) {
      this.#refusedAt = performance.now();
      // The registry answered: the changes of other replicas took too long.
      if (hasSqlState(error, LOCK_NOT_AVAILABLE)) this.holder.answered();
      else this.holder.failed(error);
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
    // A replica that may be dead keeps its slots, and takes no part in sharing. The other replicas do not wait for it.
    const isSilent = (lease: SlotLease): boolean => lease !== own && lease.silentFor > this.holder.timing.unsureAfter;
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
    return all.find(({ replicaId }) => replicaId === this.holder.replicaId);
  }
}
