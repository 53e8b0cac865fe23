// src/connections/backends.ts: when a backend whose connection has closed counts as gone, by what looks at the server say.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createBackends, type Backends } from '../../src/connections/backends.js';

const LOOK_EVERY = 1_000;

/** What the server answers; undefined hangs, and then fails. */
let sessions: { pid: number; idle?: boolean }[] | Error;
let startedAt: string;
let looks: number;
let ended: number[];
let backends: Backends;
let errors: unknown[];

beforeEach(() => {
  vi.useFakeTimers();
  sessions = [];
  startedAt = 'once';
  looks = 0;
  ended = [];
  errors = [];
  backends = createBackends(
    {
      sessions: () => {
        looks += 1;
        if (sessions instanceof Error) return Promise.reject(sessions);
        return Promise.resolve({
          startedAt,
          sessions: sessions.map(({ pid, idle = false }) => ({ pid, began: 'then', idle })),
        });
      },
      endIdle: (idle) => {
        ended.push(...idle.map(({ pid }) => pid));
        return Promise.resolve();
      },
    },
    (error) => errors.push(error),
  );
});

afterEach(() => {
  backends.stop();
  vi.useRealTimers();
});

/** A backend that is lost; with its pid, or before it said one. */
function lose(pid?: number): { freed: boolean } {
  const state = { freed: false };
  const backend = backends.track();
  if (pid !== undefined) backend.reached(pid);
  backend.lost(() => (state.freed = true));
  return state;
}

const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);

describe('a backend that may live on', () => {
  it('is gone when the server has no session of this replica with its pid, and the look comes at once', async () => {
    const [gone, there] = [lose(1), lose(2)];
    sessions = [{ pid: 2 }];
    expect([gone.freed, there.freed]).toEqual([false, false]);
    await pass(100);
    expect([gone.freed, there.freed]).toEqual([true, false]);
    await pass(10 * LOOK_EVERY);
    expect(there.freed).toBe(false);
    sessions = [];
    await pass(LOOK_EVERY);
    expect(there.freed).toBe(true);
  });

  it('is not judged by a look that had begun before it was lost', async () => {
    sessions = [{ pid: 1 }];
    lose(1);
    await pass(60);
    // The look waits for its second question.
    const late = lose(2);
    sessions = [{ pid: 1 }];
    await pass(300);
    expect(late.freed).toBe(false);
    await pass(LOOK_EVERY);
    expect(late.freed).toBe(true);
  });

  it('is gone when a connection of this replica has its pid', () => {
    const one = lose(1);
    backends.track().reached(1);
    expect(one.freed).toBe(true);
  });

  it('is gone when the server has started again since an earlier look, although its pid is used again', async () => {
    sessions = [{ pid: 1 }];
    const one = lose(1);
    await pass(LOOK_EVERY);
    expect(one.freed).toBe(false);
    startedAt = 'later';
    await pass(LOOK_EVERY);
    expect(one.freed).toBe(true);
  });

  it('stays while the server cannot be asked, which is said once and asked again each second', async () => {
    sessions = new Error('no answer');
    const one = lose(1);
    await pass(10 * LOOK_EVERY);
    expect(one.freed).toBe(false);
    expect(errors).toHaveLength(1);
    expect(looks).toBeGreaterThan(8);
    expect(looks).toBeLessThan(12);
    sessions = [];
    await pass(LOOK_EVERY);
    expect(one.freed).toBe(true);
  });

  it('is ended where it only waits for a statement that never comes; a connection that lives is not', async () => {
    backends.track().reached(3);
    lose(1);
    lose(2);
    sessions = [{ pid: 1, idle: true }, { pid: 2 }, { pid: 3, idle: true }];
    await pass(100);
    expect(ended).toEqual([1]);
  });

  it('costs no look while there is none', async () => {
    backends.track().reached(1);
    backends.track().gone();
    await pass(10 * LOOK_EVERY);
    expect(looks).toBe(0);
    lose(2);
    await pass(10 * LOOK_EVERY);
    expect(looks).toBe(1);
  });
});

describe('a handshake that was cut', () => {
  it('is gone when two questions find no session that is not accounted for', async () => {
    backends.track().reached(1);
    sessions = [{ pid: 1 }, { pid: 2 }];
    const known = lose(2);
    const cut = lose();
    await pass(100);
    expect(cut.freed).toBe(false);
    await pass(300);
    expect([cut.freed, known.freed]).toEqual([true, false]);
  });

  it('is the session that nothing accounts for, and gone with it', async () => {
    sessions = [{ pid: 5 }];
    const [one, other] = [lose(), lose()];
    await pass(400);
    expect([one, other].filter(({ freed }) => freed)).toHaveLength(1);
    await pass(5 * LOOK_EVERY);
    expect([one, other].filter(({ freed }) => freed)).toHaveLength(1);
    sessions = [];
    await pass(LOOK_EVERY);
    expect([one, other].filter(({ freed }) => freed)).toHaveLength(2);
  });

  it('is not taken for a connection that says its pid a moment later', async () => {
    sessions = [{ pid: 5 }];
    const one = lose();
    const opening = backends.track();
    await pass(400);
    expect(one.freed).toBe(false);
    opening.reached(5);
    expect(one.freed).toBe(true);
  });
});

it('a server that nobody may ask keeps what is unknown for a minute', async () => {
  const blind = createBackends({ sessions: () => Promise.resolve(undefined), endIdle: () => Promise.resolve() });
  let freed = false;
  const backend = blind.track();
  backend.reached(1);
  backend.lost(() => (freed = true));
  await pass(59_000);
  expect(freed).toBe(false);
  await pass(3_000);
  expect(freed).toBe(true);
  blind.stop();
});
