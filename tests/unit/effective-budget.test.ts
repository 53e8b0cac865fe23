// src/connections/effective-budget.ts: a server that refuses connections has a smaller budget for a while.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createEffectiveBudgets, type EffectiveBudgets } from '../../src/connections/effective-budget.js';
import type { SlotSource } from '../../src/connections/governor-types.js';

const CONFIGURED = { tenants: 40, reserve: 4 };

let leased = 0;
let others = 0;
let used = 0;
let changed = 0;
let told: (number | undefined)[] = [];
let budgets: EffectiveBudgets;
let room: SlotSource;

beforeEach(() => {
  vi.useFakeTimers();
  [leased, others, used, changed, told] = [24, 0, 0, 0, []];
  budgets = createEffectiveBudgets(
    () => CONFIGURED,
    ({ room: left }) => told.push(left),
  );
  room = budgets.source('db:5432', 'tenants', {
    get leased() {
      return leased;
    },
    get others() {
      return others;
    },
    want: () => undefined,
    attach: () => undefined,
  });
  room.attach({
    get used() {
      return used;
    },
    changed: () => (changed += 1),
  });
});
afterEach(() => {
  budgets.close();
  vi.useRealTimers();
});

/** The server refuses a connection while this number of others is held. */
function refuse(held: number): void {
  used = held + 1;
  room.refused?.();
  used = held;
}

describe('the effective budget of a server', () => {
  it('is the configured budget while no connection is refused', () => {
    expect(room.leased).toBe(24);
    expect(budgets.of('db:5432', CONFIGURED)).toEqual(CONFIGURED);
  });

  it('is one less than the held connections when one is refused, and is reported once', () => {
    refuse(10);
    refuse(10);
    expect(room.leased).toBe(9);
    expect(changed).toBe(2);
    expect(told).toEqual([9]);
  });

  it('is what the server accepts if many connections are refused at once', () => {
    for (let held = 31; held >= 8; held -= 1) refuse(held);
    expect(room.leased).toBe(7);
  });

  it('makes all replicas share the connections that the server has, and does not change the reserve', () => {
    others = 16;
    refuse(3);
    expect(budgets.of('db:5432', CONFIGURED)).toEqual({ tenants: 18, reserve: 4 });
    expect(budgets.of('other:5432', CONFIGURED)).toEqual(CONFIGURED);
  });

  it('is halved for all replicas each second while one of them can open no connection', () => {
    others = 24;
    refuse(0);
    expect(budgets.of('db:5432', CONFIGURED).tenants).toBe(25);
    vi.advanceTimersByTime(500);
    refuse(0);
    expect(budgets.of('db:5432', CONFIGURED).tenants).toBe(25);
    vi.advanceTimersByTime(500);
    refuse(0);
    expect(budgets.of('db:5432', CONFIGURED).tenants).toBe(12);
  });

  it('stays for five seconds, and then grows by a quarter each second until it is the configured one', () => {
    refuse(9);
    vi.advanceTimersByTime(4_900);
    expect(room.leased).toBe(8);
    vi.advanceTimersByTime(200);
    expect(room.leased).toBe(10);
    expect(budgets.of('db:5432', CONFIGURED).tenants).toBe(10);
    vi.advanceTimersByTime(1_000);
    expect(room.leased).toBe(12);
    vi.advanceTimersByTime(20_000);
    expect(room.leased).toBe(24);
    expect(budgets.of('db:5432', CONFIGURED)).toEqual(CONFIGURED);
    expect(told).toEqual([8, undefined]);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('falls again at a refusal while it grows', () => {
    refuse(9);
    vi.advanceTimersByTime(7_000);
    refuse(12);
    expect(room.leased).toBe(11);
    vi.advanceTimersByTime(4_900);
    expect(room.leased).toBe(11);
  });

  it('is never below one, and a replica without a connection tries rarely', () => {
    refuse(0);
    expect(room.leased).toBe(0);
    vi.advanceTimersByTime(301);
    expect(room.leased).toBe(1);
  });
});
