// Waits that end together are ended a few at a time, so that their number does not block the event loop.
import { setImmediate as immediate } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { nextTurn } from '../../src/lib/turns.js';

it('the event loop runs between a few waits and the next ones, in their order', async () => {
  const served: number[] = [];
  const all = Promise.all(Array.from({ length: 100 }, (_, index) => nextTurn().then(() => served.push(index))));
  const seen: number[] = [];
  while (served.length < 100) {
    await immediate();
    seen.push(served.length);
  }
  await all;
  expect(served).toEqual(Array.from({ length: 100 }, (_, index) => index));
  const steps = seen.map((count, index) => count - (seen[index - 1] ?? 0));
  expect(Math.max(...steps)).toBeLessThanOrEqual(8);
});

it('a wait that begins while others are served is served after them', async () => {
  const served: string[] = [];
  const first = Array.from({ length: 20 }, () => nextTurn().then(() => served.push('first')));
  await immediate();
  const second = nextTurn().then(() => served.push('second'));
  await Promise.all([...first, second]);
  expect(served).toHaveLength(21);
  expect(served.at(-1)).toBe('second');
});
