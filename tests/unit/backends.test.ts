// src/connections/backends.ts: when a backend whose connection has closed counts as gone, by the looks at its server.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { createBackends, type Backends } from '../../src/connections/backends.js';

const LOOK_EVERY = 1_000;

/** The server's answer; undefined hangs, and then fails. */
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

/** A backend that is lost, with its pid or before its pid was known. */
function lose(pid?: number): { freed: boolean } {
  const state = { freed: false };
  const backend = backends.track();
  if (pid !== undefined) backend.reached(pid);
  backend.lost(() => (state.freed = true));
  return state;
}

const pass = (ms: number): Promise<unknown> => vi.advanceTimersByTimeAsync(ms);

describe('a backend that may still exist', () => {
  it('is gone if the server has no session of this replica with its pid, and the first look comes at once', async () => {
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

  it('is not judged by a look that began before it was lost', async () => {
    sessions = [{ pid: 1 }];
    lose(1);
    await pass(60);
    // The look waits for its second query.
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

  it('is gone if the server has restarted since an earlier look, even if its pid is used again', async () => {
    sessions = [{ pid: 1 }];
    const one = lose(1);
    await pass(LOOK_EVERY);
    expect(one.freed).toBe(false);
    startedAt = 'later';
    await pass(LOOK_EVERY);
    expect(one.freed).toBe(true);
  });

  it('counts as held while the server cannot be asked, which is logged once and tried again each second', async () => {
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

  it('is ended if it only waits for a statement, while a connection in use is not', async () => {
    backends.track().reached(3);
    lose(1);
    lose(2);
    sessions = [{ pid: 1, idle: true }, { pid: 2 }, { pid: 3, idle: true }];
    await pass(100);
    expect(ended).toEqual([1]);
  });

  it('causes no looks once all are gone', async () => {
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
  it('is gone when two queries find no session of unknown owner', async () => {
    backends.track().reached(1);
    sessions = [{ pid: 1 }, { pid: 2 }];
    const known = lose(2);
    const cut = lose();
    await pass(100);
    expect(cut.freed).toBe(false);
    await pass(300);
    expect([cut.freed, known.freed]).toEqual([true, false]);
  });

  it('owns a session of unknown owner, and is gone when that session is', async () => {
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

  it('does not own the session of a connection that reports its pid a moment later', async () => {
    sessions = [{ pid: 5 }];
    const one = lose();
    const opening = backends.track();
    await pass(400);
    expect(one.freed).toBe(false);
    opening.reached(5);
    expect(one.freed).toBe(true);
  });
});

it('unknown backends of a server that cannot be asked are held for a minute', async () => {
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
