// src/observability/metrics.ts: what a scrape shows of instruments and readings, also of those that fail.
import { describe, expect, it } from 'vitest';
import { createMetrics, type Metrics } from '../../src/observability/metrics.js';
import { parseExposition } from '../support/exposition.js';

const texts = { help: 'For a test.', reason: 'For a test.' } as const;
const gauge = (name: string, labels: readonly string[] = []) => ({ name, kind: 'gauge', labels, ...texts }) as const;

function metrics(): { metrics: Metrics; errors: unknown[] } {
  const errors: unknown[] = [];
  return { metrics: createMetrics((error, { metric }) => errors.push([metric, error])), errors };
}

const scrape = async (made: Metrics) => parseExposition((await made.expose()).body);

describe('an instrument', () => {
  it('begins at 0 for every set of labels that is known beforehand, and has no other series', async () => {
    const { metrics: made } = metrics();
    made.instrument({
      name: 'a_total',
      kind: 'counter',
      labels: ['x', 'y'],
      values: { x: ['1', '2'], y: ['3', '4'] },
      ...texts,
    });
    made.instrument({ name: 'b', kind: 'histogram', labels: ['x'], values: { x: ['1'] }, buckets: [1], ...texts });
    made.instrument({ name: 'c_total', kind: 'counter', labels: [], values: {}, ...texts });
    made.instrument({ name: 'd_total', kind: 'counter', labels: ['x'], ...texts });
    const found = await scrape(made);
    expect(found.of('a_total').map(({ labels, value }) => [labels['x'], labels['y'], value])).toEqual([
      ['1', '3', 0],
      ['1', '4', 0],
      ['2', '3', 0],
      ['2', '4', 0],
    ]);
    expect(found.of('b')).toEqual([{ name: 'b_count', labels: { x: '1' }, value: 0 }]);
    expect(found.sum('c_total')).toBe(0);
    expect(found.of('d_total')).toEqual([]);
  });
});

describe('a reading', () => {
  it('has the series that it gives now, and none that it gave before', async () => {
    const { metrics: made } = metrics();
    let state: readonly string[] = ['one', 'two'];
    made.reading(gauge('a', ['x']), () => state.map((x) => ({ labels: { x }, value: 5 })));
    expect((await scrape(made)).of('a').map(({ labels }) => labels['x'])).toEqual(['one', 'two']);
    state = ['two', 'three'];
    expect((await scrape(made)).of('a').map(({ labels }) => labels['x'])).toEqual(['two', 'three']);
  });

  it('without a number has no series, which is not 0', async () => {
    const { metrics: made } = metrics();
    let value: number | undefined;
    made.reading(gauge('a'), () => (value === undefined ? [] : [{ labels: {}, value }]));
    expect((await scrape(made)).of('a')).toEqual([]);
    value = 3;
    expect((await scrape(made)).sum('a')).toBe(3);
    value = undefined;
    expect((await scrape(made)).of('a')).toEqual([]);
  });

  it('that fails, at once or later, is reported and has no series; the others have theirs', async () => {
    const { metrics: made, errors } = metrics();
    const broken = new Error('broken');
    made.reading(gauge('a'), () => {
      throw broken;
    });
    made.reading(gauge('b'), () => Promise.reject(broken));
    made.reading(gauge('c'), () => [{ labels: {}, value: 1 }]);
    const found = await scrape(made);
    expect([found.of('a'), found.of('b')]).toEqual([[], []]);
    expect(found.sum('c')).toBe(1);
    expect(errors).toEqual([
      ['a', broken],
      ['b', broken],
    ]);
  });

  it('that hangs is given up, and does not hold up the answer', async () => {
    const { metrics: made, errors } = metrics();
    made.reading(gauge('a'), () => new Promise(() => undefined));
    made.reading(gauge('b'), () => [{ labels: {}, value: 1 }]);
    const found = await scrape(made);
    expect(found.of('a')).toEqual([]);
    expect(found.sum('b')).toBe(1);
    expect(errors).toHaveLength(1);
  });
});

describe('many scrapes at once', () => {
  it('share readings: the first has its own, and all that come meanwhile have the next', async () => {
    const { metrics: made } = metrics();
    let asked = 0;
    made.reading(gauge('a'), async () => {
      asked += 1;
      const value = asked;
      await new Promise((resolve) => setTimeout(resolve, 50));
      return [{ labels: {}, value }];
    });
    const values = await Promise.all(Array.from({ length: 20 }, async () => (await scrape(made)).sum('a')));
    expect(values).toEqual([1, ...Array<number>(19).fill(2)]);
    expect(asked).toBe(2);
    expect((await scrape(made)).sum('a')).toBe(3);
  });
});
