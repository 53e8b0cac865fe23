// src/connections/lease-plan.ts: together never more than the budget, no replica below an equal share, and no slot held in vain.
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { planLease, type LeaseSituation } from '../../src/connections/lease-plan.js';

const idle: LeaseSituation = { budget: 30, held: 0, others: [], used: 0, missing: 0, recent: 0, block: 8, keep: 4 };

describe('the lease of a replica', () => {
  it('grows in blocks as needed, by free slots only', () => {
    expect(planLease({ ...idle, missing: 1, recent: 1 })).toEqual({ leased: 8, slots: 8, wanted: 0 });
    expect(planLease({ ...idle, held: 8, used: 8, missing: 1, recent: 9 })).toEqual({
      leased: 16,
      slots: 16,
      wanted: 0,
    });
    const others = [{ slots: 20, wanted: 0 }];
    expect(planLease({ ...idle, others, held: 8, used: 8, missing: 5 })).toEqual({ leased: 10, slots: 10, wanted: 3 });
  });

  it('shrinks to its recent need, and without need to a minimum of at most its share', () => {
    expect(planLease({ ...idle, held: 24, used: 1, recent: 9 })).toEqual({ leased: 16, slots: 16, wanted: 0 });
    expect(planLease({ ...idle, held: 24 })).toEqual({ leased: 4, slots: 4, wanted: 0 });
    const others = Array.from({ length: 9 }, () => ({ slots: 0, wanted: 0 }));
    expect(planLease({ ...idle, others, held: 24 })).toEqual({ leased: 3, slots: 3, wanted: 0 });
  });

  it('has a minimum before the replica needs slots', () => {
    expect(planLease(idle)).toEqual({ leased: 4, slots: 4, wanted: 0 });
    expect(planLease({ ...idle, keep: 0 })).toEqual({ leased: 0, slots: 0, wanted: 0 });
  });

  it('shrinks to its share if others lack slots, even in use; slots of open connections are kept', () => {
    const others = [{ slots: 5, wanted: 4 }];
    const busy = { ...idle, others, held: 25, used: 24, missing: 9, recent: 33 };
    expect(planLease(busy)).toEqual({ leased: 21, slots: 24, wanted: 9 });
    expect(planLease({ ...busy, others: [{ slots: 5, wanted: 100 }] }).leased).toBe(15);
    expect(planLease({ ...busy, held: 15, used: 15, others: [{ slots: 15, wanted: 100 }] }).leased).toBe(15);
  });

  it('shrinks at once to its need for a replica that is above its share already', () => {
    const others = [
      { slots: 10, wanted: 3 },
      { slots: 0, wanted: 0 },
    ];
    expect(planLease({ ...idle, others, held: 20, used: 18, recent: 20 }).leased).toBe(18);
    expect(planLease({ ...idle, others, held: 20, used: 20, recent: 20 }).leased).toBe(20);
  });

  it('does not grow beyond its share while others lack slots', () => {
    const others = [{ slots: 0, wanted: 1 }];
    expect(planLease({ ...idle, others, missing: 100 }).leased).toBe(15);
    expect(planLease({ ...idle, others, held: 18, used: 18, missing: 100 }).leased).toBe(18);
  });

  it('that was lost is requested for all open connections, and states what was granted', () => {
    expect(planLease({ ...idle, used: 5, recent: 5 })).toEqual({ leased: 8, slots: 8, wanted: 0 });
    const others = [{ slots: 27, wanted: 0 }];
    expect(planLease({ ...idle, others, used: 5, recent: 5 })).toEqual({ leased: 3, slots: 3, wanted: 0 });
  });

  it('shrinks to fit a budget that became smaller', () => {
    const others = [{ slots: 10, wanted: 0 }];
    expect(planLease({ ...idle, budget: 16, others, held: 12, used: 12, recent: 12 })).toMatchObject({
      leased: 8,
      slots: 12,
    });
  });
});

/** Replicas that share one table. Each opens as many connections as the test says and the rule allows. */
class Replicas {
  readonly all;

  constructor(
    count: number,
    public budget: number,
    private readonly block: number,
    private readonly keep: number,
  ) {
    this.all = Array.from({ length: count }, () => ({ slots: 0, leased: 0, wanted: 0, used: 0, missing: 0 }));
  }

  get held(): number {
    return this.all.reduce((sum, { slots }) => sum + slots, 0);
  }

  look(index: number): void {
    const { budget, block, keep } = this;
    const replica = this.#at(index);
    const { slots: held, used, missing } = replica;
    const others = this.all.filter((other) => other !== replica);
    const plan = planLease({ budget, block, keep, held, others, used, missing, recent: used + missing });
    Object.assign(replica, plan);
  }

  ask(index: number, missing: number): void {
    this.#at(index).missing = missing;
  }

  /** Opens connections as far as the leases allow, and closes those beyond. */
  serve(index: number): void {
    const replica = this.#at(index);
    const opened = Math.min(replica.missing, Math.max(0, replica.leased - replica.used));
    replica.used = Math.min(replica.used + opened, replica.leased);
    replica.missing -= opened;
  }

  close(index: number, count: number): void {
    const replica = this.#at(index);
    replica.used = Math.max(0, replica.used - count);
  }

  #at(index: number): (typeof this.all)[number] {
    return this.all[index % this.all.length] ?? expect.unreachable();
  }
}

describe('in whatever order replicas take turns,', () => {
  const size = {
    count: fc.integer({ min: 1, max: 5 }),
    budget: fc.nat(40),
    block: fc.integer({ min: 1, max: 8 }),
    keep: fc.nat(8),
  };
  const step = fc.record({
    act: fc.constantFrom('ask' as const, 'serve' as const, 'close' as const, 'look' as const, 'look' as const),
    index: fc.nat(4),
    count: fc.nat(20),
  });

  it('the sum of their slots never exceeds the budget, nor do open connections exceed the slots', () => {
    fc.assert(
      fc.property(fc.record(size), fc.array(step, { maxLength: 200 }), ({ count, budget, block, keep }, steps) => {
        const replicas = new Replicas(count, budget, block, keep);
        for (const { act, index, count: amount } of steps) {
          replicas[act](index, amount);
          expect(replicas.held).toBeLessThanOrEqual(budget);
          for (const { slots, leased, used } of replicas.all) {
            expect(used).toBeLessThanOrEqual(slots);
            expect(leased).toBeLessThanOrEqual(slots);
          }
        }
      }),
    );
  });

  it('every replica that needs it has an equal share after a few turns, and no slot is left over', () => {
    fc.assert(
      fc.property(fc.record(size), fc.array(step, { maxLength: 60 }), ({ count, budget, block, keep }, steps) => {
        const replicas = new Replicas(count, budget, block, keep);
        for (const { act, index, count: amount } of steps) replicas[act](index, amount);
        for (let turn = 0; turn < 6; turn += 1)
          for (let index = 0; index < count; index += 1) {
            replicas.ask(index, 1_000);
            replicas.look(index);
            replicas.serve(index);
          }
        for (const { leased } of replicas.all) expect(leased).toBeGreaterThanOrEqual(Math.floor(budget / count));
        expect(replicas.all.reduce((sum, { leased }) => sum + leased, 0)).toBe(budget);
      }),
    );
  });

  it('the sum fits a smaller budget after a few turns, and no replica has less than an equal share of it', () => {
    fc.assert(
      fc.property(fc.record(size), fc.array(step, { maxLength: 60 }), fc.nat(40), (sizes, steps, less) => {
        const { count, budget, block, keep } = sizes;
        const replicas = new Replicas(count, budget, block, keep);
        for (const { act, index, count: amount } of steps) replicas[act](index, amount);
        replicas.budget = Math.max(0, budget - less);
        const fair = Math.floor(replicas.budget / count);
        const before = replicas.all.map(({ used }) => used);
        for (let turn = 0; turn < 4; turn += 1)
          for (let index = 0; index < count; index += 1) {
            replicas.look(index);
            replicas.serve(index);
          }
        expect(replicas.held).toBeLessThanOrEqual(replicas.budget);
        replicas.all.forEach(({ leased }, index) => {
          expect(leased).toBeGreaterThanOrEqual(Math.min(before[index] ?? 0, fair));
        });
      }),
    );
  });
});
