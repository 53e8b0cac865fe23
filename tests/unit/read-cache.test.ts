// The read cache's reads and writes, on the memory store: who asks the database, and what is acknowledged when.
import { EventEmitter } from 'node:events';
import { describe, expect, it, onTestFinished, vi } from 'vitest';
import type { CacheServer } from '../../db/registry/fleet/cache-servers.js';
import { AppError } from '../../src/errors.js';
import { cacheKeys, refusesStored, undeclaredChanges } from '../../src/http/cached-routes.js';
import { ClientLeft } from '../../src/lib/requester.js';
import { MARK_LASTS, type CacheStore } from '../../src/replicas/read-cache/cache-store.js';
import type { StoreForWrites } from '../../src/replicas/read-cache/fleet-store.js';
import { createMemoryCacheStore } from '../../src/replicas/read-cache/memory-cache-store.js';
import { createRedisCacheStore, MOST_AT_ONCE } from '../../src/replicas/read-cache/redis-cache-store.js';
import type { OpenedStore } from '../../src/replicas/shared-store.js';
import type { CacheEvent } from '../../src/replicas/read-cache/cache-types.js';
import type { PlaceLink } from '../../src/replicas/read-cache/place-servers.js';
import { MAX_ENTRY } from '../../src/replicas/read-cache/entry-places.js';
import { ReadCache } from '../../src/replicas/read-cache/read-cache.js';

const TENANT = '00000000-0000-4000-8000-000000000001';
const PLACE = 'database.test:5432';
const read = { tenantId: TENANT, place: PLACE, epoch: 1, scope: 'products:1', key: '/products/:id' };
const SCOPES = ['products:1', 'products'];

interface World {
  readonly cache: ReadCache;
  readonly store: CacheStore;
  readonly events: CacheEvent[];
  /** What the replica knows. Change it. */
  fleet: StoreForWrites | undefined;
  readable: boolean;
  state: 'on' | 'off';
  live: boolean;
  /** The server that all replicas agree on; undefined if it is not known. */
  agreed: CacheServer | undefined;
  /** Where this replica's connections lead. */
  link: PlaceLink;
  /** The value in the database, and how often it was read. */
  value: string;
  queries: number;
  switchable: boolean;
  readonly load: () => Promise<string | undefined>;
}

function world(more: Partial<CacheStore> = {}, deadline?: number): World {
  const memory = createMemoryCacheStore('one', { ttl: 60_000, bytes: 1_000_000 });
  const store: CacheStore = { ...memory, ...more };
  const events: CacheEvent[] = [];
  const made: World = {
    store,
    events,
    fleet: { id: 'row', store: 'memory:one', settlesIn: 0 },
    readable: true,
    state: 'on',
    live: true,
    agreed: { server: 'one', generation: 'g1' },
    link: { server: 'one', serverChanges: 0 },
    value: 'one',
    queries: 0,
    switchable: true,
    load: async () => {
      made.queries += 1;
      return made.value;
    },
    cache: new ReadCache({
      store,
      fleet: { forReads: () => (made.readable ? made.fleet?.id : undefined), forWrites: () => made.fleet },
      tenants: {
        forReads: () => (made.state === 'on' ? 0 : undefined),
        know: async () => undefined,
        offIn: async () => (made.state === 'off' && made.live ? 0 : undefined),
        switchOff: async () => {
          if (!made.switchable) throw new Error('away');
          made.state = 'off';
        },
        raise: async () => 0,
      },
      servers: {
        link: () => made.link,
        forReads: () => made.agreed,
        know: async () => undefined,
        settlesIn: async (_, changes) =>
          made.link.serverChanges === changes && made.link.server === made.agreed?.server ? 0 : undefined,
      },
      live: () => made.live,
      count: (event) => void events.push(event),
      ...(deadline !== undefined && { deadline }),
    }),
  };
  return made;
}

/** Lets every promise that can settle do so. */
const turns = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 5));

describe('a read', () => {
  it('asks the database once, and then no more', async () => {
    const w = world();
    expect(await w.cache.read(read, w.load)).toBe('one');
    await turns();
    expect(await w.cache.read(read, w.load)).toBe('one');
    expect([w.queries, w.events]).toEqual([1, ['filled', 'hit']]);
  });

  it('shares one load with all that ask at the same time', async () => {
    const w = world();
    const answers = await Promise.all(Array.from({ length: 20 }, async () => w.cache.read(read, w.load)));
    expect(new Set(answers)).toEqual(new Set(['one']));
    expect(w.queries).toBe(1);
  });

  it('does not share a load that began before a write was acknowledged', async () => {
    const w = world();
    let release: () => void = () => undefined;
    const old = w.cache.read(read, async () => {
      const { value } = w;
      await new Promise<void>((resolve) => (release = resolve));
      return value;
    });
    await turns();
    const write = await w.cache.beginWrite(TENANT, PLACE, SCOPES);
    w.value = 'two';
    await w.cache.release(write);
    expect(await w.cache.read(read, w.load)).toBe('two');
    release();
    expect(await old).toBe('one');
    await turns();
    expect(await w.cache.read(read, w.load)).toBe('two');
    expect(w.events).toContain('not-filled');
  });

  it('whose client leaves goes on for the others that share its load, and ends when the last one has left', async () => {
    const w = world();
    const client = (): EventEmitter & { destroyed: boolean } => Object.assign(new EventEmitter(), { destroyed: false });
    const [one, two] = [client(), client()];
    const leave = (client: typeof one): void => {
      client.destroyed = true;
      client.emit('close');
    };
    let waits: { readonly destroyed: boolean } | undefined;
    let end = (): void => undefined;
    const load = async (requesters: { readonly destroyed: boolean }): Promise<string> => {
      waits = requesters;
      await new Promise<void>((resolve) => (end = resolve));
      if (requesters.destroyed) throw new ClientLeft();
      return 'one';
    };
    const begin = async (): Promise<Promise<string | undefined>[]> => {
      const answers = [one, two].map(async (requester) => w.cache.read({ ...read, requester }, load));
      for (const answer of answers) answer.catch(() => undefined);
      await turns();
      return answers;
    };
    const kept = await begin();
    leave(one);
    expect(waits?.destroyed).toBe(false);
    end();
    expect(await kept[1]).toBe('one');
    expect(w.events).toContain('shared');

    await turns();
    const write = await w.cache.beginWrite(TENANT, PLACE, SCOPES);
    await w.cache.release(write);
    one.destroyed = false;
    const dropped = await begin();
    leave(one);
    leave(two);
    expect(waits?.destroyed).toBe(true);
    end();
    // The second one may ask by itself: the error is that of the load's first client.
    await expect(dropped[0]).rejects.toMatchObject({ name: 'ClientLeft' });
    expect(await dropped[1]).toBeUndefined();
    await expect(w.cache.read({ ...read, requester: two }, w.load)).rejects.toMatchObject({ name: 'ClientLeft' });
  });

  it('fails alone if its load fails: the others ask by themselves', async () => {
    const w = world();
    const failing = w.cache.read(read, () => Promise.reject(new AppError('not-found')));
    const other = w.cache.read(read, w.load);
    await expect(failing).rejects.toThrow('Not found');
    expect(await other).toBeUndefined();
  });

  it('does not fill while a write of the row or of the table is under way', async () => {
    const w = world();
    const write = await w.cache.beginWrite(TENANT, PLACE, SCOPES);
    expect(await w.cache.read(read, w.load)).toBeUndefined();
    expect(await w.cache.read({ ...read, scope: 'products' }, w.load)).toBeUndefined();
    expect(await w.cache.read({ ...read, scope: 'products:2' }, w.load)).toBe('one');
    expect(w.events.slice(0, 2)).toEqual(['dirty', 'dirty']);
    await w.cache.release(write);
    expect(await w.cache.read(read, w.load)).toBe('one');
  });

  it.each([
    ['another tenant', { tenantId: '00000000-0000-4000-8000-000000000002' }],
    ['another database of the tenant', { epoch: 2 }],
    ['another query', { key: '/products/:id?' }],
  ])('does not get what was filled for %s', async (_, other) => {
    const w = world();
    await w.cache.read(read, w.load);
    await turns();
    w.value = 'other';
    expect(await w.cache.read({ ...read, ...other }, w.load)).toBe('other');
  });

  it('does not get what was filled under an earlier row of the fleet', async () => {
    const w = world();
    await w.cache.read(read, w.load);
    await turns();
    w.fleet = { id: 'another row', store: 'memory:one', settlesIn: 0 };
    w.value = 'two';
    expect(await w.cache.read(read, w.load)).toBe('two');
  });

  it('does not get what was filled from an earlier server at the place', async () => {
    const w = world();
    await w.cache.read(read, w.load);
    await turns();
    w.agreed = { server: 'two', generation: 'g2' };
    w.link = { server: 'two', serverChanges: 1 };
    w.value = 'two';
    expect(await w.cache.read(read, w.load)).toBe('two');
  });

  it.each([
    ['its connections lead to another server than the replicas agree on', { server: 'former', serverChanges: 0 }, 0],
    ['its connections lead to several servers', { server: undefined, serverChanges: 0 }, 0],
    ['its connections led to another server meanwhile', { server: 'one', serverChanges: 0 }, 2],
  ])('fills nothing if %s', async (_, link, changes) => {
    const w = world();
    w.link = link;
    const answer = await w.cache.read(read, async () => {
      w.link = { ...link, serverChanges: changes };
      return w.load();
    });
    await turns();
    expect([answer, w.events]).toEqual(['one', ['not-filled']]);
  });

  it('asks the database while it is not known which server answers', async () => {
    const w = world();
    w.agreed = undefined;
    expect(await w.cache.read(read, w.load)).toBeUndefined();
    expect(w.events).toEqual(['unavailable']);
  });

  it('does not store an answer that is too long', async () => {
    const w = world();
    w.value = 'é'.repeat(MAX_ENTRY / 2 + 1);
    await w.cache.read(read, w.load);
    await turns();
    await w.cache.read(read, w.load);
    expect(w.queries).toBe(2);
  });
});

describe('a write', () => {
  it('costs no store anything while there is none', async () => {
    const w = world({
      mark: () => Promise.reject(new Error('asked')),
      release: () => Promise.reject(new Error('asked')),
    });
    w.fleet = { id: 'row', store: 'none', settlesIn: 0 };
    await w.cache.release(await w.cache.beginWrite(TENANT, PLACE, SCOPES));
    expect([w.state, w.events]).toEqual(['on', []]);
  });

  it('is acknowledged only when the row is settled', async () => {
    const w = world();
    const write = await w.cache.beginWrite(TENANT, PLACE, SCOPES);
    w.fleet = { id: 'new', store: 'none', settlesIn: 200 };
    let acknowledged = false;
    const released = w.cache.release(write).then(() => (acknowledged = true));
    await new Promise((resolve) => setTimeout(resolve, 100));
    expect(acknowledged).toBe(false);
    w.fleet = { id: 'new', store: 'none', settlesIn: 0 };
    await released;
    expect(w.events).toContain('waited');
  });

  it('is released again if the row has changed meanwhile', async () => {
    const released: string[] = [];
    const w = world({
      release: async (identity) => {
        released.push(identity);
        w.fleet = { id: 'new', store: 'none', settlesIn: 0 };
        return false;
      },
    });
    await w.cache.release(await w.cache.beginWrite(TENANT, PLACE, SCOPES));
    expect(released).toEqual(['memory:one']);
    expect(w.events).toContain('waited');
  });

  it.each(['mark', 'release'] as const)('switches its tenant off if the store fails at the %s', async (step) => {
    const w = world({ [step]: () => Promise.reject(new Error('away')) });
    await w.cache.release(await w.cache.beginWrite(TENANT, PLACE, SCOPES));
    expect([w.state, w.events[0]]).toEqual(['off', 'switched-off']);
  });

  it('switches its tenant off if the store is not the one of the fleet', async () => {
    const w = world();
    w.fleet = { id: 'row', store: 'memory:another', settlesIn: 0 };
    await w.cache.release(await w.cache.beginWrite(TENANT, PLACE, SCOPES));
    expect(w.state).toBe('off');
  });

  it('switches its tenant off if its connection led to another server than the replicas agree on', async () => {
    const w = world();
    const write = await w.cache.beginWrite(TENANT, PLACE, SCOPES);
    w.link = { server: 'one', serverChanges: 2 };
    await w.cache.release(write);
    expect([w.state, w.events[0]]).toEqual(['off', 'switched-off']);
    // Its mark has ended: the row is cached again as soon as the tenant is.
    await turns();
    w.state = 'on';
    expect(await w.cache.read(read, w.load)).toBe('one');
  });

  it('is refused before anything is written if neither the store nor the registry can be reached', async () => {
    const w = world({ mark: () => Promise.reject(new Error('away')) }, 150);
    w.live = false;
    await expect(w.cache.beginWrite(TENANT, PLACE, SCOPES)).rejects.toMatchObject({ code: 'unavailable' });
    expect(w.events).toEqual(['refused']);
  });

  it('is not acknowledged if both went away after its commit', async () => {
    const w = world({ release: () => Promise.reject(new Error('away')) }, 150);
    const write = await w.cache.beginWrite(TENANT, PLACE, SCOPES);
    w.switchable = false;
    await expect(w.cache.release(write)).rejects.toMatchObject({ code: 'unavailable' });
    // The mark is still there.
    expect(await w.cache.read(read, w.load)).toBeUndefined();
  });

  it('goes on while the registry is away and the store is there', async () => {
    const w = world();
    w.live = false;
    await w.cache.release(await w.cache.beginWrite(TENANT, PLACE, SCOPES));
    expect(w.state).toBe('on');
  });

  it('leaves its mark if it is not known whether it was committed, and otherwise not', async () => {
    const w = world();
    w.cache.giveUp(await w.cache.beginWrite(TENANT, PLACE, SCOPES), false);
    expect(await w.cache.read(read, w.load)).toBeUndefined();
    const other = { ...read, scope: 'products:2' };
    w.cache.giveUp(await w.cache.beginWrite(TENANT, PLACE, ['products:2']), true);
    await turns();
    expect(await w.cache.read(other, w.load)).toBe('one');
  });
});

describe('the answer of a write', () => {
  const written = { key: read.key, value: 'two' };
  const change = async (w: World, value = 'two', epoch?: number): Promise<void> => {
    const write = await w.cache.beginWrite(TENANT, PLACE, SCOPES, epoch ?? read.epoch);
    w.value = value;
    await w.cache.release(write, { ...written, value });
  };

  it('is what the next read gets', async () => {
    const w = world();
    await change(w);
    expect(await w.cache.read(read, w.load)).toBe('two');
    expect([w.queries, w.events]).toEqual([0, ['written', 'hit']]);
  });

  it('takes the place of an older answer, and is replaced by the next write', async () => {
    const w = world();
    await w.cache.read(read, w.load);
    await turns();
    await change(w, 'two');
    expect(await w.cache.read(read, w.load)).toBe('two');
    await change(w, 'three');
    expect(await w.cache.read(read, w.load)).toBe('three');
    expect(w.queries).toBe(1);
  });

  it('does not fill a list', async () => {
    const w = world();
    const list = { ...read, scope: 'products', key: '/products' };
    await w.cache.read(list, w.load);
    await turns();
    await change(w);
    expect(await w.cache.read(list, w.load)).toBe('two');
    expect(w.queries).toBe(2);
  });

  it.each<[string, (w: World) => Promise<void> | void]>([
    [
      'another write was acknowledged since it marked',
      async (w) => {
        const other = await w.cache.beginWrite(TENANT, PLACE, SCOPES);
        w.value = 'newest';
        await w.cache.release(other);
      },
    ],
    [
      'another write marked before it, and was acknowledged first, without its mark',
      async (w) => {
        await w.store.release('memory:one', [`${TENANT}:products:1`], 'of a lost mark');
        w.value = 'newest';
      },
    ],
    [
      'another write is under way',
      async (w) => {
        await w.cache.beginWrite(TENANT, PLACE, SCOPES);
      },
    ],
    [
      'the store lost its mark',
      async (w) => {
        await w.store.release('memory:one', [`${TENANT}:products:1`], 'flushed');
      },
    ],
    ['the fleet has another row', (w) => void (w.fleet = { id: 'new', store: 'memory:one', settlesIn: 0 })],
    ['the tenant is off', (w) => void (w.state = 'off')],
    ['its connection led to another server', (w) => void (w.link = { server: 'one', serverChanges: 2 })],
  ])('is not stored if %s', async (_, happen) => {
    const w = world();
    const write = await w.cache.beginWrite(TENANT, PLACE, SCOPES, read.epoch);
    w.value = 'two';
    await happen(w);
    await w.cache.release(write, written);
    w.state = 'on';
    const expected = w.value;
    w.queries = 0;
    expect([undefined, expected]).toContain(await w.cache.read(read, w.load));
    expect(w.events).not.toContain('hit');
  });

  it('is not stored if another write began and ended before its mark did', async () => {
    const w = world();
    const other = await w.cache.beginWrite(TENANT, PLACE, SCOPES, read.epoch);
    const write = await w.cache.beginWrite(TENANT, PLACE, SCOPES, read.epoch);
    await w.cache.release(write, written);
    expect(await w.cache.read(read, w.load)).toBeUndefined();
    await w.cache.release(other, { ...written, value: 'older' });
    w.value = 'newest';
    expect(await w.cache.read(read, w.load)).toBe('newest');
    expect(w.events).not.toContain('written');
  });

  it('is not stored if its mark was not acknowledged: it may be made after the transaction', async () => {
    let markLater: () => Promise<void> = async () => undefined;
    const memory = createMemoryCacheStore('one', { ttl: 60_000, bytes: 1_000_000 });
    const w = world({
      ...memory,
      mark: async (...given) => {
        markLater = () => memory.mark(...given);
        throw new Error('too late');
      },
    });
    const write = await w.cache.beginWrite(TENANT, PLACE, SCOPES, read.epoch);
    w.value = 'newest';
    // Another write is committed and acknowledged meanwhile.
    await memory.release('memory:one', [`${TENANT}:products:1`], 'another');
    await markLater();
    w.state = 'on';
    await w.cache.release(write, written);
    expect(await w.cache.read(read, w.load)).toBe('newest');
    expect(w.events).not.toContain('written');
  });

  it('is not stored if it marked twice: the mark that failed may come after another write was acknowledged', async () => {
    const late: (() => Promise<void>)[] = [];
    const memory = createMemoryCacheStore('one', { ttl: 60_000, bytes: 1_000_000 });
    const w = world({
      ...memory,
      mark: async (...given) => {
        if (late.length > 0) return memory.mark(...given);
        late.push(() => memory.mark(...given));
        throw new Error('too late');
      },
    });
    // Otherwise the tenant is switched off instead.
    w.switchable = false;
    const write = await w.cache.beginWrite(TENANT, PLACE, SCOPES, read.epoch);
    w.value = 'two';
    const other = await w.cache.beginWrite(TENANT, PLACE, SCOPES, read.epoch);
    w.value = 'newest';
    await w.cache.release(other);
    await late[0]?.();
    await w.cache.release(write, written);
    expect(await w.cache.read(read, w.load)).toBe('newest');
    expect(w.events).not.toContain('written');
  });

  it('is not stored for the server that the replicas agreed on, if another one gave it', async () => {
    const w = world();
    w.link = { server: 'two', serverChanges: 1 };
    const write = await w.cache.beginWrite(TENANT, PLACE, SCOPES, read.epoch);
    w.agreed = { server: 'two', generation: 'g2' };
    await w.cache.release(write, written);
    expect([w.state, w.events]).toEqual(['on', []]);
  });

  it('counts its time to live from before the mark', async () => {
    const store = createMemoryCacheStore('one', { ttl: 1_000, bytes: 100_000 });
    const given = { entry: 'key', value: 'two' };
    const left = async (age: number): Promise<boolean> => {
      await store.mark('memory:one', SCOPES, 'token');
      return store.release('memory:one', SCOPES, 'token', { ...given, age });
    };
    const found = async (): Promise<string | undefined> =>
      (await store.lookup('memory:one', 'products:1', 'key')).value;
    expect([await left(1_000), await found()]).toEqual([false, undefined]);
    expect([await left(900), await found()]).toEqual([true, 'two']);
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(await found()).toBeUndefined();
  });

  it('is not stored for a database that the write did not know', async () => {
    const w = world();
    await change(w, 'two', 1);
    w.value = 'moved';
    expect(await w.cache.read({ ...read, epoch: 2 }, w.load)).toBe('moved');
  });

  it('is not stored if it is too long', async () => {
    const w = world();
    await change(w, 'x'.repeat(MAX_ENTRY + 1));
    expect(w.events).toEqual([]);
  });
});

describe('the memory of a process', () => {
  it('takes no more bytes than allowed', async () => {
    const store = createMemoryCacheStore('one', { ttl: 60_000, bytes: 100_000 });
    for (let id = 0; id < 100; id += 1) {
      const scope = `products:${id}`;
      const version = (await store.begin('memory:one', scope)) ?? '';
      await store.fill('memory:one', scope, version, scope, 'x'.repeat(2_000), 0);
    }
    expect(store.bytes).toBeLessThanOrEqual(100_000);
    expect(store.bytes).toBeGreaterThan(50_000);
  });

  it('counts the time to live from before the query', async () => {
    const store = createMemoryCacheStore('one', { ttl: 1_000, bytes: 100_000 });
    const version = (await store.begin('memory:one', 'products')) ?? '';
    expect(await store.fill('memory:one', 'products', version, 'old', 'x', 1_000)).toBe(false);
    expect(await store.fill('memory:one', 'products', version, 'key', 'x', 900)).toBe(true);
    const found = async (): Promise<string | undefined> => (await store.lookup('memory:one', 'products', 'key')).value;
    expect(await found()).toBe('x');
    await new Promise((resolve) => setTimeout(resolve, 150));
    expect(await found()).toBeUndefined();
  });

  it('forgets the marks of writes in doubt, also of rows that are not read again', async () => {
    vi.useFakeTimers({ toFake: ['performance'] });
    onTestFinished(() => void vi.useRealTimers());
    const store = createMemoryCacheStore('one', { ttl: 1_000, bytes: 100_000 });
    for (let id = 0; id < 100; id += 1) await store.mark('memory:one', [`products:${id}`], `token ${id}`);
    expect(store.marked).toBe(100);
    vi.advanceTimersByTime(MARK_LASTS + 1);
    await store.mark('memory:one', ['products'], 'token');
    expect(store.marked).toBe(1);
  });

  it('refuses to be the store of another process', () => {
    const store = createMemoryCacheStore('one', { ttl: 60_000, bytes: 100_000 });
    expect(() => store.lookup('memory:two', 'products', 'key')).toThrow('another process');
  });
});

describe('look-ups in Redis', () => {
  /** A Redis whose oldest answer comes with each call of `answer`. */
  function slowRedis(): { store: CacheStore; asked: number[]; answer: () => void } {
    const asked: number[] = [];
    const answers: (() => void)[] = [];
    const opened = {
      available: true,
      client: {
        status: 'ready',
        on: () => undefined,
        info: async () => 'run_id:a\r\nmaster_replid:b\r\nrole:master\r\nused_memory:1\r\n',
      },
      send: (_: string, keys: readonly string[]) =>
        new Promise((resolve) => {
          asked.push(keys.length / 2);
          answers.push(() => {
            resolve(keys.map(() => null));
          });
        }),
    } as unknown as OpenedStore;
    const options = { database: 0, ttl: 1_000, bytes: 1_000, onError: () => undefined };
    return { store: createRedisCacheStore(opened, options), asked, answer: () => answers.shift()?.() };
  }

  it('are bounded in each command, and in the commands under way: the rest waits for an answer', async () => {
    const { store, asked, answer } = slowRedis();
    onTestFinished(() => {
      store.close();
    });
    await turns();
    const { identity = '' } = store;
    let answered = 0;
    for (let id = 0; id < 40; id += 1)
      void Promise.resolve(store.lookup(identity, `products:${id}`, `key ${id}`)).then(() => (answered += 1));
    await turns();
    expect(asked).toEqual([MOST_AT_ONCE, MOST_AT_ONCE]);
    answer();
    await turns();
    expect([asked, answered]).toEqual([[MOST_AT_ONCE, MOST_AT_ONCE, 40 - 2 * MOST_AT_ONCE], MOST_AT_ONCE]);
    answer();
    answer();
    await turns();
    expect(answered).toBe(40);
  });
});

describe('the key of a request', () => {
  const keyOf = cacheKeys('/products', true);
  const key = (query: object): string => keyOf({ params: {}, query });

  it('is of no other request, however the texts are split', () => {
    const queries = [
      { category: 'a:b', search: 'c' },
      { category: 'a', search: 'b:c' },
      { category: 'a","search":"b:c' },
      { category: 'a', search: 'b', sort: 'c' },
      { search: 'a' },
      { category: 'a' },
      { category: '' },
      {},
      { category: 'a'.repeat(200) },
      { category: 'a'.repeat(201) },
    ];
    expect(new Set(queries.map(key)).size).toBe(queries.length);
  });

  it('is bounded, however long the texts are', () => {
    expect(key({ search: 'a'.repeat(10_000) }).length).toBeLessThan(200);
  });
});

describe('a route', () => {
  it('under the address of a cached one must declare what it changes', () => {
    const config = { cached: 'products' } as never;
    const routes = [
      { method: 'GET', url: '/products', config },
      { method: 'GET', url: '/products/:id', config },
      { method: 'POST', url: '/products', config: { changes: 'products' } as never },
      { method: 'DELETE', url: '/products/:id/pictures', config: {} as never },
      { method: 'POST', url: '/productsets', config: undefined },
    ] as const;
    expect(undeclaredChanges(routes)).toEqual(['DELETE /products/:id/pictures']);
  });

  it.each([
    [undefined, false],
    ['no-cache', true],
    ['max-age=0, no-store', true],
    ['No-Cache', true],
    ['max-age=0', false],
    ['no-transform', false],
    ['private="no-cachex"', false],
  ])('with Cache-Control %s asks the database: %s', (header, asks) => {
    expect(refusesStored(header)).toBe(asks);
  });
});
