// src/tenants/request-rates.ts: a bucket for each tenant, which refills at its rate and has room for one second.
import { describe, expect, it } from 'vitest';
import { Counts } from '../../src/replicas/counts.js';
import { RATE_REFILL, RequestRates } from '../../src/tenants/request-rates.js';

/** Rates on a clock that the test moves. */
function atZero(): {
  rates: RequestRates;
  take: (times: number, rate: number, tenant?: string) => number;
  clock: { now: number };
} {
  const clock = { now: 0 };
  const rates = new RequestRates(new Counts(() => clock.now).limiter('tenant', RATE_REFILL), () => clock.now);
  const take = (times: number, rate: number, tenant = 'a'): number =>
    Array.from({ length: times }, () => rates.take(tenant, rate)).filter((wait) => wait === 0).length;
  return { rates, take, clock };
}

describe('a tenant', () => {
  it.each([1, 3, 100, 100_000])('has the requests of one second at once, and then %d a second', (rate) => {
    const { take, clock } = atZero();
    expect(take(rate + 1, rate)).toBe(rate);
    clock.now += 1_000;
    expect(take(rate + 1, rate)).toBe(rate);
    clock.now += 500;
    expect(take(rate, rate)).toBe(Math.floor(rate / 2));
  });

  it('saves no more than that while it sends nothing', () => {
    const { take, clock } = atZero();
    clock.now += 3_600_000;
    expect(take(100, 10)).toBe(10);
  });

  it('never gets more than its rate and one burst, however its requests are distributed', () => {
    const { take, clock } = atZero();
    let admitted = 0;
    for (let step = 0; step < 10_000; step += 1) {
      admitted += take(1, 50);
      clock.now += 1;
    }
    expect(admitted).toBeGreaterThanOrEqual(10 * 50);
    expect(admitted).toBeLessThanOrEqual(11 * 50);
  });

  it('is counted separately from others', () => {
    const { take } = atZero();
    expect(take(5, 2, 'a')).toBe(2);
    expect(take(5, 2, 'b')).toBe(2);
  });

  it('gets a new limit at once, without a burst of the old one', () => {
    const { take, clock } = atZero();
    expect(take(1, 1_000)).toBe(1);
    expect(take(20, 10)).toBe(10);
    clock.now += 100;
    expect(take(200, 1_000)).toBe(100);
  });
});

describe('the reported rate of a tenant', () => {
  it('is that of the busier of this second and the one before, and of none earlier', () => {
    const { rates, take, clock } = atZero();
    expect(rates.recent('a')).toBe(0);
    take(7, 5);
    expect(rates.recent('a')).toBe(5);
    clock.now = 1_999;
    expect(rates.recent('a')).toBe(5);
    clock.now = 2_000;
    expect(rates.recent('a')).toBe(0);
    expect(rates.recent('b')).toBe(0);
  });
});
