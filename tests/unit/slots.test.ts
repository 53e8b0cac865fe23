// src/jobs/bounded-tasks.ts: a bounded number of running tasks, a bounded number of waiting ones, and no more.
import { describe, expect, it } from 'vitest';
import { Slots } from '../../src/jobs/bounded-tasks.js';

interface Tasks {
  readonly start: (name: string) => Promise<string>;
  readonly end: (name: string, error?: Error) => Promise<void>;
  readonly running: string[];
}

/** Tasks that run until the test ends them. */
function tasks(slots: Slots): Tasks {
  const running: string[] = [];
  const ends = new Map<string, (error?: Error) => void>();
  return {
    running,
    start: (name) =>
      slots.run(
        () =>
          new Promise((resolve, reject) => {
            running.push(name);
            ends.set(name, (error) => {
              running.splice(running.indexOf(name), 1);
              if (error) reject(error);
              else resolve(name);
            });
          }),
      ),
    end: async (name, error) => {
      ends.get(name)?.(error);
      await new Promise((resolve) => setImmediate(resolve));
    },
  };
}

describe('slots', () => {
  it('run no more tasks at once than there are slots', async () => {
    const { start, end, running } = tasks(new Slots(2, 10));
    const all = ['a', 'b', 'c', 'd'].map(start);
    expect(running).toEqual(['a', 'b']);
    await end('a');
    expect(running).toEqual(['b', 'c']);
    await end('b');
    await end('c');
    await end('d');
    expect(await Promise.all(all)).toEqual(['a', 'b', 'c', 'd']);
  });

  it('serve tasks in their order, and let no newcomer overtake', async () => {
    const { start, end, running } = tasks(new Slots(1, 10));
    const first = start('first');
    const second = start('second');
    const ended = end('first');
    const third = start('third');
    await ended;
    expect(running).toEqual(['second']);
    await end('second');
    expect(running).toEqual(['third']);
    await end('third');
    await Promise.all([first, second, third]);
  });

  it('refuse tasks beyond the bound of the queue at once, with 503 and Retry-After', async () => {
    const { start, end, running } = tasks(new Slots(1, 2));
    const accepted = ['a', 'b', 'c'].map(start);
    await expect(start('d')).rejects.toMatchObject({ code: 'unavailable', status: 503, retryAfter: 1 });
    await end('a');
    const next = start('e');
    expect(running).toEqual(['b']);
    for (const name of ['b', 'c', 'e']) await end(name);
    expect(await Promise.all([...accepted, next])).toEqual(['a', 'b', 'c', 'e']);
  });

  it('are free again when a task fails', async () => {
    const { start, end, running } = tasks(new Slots(1, 1));
    const failed = expect(start('a')).rejects.toThrow('no luck');
    const next = start('b');
    await end('a', new Error('no luck'));
    await failed;
    expect(running).toEqual(['b']);
    await end('b');
    await next;
    const again = start('c');
    expect(running).toEqual(['c']);
    await end('c');
    await again;
  });

  it('refuse a task that has waited for too long, and continue with the next', async () => {
    const { start, end, running } = tasks(new Slots(1, 2, 200));
    const first = start('first');
    await expect(start('late')).rejects.toMatchObject({ code: 'unavailable', status: 503, retryAfter: 1 });
    // Its place in the queue is free again.
    const others = ['second', 'third'].map(start);
    for (const name of ['first', 'second']) await end(name);
    expect(running).toEqual(['third']);
    await end('third');
    expect(await Promise.all([first, ...others])).toEqual(['first', 'second', 'third']);
  });

  it('without a queue refuse every task that cannot run at once', async () => {
    const { start, end } = tasks(new Slots(1, 0));
    const only = start('a');
    await expect(start('b')).rejects.toMatchObject({ code: 'unavailable' });
    await end('a');
    await only;
  });
});
