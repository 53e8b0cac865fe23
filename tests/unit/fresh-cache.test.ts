// src/replicas/fresh-cache.ts: how long a row is cached, and when it must not be.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { FreshCache } from '../../src/replicas/fresh-cache.js';

interface Row {
  readonly version: number;
}

const FRESH_FOR = 1_000;
const STALE_FOR = 60_000;
const row = (version: number): Row => ({ version });
const fault = new DatabaseFault('unavailable', 'ECONNREFUSED');

/** The time that the cache sees; tests change it. */
let now = 0;

beforeEach(() => {
  now = 5_000;
  vi.spyOn(performance, 'now').mockImplementation(() => now);
});

interface Setup {
  readonly cache: FreshCache<Row>;
  /** Loads so far, by key. */
  readonly loads: string[];
  /** The result of the next loads: a row, nothing, or an error. */
  answer: Row | undefined | Error;
}

function setup(max = 10): Setup {
  const state: Setup = {
    loads: [],
    answer: row(1),
    cache: new FreshCache<Row>({
      max,
      freshFor: () => FRESH_FOR,
      staleFor: STALE_FOR,
      load: async (key) => {
        state.loads.push(key);
        if (state.answer instanceof Error) throw state.answer;
        return state.answer;
      },
    }),
  };
  return state;
}

interface SlowSetup {
  readonly cache: FreshCache<Row>;
  /** Running loads, in order; the test ends each. */
  readonly loads: { resolve(row: Row | undefined): void; reject(error: Error): void }[];
}

function slowSetup(): SlowSetup {
  const loads: SlowSetup['loads'] = [];
  const load = (): Promise<Row | undefined> =>
    new Promise((resolve, reject) => {
      loads.push({ resolve, reject });
    });
  return { loads, cache: new FreshCache<Row>({ max: 10, freshFor: () => FRESH_FOR, staleFor: STALE_FOR, load }) };
}

/** Lets every pending step run. */
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('a value', () => {
  it('is loaded once and served while it is fresh', async () => {
    const { cache, loads } = setup();
    expect(await cache.get('a')).toEqual(row(1));
    now += FRESH_FOR - 1;
    expect(await cache.get('a')).toEqual(row(1));
    expect(cache.peek('a')).toEqual(row(1));
    expect(loads).toEqual(['a']);
  });

  it('is loaded again when it is no longer fresh', async () => {
    const state = setup();
    await state.cache.get('a');
    now += FRESH_FOR;
    state.answer = row(2);
    expect(state.cache.peek('a')).toBeUndefined();
    expect(await state.cache.get('a')).toEqual(row(2));
    expect(state.cache.peek('a')).toEqual(row(2));
  });

  it('ages from the start of its load: a slow answer can be old when it arrives', async () => {
    const { cache, loads } = slowSetup();
    const got = cache.get('a');
    await settle();
    now += FRESH_FOR;
    loads[0]?.resolve(row(1));
    expect(await got).toEqual(row(1));
    expect(cache.peek('a')).toBeUndefined();
  });

  it('that was old when it was loaded is fresh for the rest of its time', async () => {
    const cache = new FreshCache<Row>({
      max: 10,
      freshFor: () => FRESH_FOR,
      staleFor: STALE_FOR,
      load: async () => row(1),
      ageOf: () => 900,
    });
    await cache.get('a');
    now += 99;
    expect(cache.peek('a')).toEqual(row(1));
    now += 1;
    expect(cache.peek('a')).toBeUndefined();
  });

  it('is found by its own key only', async () => {
    const { cache, loads } = setup();
    await cache.get('a:b');
    expect(cache.peek('a')).toBeUndefined();
    expect(cache.peek('__proto__')).toBeUndefined();
    await cache.get('a');
    expect(loads).toEqual(['a:b', 'a']);
  });

  it('is evicted if there are too many, the oldest load first', async () => {
    const { cache } = setup(2);
    await cache.get('a');
    await cache.get('b');
    cache.invalidate('a');
    await cache.get('a');
    await cache.get('c');
    expect(['a', 'b', 'c'].filter((key) => cache.peek(key))).toEqual(['a', 'c']);
  });

  it('that does not exist is loaded at every request', async () => {
    const state = setup();
    state.answer = undefined;
    expect(await state.cache.get('a')).toBeUndefined();
    expect(await state.cache.get('a')).toBeUndefined();
    expect(state.loads).toEqual(['a', 'a']);
  });

  it('that was deleted meanwhile is discarded, and not served in an outage', async () => {
    const state = setup();
    await state.cache.get('a');
    now += FRESH_FOR;
    state.answer = undefined;
    expect(await state.cache.get('a')).toBeUndefined();
    state.answer = fault;
    await expect(state.cache.get('a')).rejects.toBe(fault);
  });
});

describe('simultaneous requests', () => {
  it('share one load', async () => {
    const { cache, loads } = slowSetup();
    const all = Promise.all(Array.from({ length: 50 }, () => cache.get('a')));
    await settle();
    expect(loads).toHaveLength(1);
    loads[0]?.resolve(row(1));
    expect(new Set(await all)).toEqual(new Set([row(1)]));
  });

  it('share its failure too, and the next request tries again', async () => {
    const { cache, loads } = slowSetup();
    const all = Promise.allSettled(Array.from({ length: 50 }, () => cache.get('a')));
    await settle();
    loads[0]?.reject(fault);
    expect(new Set((await all).map(({ status }) => status))).toEqual(new Set(['rejected']));
    const next = cache.get('a');
    await settle();
    loads[1]?.resolve(row(2));
    expect(await next).toEqual(row(2));
    expect(loads).toHaveLength(2);
  });

  it('wait for their own key only', async () => {
    const { cache, loads } = slowSetup();
    const [a, b] = [cache.get('a'), cache.get('b')];
    await settle();
    loads[1]?.resolve(row(2));
    expect(await b).toEqual(row(2));
    loads[0]?.resolve(row(1));
    expect(await a).toEqual(row(1));
  });
});

describe('an invalidation', () => {
  it('makes the next request load', async () => {
    const state = setup();
    await state.cache.get('a');
    state.cache.invalidate('a');
    state.answer = row(2);
    expect(state.cache.peek('a')).toBeUndefined();
    expect(await state.cache.get('a')).toEqual(row(2));
  });

  it('of one key keeps the others', async () => {
    const { cache } = setup();
    await cache.get('a');
    await cache.get('b');
    cache.invalidate('a');
    expect(cache.peek('b')).toEqual(row(1));
  });

  it('during a load keeps the outdated row out of the cache', async () => {
    const { cache, loads } = slowSetup();
    const before = cache.get('a');
    await settle();
    cache.invalidate('a');
    loads[0]?.resolve(row(1));
    expect(await before).toEqual(row(1));
    expect(cache.peek('a')).toBeUndefined();
  });

  it('during a load makes later requests load again, and their row stays, whichever load ends last', async () => {
    for (const order of [
      [0, 1],
      [1, 0],
    ]) {
      const { cache, loads } = slowSetup();
      const before = cache.get('a');
      await settle();
      cache.invalidate('a');
      const behind = cache.get('a');
      await settle();
      expect(loads).toHaveLength(2);
      for (const index of order) {
        loads[index]?.resolve(row(index));
        await settle();
      }
      expect(await before).toEqual(row(0));
      expect(await behind).toEqual(row(1));
      expect(cache.peek('a')).toEqual(row(1));
    }
  });

  it('during a load that fails does no harm', async () => {
    const { cache, loads } = slowSetup();
    const before = cache.get('a');
    await settle();
    cache.invalidate('a');
    const behind = cache.get('a');
    await settle();
    loads[0]?.reject(fault);
    await expect(before).rejects.toBe(fault);
    // The second load is still shared.
    const third = cache.get('a');
    await settle();
    expect(loads).toHaveLength(2);
    loads[1]?.resolve(row(1));
    expect(await Promise.all([behind, third])).toEqual([row(1), row(1)]);
  });

  it('discards the row that an outage would have served', async () => {
    const state = setup();
    await state.cache.get('a');
    state.cache.invalidate('a');
    state.answer = fault;
    await expect(state.cache.get('a')).rejects.toBe(fault);
  });
});

describe('while an invalidation may have been missed,', () => {
  interface SilentSetup extends Setup {
    /** Ends the silence. */
    readonly end: () => void;
  }

  /** A cache that has row 1 of `a`, and receives no invalidations. */
  async function silent(): Promise<SilentSetup> {
    let end: () => void = () => undefined;
    let wait: Promise<void> | undefined;
    const state: SilentSetup = {
      loads: [],
      answer: row(1),
      end: () => {
        wait = undefined;
        end();
      },
      cache: new FreshCache<Row>({
        max: 10,
        freshFor: () => (wait ? 0 : FRESH_FOR),
        caughtUp: () => wait,
        staleFor: STALE_FOR,
        load: async (key) => {
          state.loads.push(key);
          return state.answer as Row;
        },
      }),
    };
    await state.cache.get('a');
    state.answer = row(2);
    wait = new Promise((resolve) => (end = resolve));
    return state;
  }

  it('a cached value waits, and is served without a load if no invalidation was missed', async () => {
    const { cache, loads, end } = await silent();
    const all = Promise.all([cache.get('a'), cache.get('a')]);
    await settle();
    expect(loads).toEqual(['a']);
    end();
    expect(await all).toEqual([row(1), row(1)]);
    expect(loads).toEqual(['a']);
  });

  it.each<[string, (cache: FreshCache<Row>) => void]>([
    [
      'it was invalidated',
      (cache) => {
        cache.invalidate('a');
      },
    ],
    [
      'anything may have changed',
      (cache) => {
        now += 1;
        cache.expire();
      },
    ],
  ])('a cached value is loaded once for all waiting requests if %s', async (_, happen) => {
    const { cache, loads, end } = await silent();
    const all = Promise.all([cache.get('a'), cache.get('a')]);
    await settle();
    happen(cache);
    end();
    expect(await all).toEqual([row(2), row(2)]);
    expect(loads).toEqual(['a', 'a']);
  });

  it('an uncached value is loaded without waiting', async () => {
    const { cache, loads } = await silent();
    expect(await cache.get('b')).toEqual(row(2));
    expect(loads).toEqual(['a', 'b']);
  });
});

describe('while the database does not answer,', () => {
  it('a cached value is served for the stated time, and not longer', async () => {
    const state = setup();
    await state.cache.get('a');
    state.answer = fault;
    now += STALE_FOR - 1;
    expect(await state.cache.get('a')).toEqual(row(1));
    now += 1;
    await expect(state.cache.get('a')).rejects.toBe(fault);
  });

  it('a stale value does not become fresh: every request asks the database', async () => {
    const state = setup();
    await state.cache.get('a');
    state.answer = fault;
    now += FRESH_FOR;
    await state.cache.get('a');
    await state.cache.get('a');
    expect(state.loads).toEqual(['a', 'a', 'a']);
    expect(state.cache.peek('a')).toBeUndefined();
    state.answer = row(2);
    expect(await state.cache.get('a')).toEqual(row(2));
  });

  it('an uncached value is an error', async () => {
    const state = setup();
    state.answer = fault;
    await expect(state.cache.get('a')).rejects.toBe(fault);
  });

  it('an error in the program is no outage: it is thrown, and no stale value is served', async () => {
    const state = setup();
    await state.cache.get('a');
    now += FRESH_FOR;
    for (const mistake of [new TypeError('x is not a function'), new Error('relation does not exist')]) {
      state.answer = mistake;
      await expect(state.cache.get('a')).rejects.toBe(mistake);
    }
  });
});

describe('while the database is slow,', () => {
  /** Longer than a request with a cached value waits for a newer one. */
  const LONG = 60_000;

  beforeEach(() => {
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  /** A cache that has row 1 of `a`, no longer fresh, and loads slowly. */
  async function known(): Promise<SlowSetup> {
    const state = slowSetup();
    const first = state.cache.get('a');
    await settle();
    state.loads[0]?.resolve(row(1));
    await first;
    now += FRESH_FOR;
    return state;
  }

  it('a cached value is served without waiting for the end, and the newer one as soon as it is there', async () => {
    const { cache, loads } = await known();
    const all = Promise.all([cache.get('a'), cache.get('a')]);
    await settle();
    await vi.advanceTimersByTimeAsync(LONG);
    expect(await all).toEqual([row(1), row(1)]);
    expect(loads).toHaveLength(2);
    // A later request neither waits nor loads again.
    expect(await cache.get('a')).toEqual(row(1));
    expect(loads).toHaveLength(2);
    loads[1]?.resolve(row(2));
    await settle();
    expect(cache.peek('a')).toEqual(row(2));
  });

  it('an answer in time is preferred to the cached value', async () => {
    const { cache, loads } = await known();
    const got = cache.get('a');
    await settle();
    loads[1]?.resolve(row(2));
    expect(await got).toEqual(row(2));
    expect(vi.getTimerCount()).toBe(0);
  });

  it('a value that is too old or was invalidated meanwhile is not served', async () => {
    const outdated = await known();
    now += STALE_FOR;
    const taken = await known();
    const waiting = [outdated.cache.get('a'), taken.cache.get('a')];
    await settle();
    taken.cache.invalidate('a');
    await vi.advanceTimersByTimeAsync(LONG);
    outdated.loads[1]?.resolve(row(2));
    taken.loads[1]?.resolve(row(3));
    expect(await Promise.all(waiting)).toEqual([row(2), row(3)]);
  });

  it('an uncached value is waited for', async () => {
    const { cache, loads } = slowSetup();
    const got = cache.get('a');
    await settle();
    await vi.advanceTimersByTimeAsync(LONG);
    loads[0]?.resolve(row(1));
    expect(await got).toEqual(row(1));
  });

  it('a failure after the cached value was served is no request’s error', async () => {
    const { cache, loads } = await known();
    const got = cache.get('a');
    await settle();
    await vi.advanceTimersByTimeAsync(LONG);
    expect(await got).toEqual(row(1));
    loads[1]?.reject(new TypeError('too late'));
    await settle();
    const next = cache.get('a');
    await settle();
    loads[2]?.resolve(row(3));
    expect(await next).toEqual(row(3));
  });
});

describe('values of one group', () => {
  interface GroupSetup {
    readonly cache: FreshCache<Row>;
    /** The keys of each running load, in order; the test ends each. */
    readonly loads: {
      readonly keys: readonly string[];
      resolve(rows: ReadonlyMap<string, Row | undefined>): void;
      reject(error: Error): void;
    }[];
    /** Ends the newest load with this version for all of its keys. */
    readonly answer: (version: number) => Promise<void>;
  }

  /** Keys are `group/name`. A key without a group is loaded alone. */
  async function setupGroup(...keys: string[]): Promise<GroupSetup> {
    const loads: GroupSetup['loads'] = [];
    const cache = new FreshCache<Row>({
      max: 1_000,
      freshFor: () => FRESH_FOR,
      staleFor: 0,
      groupOf: (key) => (key.includes('/') ? key.split('/')[0] : undefined),
      loadAll: (asked) =>
        new Promise((resolve, reject) => {
          loads.push({ keys: asked, resolve, reject });
        }),
    });
    const answer = async (version: number): Promise<void> => {
      const load = loads.at(-1);
      load?.resolve(new Map(load.keys.map((key) => [key, row(version)])));
      await settle();
    };
    for (const key of keys) {
      const got = cache.get(key);
      await settle();
      await answer(1);
      await got;
      cache.peek(key);
    }
    loads.length = 0;
    return { cache, loads, answer };
  }

  it('are loaded together: those that were used, and are older than half of their time', async () => {
    const { cache, loads, answer } = await setupGroup('a/1', 'a/2', 'b/1', 'c');
    now += FRESH_FOR / 2;
    const young = cache.get('a/3');
    await settle();
    expect(loads[0]?.keys).toEqual(['a/3', 'a/1', 'a/2']);
    await answer(2);
    await young;
    cache.peek('a/2');
    now += FRESH_FOR;
    const got = cache.get('a/2');
    await settle();
    // The others were not asked for since they were loaded.
    expect(loads[1]?.keys).toEqual(['a/2']);
    await answer(3);
    expect(await got).toEqual(row(3));
  });

  it('that are younger than half of their time are not loaded', async () => {
    const { cache, loads } = await setupGroup('a/1', 'a/2');
    now += FRESH_FOR / 2 - 1;
    void cache.get('a/3');
    await settle();
    expect(loads[0]?.keys).toEqual(['a/3']);
  });

  it('are bounded in number', async () => {
    const { cache, loads } = await setupGroup(...Array.from({ length: 80 }, (_, index) => `a/${index}`));
    now += FRESH_FOR;
    void cache.get('a/70');
    await settle();
    expect(loads[0]?.keys).toHaveLength(50);
  });

  it('share one load: a caller of another value waits for it', async () => {
    const { cache, loads, answer } = await setupGroup('a/1', 'a/2');
    now += FRESH_FOR;
    const both = [cache.get('a/1'), cache.get('a/2')];
    await settle();
    expect(loads).toHaveLength(1);
    await answer(2);
    expect(await Promise.all(both)).toEqual([row(2), row(2)]);
  });

  it('are loaded alone if the load left them out, and do not count as missing', async () => {
    const { cache, loads } = await setupGroup('a/1', 'a/2');
    now += FRESH_FOR;
    const [, two, again] = [cache.get('a/1'), cache.get('a/2'), cache.get('a/2')];
    await settle();
    loads[0]?.resolve(new Map([['a/1', row(2)]]));
    await settle();
    expect(loads.map(({ keys }) => keys)).toEqual([['a/1', 'a/2'], ['a/2']]);
    loads[1]?.resolve(new Map([['a/2', row(3)]]));
    expect(await Promise.all([two, again])).toEqual([row(3), row(3)]);
  });

  it.each(['a/1', 'a/2'])('are not cached if they were invalidated meanwhile, and the others are: %s', async (key) => {
    const { cache, loads, answer } = await setupGroup('a/1', 'a/2');
    now += FRESH_FOR;
    const got = cache.get('a/1');
    await settle();
    cache.invalidate(key);
    const later = cache.get(key);
    await settle();
    expect(loads.map(({ keys }) => keys)).toEqual([['a/1', 'a/2'], [key]]);
    loads[0]?.resolve(
      new Map([
        ['a/1', row(2)],
        ['a/2', row(2)],
      ]),
    );
    await settle();
    expect(await got).toEqual(row(2));
    expect(['a/1', 'a/2'].filter((each) => cache.peek(each))).toEqual(['a/1', 'a/2'].filter((each) => each !== key));
    await answer(3);
    expect(await later).toEqual(row(3));
    expect(cache.peek(key)).toEqual(row(3));
  });

  it('are not cached if everything expired meanwhile', async () => {
    const { cache, loads, answer } = await setupGroup('a/1', 'a/2');
    now += FRESH_FOR;
    void cache.get('a/1');
    await settle();
    expect(loads[0]?.keys).toHaveLength(2);
    now += 1;
    cache.expire();
    await answer(2);
    expect(['a/1', 'a/2'].filter((key) => cache.peek(key))).toEqual([]);
  });

  it('that do not exist any more are forgotten', async () => {
    const { cache, loads } = await setupGroup('a/1', 'a/2');
    now += FRESH_FOR / 2;
    void cache.get('a/3');
    await settle();
    expect(cache.peek('a/2')).toEqual(row(1));
    loads[0]?.resolve(
      new Map<string, Row | undefined>([
        ['a/3', row(2)],
        ['a/1', row(2)],
        ['a/2', undefined],
      ]),
    );
    await settle();
    expect(cache.peek('a/1')).toEqual(row(2));
    expect(cache.peek('a/2')).toBeUndefined();
  });

  it('that could not be read ahead stay, and the next caller tries again', async () => {
    const { cache, loads, answer } = await setupGroup('a/1', 'a/2');
    now += FRESH_FOR / 2;
    cache.readAhead('a');
    await settle();
    loads[0]?.reject(fault);
    await settle();
    expect(cache.peek('a/1')).toEqual(row(1));
    now += FRESH_FOR;
    const got = cache.get('a/1');
    await settle();
    expect(loads[1]?.keys).toEqual(['a/1', 'a/2']);
    await answer(2);
    expect(await got).toEqual(row(2));
  });

  it('that were dropped from the cache are forgotten in their group', async () => {
    const keys = Array.from({ length: 1_200 }, (_, index) => `a/${index}`);
    const { cache, loads } = await setupGroup(...keys);
    expect(cache.size).toBe(1_000);
    now += FRESH_FOR;
    void cache.get('a/1199');
    await settle();
    expect(loads[0]?.keys.slice(0, 3)).toEqual(['a/1199', 'a/200', 'a/201']);
  });
});
