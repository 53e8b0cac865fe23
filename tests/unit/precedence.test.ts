// Precedence: work done ahead of time waits for work of requests, but not for ever.
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, it } from 'vitest';
import { createPrecedence, whenQuiet } from '../../src/operations/create/precedence.js';

const never = new AbortController().signal;

it('work ahead of time starts at once if no request is being served', async () => {
  await createPrecedence().quiet(never);
});

it('work ahead of time starts a moment after the last request’s work, even if that failed', async () => {
  const precedence = createPrecedence({ moment: 100 });
  const order: string[] = [];
  const first = precedence.run(() => sleep(50).then(() => order.push('first')));
  const failing = precedence.run(async () => {
    await sleep(150);
    order.push('second');
    throw new Error('it failed');
  });
  const waited = precedence.quiet(never).then(() => order.push('quiet'));
  await first;
  await expect(failing).rejects.toThrow('it failed');
  expect(order).toEqual(['first', 'second']);
  await waited;
  expect(order).toEqual(['first', 'second', 'quiet']);
});

it('work ahead of time waits for a maximum time, or until it is told to stop', async () => {
  const precedence = createPrecedence({ patience: 100 });
  const work = new AbortController();
  let running = true;
  const done = precedence
    .run(() => sleep(60_000, undefined, { signal: work.signal }).catch(() => undefined))
    .then(() => {
      running = false;
    });
  await precedence.quiet(never);
  await createPrecedence().run(() => precedence.quiet(AbortSignal.abort()));
  expect(running).toBe(true);
  work.abort();
  await done;
});

it('what follows many requests runs once, when it is quiet, and again after the next request', async () => {
  const precedence = createPrecedence({ moment: 20 });
  let runs = 0;
  const soon = whenQuiet(precedence, never, () => (runs += 1));
  await precedence.run(async () => {
    for (let request = 0; request < 3; request += 1) soon();
    await sleep(50);
    expect(runs).toBe(0);
  });
  await expect.poll(() => runs).toBe(1);
  soon();
  await expect.poll(() => runs).toBe(2);
});
