// src/auth/fair-slots.ts: payers take turns, each has a bound, and the tasks of one payer cost the others no place.
import fc from 'fast-check';
import { setImmediate as immediate } from 'node:timers/promises';
import { afterEach, describe, expect, it, vi } from 'vitest';
import { FairSlots, type WaitingBounds } from '../../src/auth/fair-slots.js';
import { Requesters } from '../../src/lib/requester.js';

afterEach(() => {
  vi.useRealTimers();
});

interface Work {
  /** Starts a task named `payer` and a number: a1, a2, b1 … */
  readonly start: (payer: string) => void;
  /** Ends the task that has run longest. */
  readonly endOne: () => Promise<void>;
  readonly running: string[];
  /** In the order of their start. */
  readonly begun: string[];
  readonly refused: string[];
}

function work(size: number, bounds: WaitingBounds, patience = 60_000): Work {
  const slots = new FairSlots(size, bounds, patience);
  const counts = new Map<string, number>();
  const ends = new Map<string, () => void>();
  const running: string[] = [];
  const begun: string[] = [];
  const refused: string[] = [];
  return {
    running,
    begun,
    refused,
    start: (payer) => {
      const count = (counts.get(payer) ?? 0) + 1;
      counts.set(payer, count);
      const name = `${payer}${count}`;
      const task = (): Promise<void> => {
        running.push(name);
        begun.push(name);
        return new Promise((resolve) => ends.set(name, resolve));
      };
      slots.run(payer, task).catch((error: unknown) => {
        expect(error).toMatchObject({ code: 'unavailable', status: 503, retryAfter: 1 });
        refused.push(name);
      });
    },
    endOne: async () => {
      ends.get(running.shift() ?? '')?.();
      await immediate();
    },
  };
}

const startAll = ({ start }: Work, payers: string): void => {
  for (const payer of payers) start(payer);
};

async function endAll({ endOne, running }: Work): Promise<void> {
  while (running.length > 0) await endOne();
}

const plenty = { perPayer: 100, total: 1_000 };

describe('fair slots', () => {
  it('run no more tasks at once than there are slots', async () => {
    const queue = work(2, plenty);
    startAll(queue, 'aab');
    expect(queue.running).toEqual(['a1', 'a2']);
    await queue.endOne();
    expect(queue.running).toEqual(['a2', 'b1']);
    await endAll(queue);
    expect(queue.begun).toHaveLength(3);
  });

  it('give each payer one turn before any payer has a second, and keep the order of one payer', async () => {
    const queue = work(1, plenty);
    startAll(queue, 'aaaaabbc');
    await endAll(queue);
    expect(queue.begun).toEqual(['a1', 'a2', 'b1', 'c1', 'a3', 'b2', 'a4', 'a5']);
  });

  it('do not let a returning payer pass a waiting one', async () => {
    const queue = work(1, plenty);
    startAll(queue, 'abc');
    await queue.endOne();
    startAll(queue, 'b');
    await endAll(queue);
    expect(queue.begun).toEqual(['a1', 'b1', 'c1', 'b2']);
  });

  it('refuse tasks beyond the bound of one payer at once, and let others wait', async () => {
    const queue = work(1, { perPayer: 2, total: 100 });
    startAll(queue, 'aaaaab');
    await immediate();
    expect(queue.refused).toEqual(['a4', 'a5']);
    await endAll(queue);
    expect(queue.begun).toEqual(['a1', 'a2', 'b1', 'a3']);
  });

  it('refuse the newest task of the longest queue if the total is reached and another payer comes', async () => {
    const queue = work(1, { perPayer: 3, total: 4 });
    startAll(queue, 'aaaabc');
    await immediate();
    expect(queue.refused).toEqual(['a4']);
    await endAll(queue);
    expect(queue.begun).toEqual(['a1', 'a2', 'b1', 'c1', 'a3']);
  });

  it('refuse the new task if the total is reached and no other payer has a longer queue', async () => {
    const queue = work(1, { perPayer: 3, total: 3 });
    startAll(queue, 'xabc');
    startAll(queue, 'ad');
    await immediate();
    expect(queue.refused).toEqual(['a2', 'd1']);
    await endAll(queue);
    expect(queue.begun).toEqual(['x1', 'a1', 'b1', 'c1']);
  });

  it('refuse a task that has waited for the maximum time, and give its turn to the next', async () => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    const queue = work(1, plenty, 1_000);
    startAll(queue, 'aab');
    vi.advanceTimersByTime(999);
    startAll(queue, 'b');
    await immediate();
    expect(queue.refused).toEqual([]);
    vi.advanceTimersByTime(1);
    await immediate();
    expect(queue.refused).toEqual(['a2', 'b1']);
    await endAll(queue);
    expect(queue.begun).toEqual(['a1', 'b2']);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('pass on the slot of a task that fails', async () => {
    const slots = new FairSlots(1, plenty, 60_000);
    const failing = slots.run('a', () => Promise.reject(new Error('failed')));
    const next = slots.run('a', () => Promise.resolve('ran'));
    await expect(failing).rejects.toThrow('failed');
    expect(await next).toBe('ran');
    expect(await slots.run('b', () => Promise.resolve('ran too'))).toBe('ran too');
  });

  it('let no payer wait for more than one turn of each other payer, and keep both bounds, whatever comes', async () => {
    const step = fc.oneof(
      { weight: 3, arbitrary: fc.constantFrom('a', 'b', 'c', 'd', 'e') },
      { weight: 1, arbitrary: fc.constant('end') },
    );
    await fc.assert(
      fc.asyncProperty(
        fc.array(step, { maxLength: 60 }),
        fc.integer({ min: 1, max: 3 }),
        fc.integer({ min: 1, max: 4 }),
        fc.integer({ min: 1, max: 8 }),
        async (steps, size, perPayer, total) => {
          const queue = work(size, { perPayer, total });
          const started: string[] = [];
          const counts = new Map<string, number>();
          const waiting = (): string[] =>
            started.filter((name) => !queue.begun.includes(name) && !queue.refused.includes(name));
          /** For each waiting payer, the turns of the others since its last one. */
          const passed = new Map<string, string[]>();
          const end = async (): Promise<void> => {
            const before = queue.begun.length;
            const waited = new Set(waiting().map((name) => name.charAt(0)));
            await queue.endOne();
            for (const name of queue.begun.slice(before)) {
              passed.delete(name.charAt(0));
              for (const payer of waited) {
                if (payer === name.charAt(0)) continue;
                const turns = [...(passed.get(payer) ?? []), name.charAt(0)];
                expect(new Set(turns).size).toBe(turns.length);
                passed.set(payer, turns);
              }
            }
          };
          for (const next of steps) {
            if (next === 'end') {
              await end();
            } else {
              const count = (counts.get(next) ?? 0) + 1;
              counts.set(next, count);
              started.push(`${next}${count}`);
              queue.start(next);
              await immediate();
            }
            const waits = waiting();
            expect(queue.running.length).toBeLessThanOrEqual(size);
            if (waits.length > 0) expect(queue.running).toHaveLength(size);
            expect(waits.length).toBeLessThanOrEqual(total);
            for (const payer of 'abcde') {
              expect(waits.filter((name) => name.startsWith(payer)).length).toBeLessThanOrEqual(perPayer);
              if (!waits.some((name) => name.startsWith(payer))) passed.delete(payer);
            }
          }
          while (queue.running.length > 0) await end();
          // Every task ran or was refused, once.
          expect([...queue.begun, ...queue.refused].sort()).toEqual([...started].sort());
        },
      ),
      { numRuns: 200 },
    );
  });
});

it('a task whose client leaves while it waits is not run, and the others keep their turns', async () => {
  const slots = new FairSlots(1, { perPayer: 10, total: 10 }, 60_000);
  const begun: string[] = [];
  let end = (): void => undefined;
  const first = slots.run('a', () => new Promise<void>((resolve) => (end = resolve)));
  const clients = [new Requesters(), new Requesters(), new Requesters()];
  const tasks = clients.map((client, index) =>
    slots.run(
      index === 2 ? 'b' : 'a',
      async () => {
        begun.push(`task ${index}`);
      },
      client,
    ),
  );
  const outcomes = Promise.allSettled(tasks);
  const leave = ([client]: Requesters[]): void => {
    if (!client) return;
    client.destroyed = true;
    client.emit('close');
  };
  expect(slots.load).toEqual({ running: 1, waiting: 3 });
  leave(clients);
  expect(slots.load).toEqual({ running: 1, waiting: 2 });
  end();
  await first;
  const [left, ...others] = await outcomes;
  expect(left).toMatchObject({ status: 'rejected', reason: { name: 'ClientLeft' } });
  expect(others.map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled']);
  expect(begun).toEqual(['task 1', 'task 2']);
  expect(clients.map((client) => client.listenerCount('close'))).toEqual([0, 0, 0]);
  expect(slots.load).toEqual({ running: 0, waiting: 0 });
  await expect(slots.run('a', async () => undefined, clients[0])).rejects.toMatchObject({ name: 'ClientLeft' });
});
