// src/replicas/session-store.ts: which entries of Redis are trusted, and for how long.
import { beforeEach, describe, expect, it, vi } from 'vitest';
import type { Change, Events } from '../../src/replicas/events.js';
import type { SharedStore } from '../../src/replicas/shared-store.js';
import { createSessionStore, type AgedSession, type SessionStore } from '../../src/replicas/session-store.js';

const SESSION = { accountId: 'account', generation: 3, createdAt: '2026-01-31T09:30:00.250Z', remaining: 600_000 };

/** The time of this process, in ms; the registry's clock is 1,000,000 ahead, known to within 10 ms. */
let now = 0;
let live: boolean;
let tell: (change: Change) => void;
let entries: Map<string, string>;
/** Sessions that were read in their database. */
let reads: number;
let sessions: SessionStore;

beforeEach(() => {
  now = 5_000;
  vi.spyOn(performance, 'now').mockImplementation(() => now);
  live = true;
  reads = 0;
  entries = new Map();
  const events = {
    clock: () => (live ? { source: 'here', earliest: now + 1_000_000 - 5, latest: now + 1_000_000 + 5 } : undefined),
    subscribe: (listener: (change: Change) => void) => void (tell = listener),
  };
  const store = {
    available: true,
    send: async (command: string, [key = '']: readonly string[], [value]: readonly unknown[] = []) => {
      if (command === 'GET') return entries.get(key) ?? null;
      entries.set(key, String(value));
      return 'OK';
    },
  };
  sessions = createSessionStore(store as unknown as SharedStore, events as unknown as Events);
  now += 1_000;
});

const find = async (id = 's', tenant: string | null = 't'): Promise<AgedSession | undefined> => {
  const found = await sessions.find(tenant ?? undefined, [id], async () => {
    reads += 1;
    return new Map([[id, SESSION]]);
  });
  return found.get(id);
};

describe('an entry', () => {
  beforeEach(async () => {
    expect(await find()).toEqual({ ...SESSION, age: 0 });
    expect(entries.size).toBe(1);
  });

  it('contains its age, and the rest of its session', async () => {
    now += 20_000;
    expect(await find()).toEqual({ ...SESSION, age: 20_010, remaining: 600_000 - 20_010 });
    expect(reads).toBe(1);
  });

  it('is trusted for less than 30 s after its session was read', async () => {
    now += 29_989;
    await find();
    expect(reads).toBe(1);
    now += 1;
    expect(await find()).toEqual({ ...SESSION, age: 0 });
    expect(reads).toBe(2);
  });

  it.each<[string, Change]>([
    ['its session ended', { kind: 'session', sessionId: 's', tenantId: 't' }],
    ['its tenant changed', { kind: 'tenant', tenantId: 't' }],
    ['anything may have changed', { kind: 'any' }],
  ])('is not trusted if %s since', async (_, change) => {
    tell(change);
    now += 10;
    await find();
    expect(reads).toBe(2);
  });

  it('that was stored again after a change of its tenant is trusted', async () => {
    tell({ kind: 'tenant', tenantId: 't' });
    now += 100;
    await find();
    now += 100;
    await find();
    expect(reads).toBe(2);
  });

  it('is not trusted after the end of its session, however often it is stored', async () => {
    tell({ kind: 'session', sessionId: 's', tenantId: 't' });
    for (let second = 0; second < 59; second += 1) {
      now += 1_000;
      await find();
      expect(reads).toBe(second + 2);
    }
  });

  it('from an earlier time is not trusted if more sessions ended than are remembered', async () => {
    for (let n = 0; n <= 50_000; n += 1) tell({ kind: 'session', sessionId: `other-${n}`, tenantId: 't' });
    now += 10;
    await find();
    expect(reads).toBe(2);
  });

  it('is neither read nor written while the feed is not live', async () => {
    live = false;
    entries.clear();
    expect(await find()).toEqual({ ...SESSION, age: 0 });
    expect(reads).toBe(2);
    expect(entries.size).toBe(0);
  });

  it('belongs to the session of one tenant only', async () => {
    await find('s', 'u');
    await find('s', null);
    await find('other');
    expect(reads).toBe(4);
  });
});

it('an entry from before the replica first received changes is not trusted', async () => {
  now -= 1_000;
  await find();
  now += 1_000;
  await find();
  expect(reads).toBe(2);
});

it('a session that has ended is not stored', async () => {
  expect(await sessions.find('t', ['s', 'r'], async () => new Map())).toEqual(
    new Map([
      ['s', undefined],
      ['r', undefined],
    ]),
  );
  expect(entries.size).toBe(0);
});

it('sessions that are read together are stored, and none is looked up besides one that can be trusted', async () => {
  const read = (): Promise<ReadonlyMap<string, typeof SESSION>> =>
    Promise.resolve(
      new Map([
        ['s', SESSION],
        ['r', SESSION],
      ]),
    );
  expect([...(await sessions.find('t', ['s', 'r'], read)).keys()]).toEqual(['s', 'r']);
  expect([...entries.keys()]).toEqual(['session:t:s', 'session:t:r']);
  now += 100;
  expect([...(await sessions.find('t', ['r', 's'], read)).keys()]).toEqual(['r']);
});
