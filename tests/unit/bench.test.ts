// bench/figures: the mathematics behind the benchmark. A wrong draw or a wrong percentile would make the service look fast.
import { describe, expect, it } from 'vitest';
import { readFlags } from '../../bench/flags.js';
import { seededRandom } from '../../bench/figures/random.js';
import { constantRate } from '../../bench/figures/schedule.js';
import { median, medians, percentile } from '../../bench/figures/statistics.js';
import { zipf } from '../../bench/figures/zipf.js';
import { AnswerCounter } from '../../bench/programs/ask.js';
import { scenarios } from '../../bench/scenarios/index.js';

const DRAWS = 100_000;

/** How often each rank was drawn, as a share of all draws. */
function sharesOf(count: number, s: number): number[] {
  const draw = zipf(count, s);
  const random = seededRandom(1);
  const counts = new Array<number>(count).fill(0);
  for (let time = 0; time < DRAWS; time += 1) {
    const rank = draw(random);
    counts[rank] = (counts[rank] ?? NaN) + 1;
  }
  return counts.map((times) => times / DRAWS);
}

describe('Zipf’s law', () => {
  it.each([1, 1.5])('with s = %s draws each rank in proportion to 1 / rank^s', (s) => {
    const count = 300;
    const sum = Array.from({ length: count }, (_, rank) => (rank + 1) ** -s).reduce((all, weight) => all + weight, 0);
    for (const [rank, share] of sharesOf(count, s).entries()) {
      const expected = (rank + 1) ** -s / sum;
      // Five standard deviations of a count: the seed is fixed, so that this cannot fail by chance.
      const tolerance = 5 * Math.sqrt((expected * (1 - expected)) / DRAWS);
      expect(Math.abs(share - expected), `rank ${rank}`).toBeLessThanOrEqual(tolerance);
    }
  });

  it('with s = 0 draws all ranks equally often', () => {
    for (const share of sharesOf(4, 0)) expect(share).toBeCloseTo(0.25, 2);
  });

  it('draws the first and the last rank, and none outside', () => {
    const draw = zipf(300, 1);
    expect(draw(() => 0)).toBe(0);
    expect(draw(() => 1 - Number.EPSILON)).toBe(299);
    expect(zipf(1, 1)(() => 0.5)).toBe(0);
  });

  it('cannot draw from no ranks', () => {
    expect(() => zipf(0, 1)).toThrow(RangeError);
  });
});

describe('a constant rate', () => {
  it('spreads the requests evenly from the first moment on', () => {
    const schedule = constantRate(200, 1, 2);
    expect([0, 1, 2, 200].map((index) => schedule.startOf(index))).toEqual([0, 5, 10, 1_000]);
    expect([-1, 0, 4.9, 5, 12].map((elapsed) => schedule.dueBy(elapsed))).toEqual([0, 1, 1, 2, 3]);
  });

  it('makes every request due exactly at its start, even at rates without a whole interval', () => {
    for (const rate of [3, 7, 333.3, 2_917]) {
      const schedule = constantRate(rate, 0, 5);
      for (let index = 0; index < schedule.total; index += 1) {
        const start = schedule.startOf(index);
        expect(schedule.dueBy(start)).toBe(index + 1);
        expect(schedule.dueBy(start - 0.001)).toBe(index);
      }
    }
  });

  it('makes all requests due that the generator missed, and no more than there are', () => {
    const schedule = constantRate(1_000, 0, 1);
    expect(schedule.dueBy(500)).toBe(501);
    expect(schedule.dueBy(60_000)).toBe(schedule.total);
    expect(schedule.total).toBe(1_000);
  });

  it('measures what comes after the warm-up', () => {
    const schedule = constantRate(50, 2, 8);
    expect(schedule.startOf(schedule.firstMeasured)).toBe(2_000);
    expect(schedule.total - schedule.firstMeasured).toBe(400);
    expect(constantRate(50, 0, 8).firstMeasured).toBe(0);
  });

  it('has at least one request, and refuses a rate that is not above 0', () => {
    expect(constantRate(0.1, 0, 1).total).toBe(1);
    for (const rate of [0, -1, NaN]) expect(() => constantRate(rate, 0, 1)).toThrow(RangeError);
  });
});

describe('percentiles and medians', () => {
  it('return a measured value as percentile, by the nearest rank', () => {
    const hundred = Array.from({ length: 100 }, (_, index) => 100 - index);
    expect(percentile(hundred, 0.99)).toBe(99);
    expect(percentile(hundred, 0.5)).toBe(50);
    expect(percentile(hundred, 1)).toBe(100);
    expect(percentile(hundred, 0)).toBe(1);
    expect(percentile([7], 0.99)).toBe(7);
  });

  it('sort as numbers and leave the values in their order', () => {
    const values = [10, 9, 100];
    expect(percentile(values, 0.5)).toBe(10);
    expect(values).toEqual([10, 9, 100]);
  });

  it('return the mean of the two middle values as median of an even number', () => {
    expect(median([4, 1, 3, 2])).toBe(2.5);
    expect(median([3, 1, 2])).toBe(2);
  });

  it('cannot be computed from no values', () => {
    expect(percentile([], 0.99)).toBeNaN();
    expect(median([])).toBeNaN();
  });

  it('are computed for each figure separately', () => {
    const rows = [
      { p50: 1, p99: 30 },
      { p50: 3, p99: 10 },
      { p50: 2, p99: 20 },
    ];
    expect(medians(rows)).toEqual({ p50: 2, p99: 20 });
  });
});

describe('the flags of the benchmark', () => {
  it('are all read, as the benchmark uses them', () => {
    const args = `--scenario read,hung --rounds 5 --seconds 1 --warmup 0 --connections 7 --pool-max 2 --env LOG_LEVEL=silent
      --env POOL_MAX=3 --tenants 40 --no-fsync --json /tmp/figures.json --profile /tmp/profile`;
    expect(readFlags(scenarios, args.split(/\s+/))).toEqual({
      scenarios: ['read', 'hung'],
      rounds: 5,
      tenants: 40,
      seconds: 1,
      warmup: 0,
      connections: 7,
      poolMax: 2,
      fsync: false,
      env: { LOG_LEVEL: 'silent', POOL_MAX: '3' },
      json: '/tmp/figures.json',
      profile: '/tmp/profile',
    });
  });

  it('have defaults: every scenario with its own number of rounds', () => {
    expect(readFlags(scenarios, [])).toMatchObject({
      scenarios: scenarios.map(({ name }) => name),
      rounds: undefined,
      seconds: 8,
      warmup: 2,
      connections: 50,
      poolMax: undefined,
      fsync: true,
      env: {},
      profile: undefined,
    });
  });

  it('refuse an unknown scenario', () => {
    expect(() => readFlags(scenarios, ['--scenario', 'read,write'])).toThrow(
      '--scenario has no "write"; there are read',
    );
  });
});

describe('the kinds of answers', () => {
  it('count only a 503 with Retry-After as a refusal', () => {
    const counter = new AnswerCounter();
    expect(counter.count({ status: 200, retryAfter: false })).toBe('served');
    expect(counter.count({ status: 201, retryAfter: false })).toBe('served');
    expect(counter.count({ status: 503, retryAfter: true })).toBe('refused');
    expect(counter.count({ status: 503, retryAfter: false })).toBe('other');
    expect(counter.count({ status: 429, retryAfter: true })).toBe('other');
    expect(counter.count({ status: 302, retryAfter: false })).toBe('other');
    expect(counter.count(new Error('socket hang up'))).toBe('other');
    expect(counter.counts()).toEqual({ served: 2, refused: 1, other: 4, firstOther: 'status 503' });
  });
});
