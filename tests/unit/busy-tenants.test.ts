// Which tenants have series of their own: a bounded number, chosen with patience, whose series only grow.
import { describe, expect, it, onTestFinished } from 'vitest';
import { createBusyTenants, MAX_REMEMBERED, type BusyTenants } from '../../src/observability/busy-tenants.js';

function tenants(size: number): BusyTenants {
  const busy = createBusyTenants(size);
  onTestFinished(() => {
    busy.close();
  });
  return busy;
}

function requests(busy: BusyTenants, loads: Readonly<Record<string, number>>): void {
  for (const [tenant, count] of Object.entries(loads))
    for (let request = 0; request < count; request += 1) busy.count(tenant, 0.25, request % 2 === 1);
}

const ids = (busy: BusyTenants): string[] => [...busy.series().keys()].sort();

describe('the busiest tenants', () => {
  it('get a series at a ranking, and all others are counted together', () => {
    const busy = tenants(2);
    requests(busy, { a: 4, b: 2, c: 1 });
    expect(ids(busy)).toEqual([]);
    busy.rank();
    expect(ids(busy)).toEqual(['a', 'b']);
    requests(busy, { a: 2, c: 2 });
    expect(busy.series().get('a')).toEqual({ requests: 2, errors: 1, seconds: 0.5 });
    expect(busy.series().get('b')).toEqual({ requests: 0, errors: 0, seconds: 0 });
    // The seven requests before the ranking too: a series begins at 0.
    expect(busy.other).toEqual({ requests: 9, errors: 4, seconds: 2.25 });
  });

  it('keep their series until another tenant is one and a half times as busy', () => {
    const busy = tenants(1);
    requests(busy, { a: 100 });
    busy.rank();
    // a has 50 left from the first minute, and 50 new ones.
    requests(busy, { a: 50, b: 149 });
    busy.rank();
    expect(ids(busy)).toEqual(['a']);
    // 100 against 74 + 76.
    requests(busy, { a: 50, b: 76 });
    busy.rank();
    expect(ids(busy)).toEqual(['b']);
  });

  it('do not take turns when two are about as busy', () => {
    const busy = tenants(1);
    const seen = new Set<string>();
    for (let minute = 0; minute < 50; minute += 1) {
      requests(busy, minute % 2 === 0 ? { a: 100, b: 120 } : { a: 120, b: 100 });
      busy.rank();
      for (const id of ids(busy)) seen.add(id);
    }
    expect(seen.size).toBe(1);
  });

  it('replace the least busy first, several in one ranking', () => {
    const busy = tenants(3);
    requests(busy, { a: 10, b: 20, c: 1_000 });
    busy.rank();
    requests(busy, { d: 400, e: 300, f: 40, c: 1_000 });
    busy.rank();
    expect(ids(busy)).toEqual(['c', 'd', 'e']);
  });

  it('keep their series through a quiet hour, if nobody else comes', () => {
    const busy = tenants(1);
    requests(busy, { a: 10 });
    for (let minute = 0; minute < 60; minute += 1) busy.rank();
    expect(ids(busy)).toEqual(['a']);
    requests(busy, { b: 1 });
    busy.rank();
    expect(ids(busy)).toEqual(['b']);
  });

  it('are none with a size of 0: then all tenants are counted together, and none is remembered', () => {
    const busy = tenants(0);
    requests(busy, { a: 5 });
    busy.rank();
    expect(ids(busy)).toEqual([]);
    expect(busy.other.requests).toBe(5);
    expect(busy.remembered).toBe(0);
  });
});

describe('a series', () => {
  it('only grows while it lives, and so does the rest, whoever comes and goes', () => {
    const busy = tenants(5);
    let before = new Map<string, number>();
    let otherBefore = 0;
    let sent = 0;
    let random = 1;
    for (let minute = 0; minute < 200; minute += 1) {
      for (let request = 0; request < 100; request += 1) {
        random = (random * 48_271) % 2_147_483_647;
        busy.count(`t${random % (5 + (minute % 40))}`, 0.1, false);
        sent += 1;
      }
      for (const [id, { requests: now }] of busy.series()) expect(now).toBeGreaterThanOrEqual(before.get(id) ?? 0);
      expect(busy.other.requests).toBeGreaterThanOrEqual(otherBefore);
      before = new Map([...busy.series()].map(([id, { requests: now }]) => [id, now]));
      otherBefore = busy.other.requests;
      busy.rank();
      // A series that begins again begins at 0: for Prometheus a counter that was reset.
      for (const id of before.keys()) if (busy.series().get(id)?.requests !== before.get(id)) before.delete(id);
      expect(busy.series().size).toBeLessThanOrEqual(5);
    }
    const counted = [...busy.series().values()].reduce((sum, tally) => sum + tally.requests, busy.other.requests);
    expect(counted).toBeLessThanOrEqual(sent);
  });

  it('begins at 0 again when its tenant comes back', () => {
    const busy = tenants(1);
    requests(busy, { a: 10 });
    busy.rank();
    requests(busy, { a: 7 });
    requests(busy, { b: 100 });
    busy.rank();
    requests(busy, { a: 1_000 });
    busy.rank();
    expect(busy.series().get('a')?.requests).toBe(0);
  });
});

describe('the memory', () => {
  it('is bounded however many tenants are busy, and a busy newcomer is found all the same', () => {
    const busy = tenants(20);
    const all = 3 * MAX_REMEMBERED;
    for (let tenant = 0; tenant < all; tenant += 1) requests(busy, { [`t${tenant}`]: 4 });
    expect(busy.remembered).toBe(MAX_REMEMBERED);
    busy.rank();
    expect(busy.remembered).toBeLessThanOrEqual(MAX_REMEMBERED / 2 + 20);
    requests(busy, { newcomer: 100 });
    for (let tenant = 0; tenant < all; tenant += 1) requests(busy, { [`t${tenant}`]: 4 });
    busy.rank();
    expect(ids(busy)).toContain('newcomer');
    expect(busy.series().size).toBe(20);
  });

  it('forgets tenants that are quiet', () => {
    const busy = tenants(1);
    requests(busy, { a: 100, b: 8 });
    for (let minute = 0; minute < 5; minute += 1) busy.rank();
    expect(busy.remembered).toBe(1);
  });
});
