// The arithmetic of `npm run timing`, and a short run: the figures must be right; the machine need not be quiet.
import { describe, expect, it } from 'vitest';
import { OPERATOR, startServiceForTest } from '../support/app.js';
import { auc } from './auc.js';
import { CLASSES, measure, prepare } from './run.js';

describe('the probability that distinguishes two lists', () => {
  it('is 1 or 0 if every value reveals its list, and 0.5 if none does', () => {
    expect(auc([4, 5, 6], [1, 2, 3])).toBe(1);
    expect(auc([1, 2, 3], [4, 5, 6])).toBe(0);
    expect(auc([1, 2, 3], [1, 2, 3])).toBe(0.5);
    expect(auc([7, 7, 7], [7, 7])).toBe(0.5);
  });

  it('is the share of pairs in which the first is larger; equal ones count half', () => {
    const [these, those] = [
      [3, 1, 4, 1, 5],
      [9, 2, 6, 5, 3, 5, 1],
    ];
    const pairs = these.flatMap((one) => those.map((other) => (one > other ? 1 : one === other ? 0.5 : 0)));
    const share = pairs.reduce<number>((sum, value) => sum + value, 0) / pairs.length;
    expect(auc(these, those)).toBeCloseTo(share, 12);
    expect(auc(those, these)).toBeCloseTo(1 - share, 12);
  });

  it('sorts as numbers, and does not exist for an empty list', () => {
    expect(auc([10], [9])).toBe(1);
    expect(() => auc([], [1])).toThrow(RangeError);
    expect(() => auc([1], [])).toThrow(RangeError);
  });
});

describe('a short run', () => {
  it('measures each reason as often as requested, and each failure takes at least its quarter of a second', async () => {
    const { app } = await startServiceForTest();
    const url = await app.listen({ port: 0, host: '127.0.0.1' });
    const attempts = await prepare(url, OPERATOR);
    const sizes = new Set(Object.values(attempts).map((body) => JSON.stringify(body).length));
    expect([...sizes]).toHaveLength(1);
    const rounds: number[] = [];
    const times = await measure(url, attempts, { samples: 3, atOnce: 6, onRound: (round) => rounds.push(round) });
    expect(rounds).toEqual([1, 2, 3]);
    for (const name of CLASSES) {
      expect(times[name], name).toHaveLength(3);
      // The answer is delayed until then; a timer may be early by a millisecond.
      for (const time of times[name]) expect(time, name).toBeGreaterThan(248);
    }
  });

  it('ends with an error if a sign-in succeeds', async () => {
    const { app } = await startServiceForTest();
    const url = await app.listen({ port: 0, host: '127.0.0.1' });
    const attempts = await prepare(url, OPERATOR);
    const right = { tenant: 'tenant-known', email: 'admin@timing.example', password: 'the-right-password' };
    const run = measure(url, { ...attempts, 'unknown user': right }, { samples: 1 });
    await expect(run).rejects.toThrow('a sign-in that should fail answers 200');
  });
});
