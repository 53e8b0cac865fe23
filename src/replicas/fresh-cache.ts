// A cache of database rows. A value is fresh for a short time, and concurrent requests share one load. An invalidation removes a
// value. A stale value is served only while the database does not answer.
//
// Values of one group, such as the users of one tenant, are loaded together: with a value that must be loaded, those of its group
// that will soon have to be. A load of several values follows the rules of a load of one, for each of them: an invalidation of a
// value during the load keeps this value out of the cache, and no other.
import type { LRUCache } from 'lru-cache';
import { recentMap } from '../lib/recent-map.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { ValueGroups } from './value-groups.js';

interface Entry<V> {
  readonly value: V;
  readonly loadedAt: number;
  /** Whether the value was asked for since it was loaded. */
  used: boolean;
}

/** At least one key. */
export type Keys = readonly [string, ...string[]];

/** The values that were loaded: undefined for one that does not exist. A key that is missing was not looked up. */
export type Loaded<V> = ReadonlyMap<string, V | undefined>;

interface Bounds<V> {
  /** The most entries; the entry that was loaded longest ago is removed first. */
  readonly max: number;
  /**
   * A value younger than this (ms) is served without loading. It is asked each time, since it depends on whether invalidations
   * arrive.
   */
  readonly freshFor: () => number;
  /**
   * Defined while it is unknown whether an invalidation was missed; resolves as soon as that is known. A value that is only for
   * that reason not fresh is then checked again instead of loaded.
   */
  readonly caughtUp?: () => Promise<void> | undefined;
  /** The age (ms) that a value already has when it is loaded, if it was read from a copy. */
  readonly ageOf?: (value: V) => number;
  /** While loading takes too long, or fails because of the database, a value younger than this (ms) is served. */
  readonly staleFor: number;
}

interface LoadedAlone<V> {
  /** Reads one value; undefined if there is none, which is never cached. */
  readonly load: (key: string) => Promise<V | undefined>;
}

interface LoadedTogether<V> {
  /** The group of a key; undefined if its value is always loaded alone. */
  readonly groupOf: (key: string) => string | undefined;
  /** Reads the value of the first key, and those of the other keys, which are of its group, if that costs little more. */
  readonly loadAll: (keys: Keys) => Promise<Loaded<V>>;
}

export type FreshCacheOptions<V> = Bounds<V> & (LoadedAlone<V> | LoadedTogether<V>);

/**
 * How long (ms) a caller waits for a load if an older value could be served. A server that hangs refuses nothing: otherwise each
 * request would wait for the whole deadline of a connection or a statement.
 */
const PATIENCE = 500;

/** The most values that one load reads. */
const MOST_TOGETHER = 50;

interface Load<V> {
  readonly result: Promise<Loaded<V>>;
  /** Resolves when the load has taken too long. */
  readonly late: Promise<void>;
  settled: boolean;
}

export class FreshCache<V extends object> {
  readonly #entries: LRUCache<string, Entry<V>>;
  /** The load that may fill the cache, for each key. One load may be there for several keys. */
  readonly #loads = new Map<string, Load<V>>();
  readonly #groups: ValueGroups | undefined;
  /** Groups that are read ahead. */
  readonly #ahead = new Set<string>();
  /** Values that were loaded before this time are not fresh. */
  #trustedSince = -Infinity;

  constructor(private readonly options: FreshCacheOptions<V>) {
    const groups = 'groupOf' in options ? new ValueGroups(options.groupOf) : undefined;
    this.#groups = groups;
    this.#entries = recentMap(
      options.max,
      groups &&
        ((key) => {
          groups.remove(key);
        }),
    );
  }

  /** Cached values, fresh or not. */
  get size(): number {
    return this.#entries.size;
  }

  /** The value if it is known and fresh, without waiting: the warm path allocates no promise. */
  peek(key: string): V | undefined {
    // This does not count as a use for the LRU order, which would cost more than the look-up. Each value is loaded again in time,
    // and that counts.
    const entry = this.#entries.peek(key);
    if (!entry || entry.loadedAt < this.#trustedSince) return undefined;
    if (performance.now() - entry.loadedAt >= this.options.freshFor()) return undefined;
    entry.used = true;
    return entry.value;
  }

  /**
   * The value, which is loaded if it is not fresh. Concurrent requests share one load.
   *
   * @throws the error of `load`, if no value is young enough
   */
  async get(key: string): Promise<V | undefined> {
    return (
      this.peek(key) ?? (await this.#peekLater(key)) ?? this.#outcome(key, this.#loads.get(key) ?? this.#load(key))
    );
  }

  /** Loads the value again, even if it is fresh. A known value still bridges an outage. @throws as `get` */
  async reload(key: string): Promise<V | undefined> {
    // Do not use a load that is under way: it may have read the row before the change that the caller knows of.
    return this.#outcome(key, this.#load(key));
  }

  /** Loads values of a group that will soon have to be loaded. Call it when that costs little, because of another load. */
  readAhead(group: string): void {
    if (this.#ahead.has(group)) return;
    const [first, ...others] = this.#due(group);
    if (first === undefined) return;
    this.#ahead.add(group);
    const done = (): void => {
      this.#ahead.delete(group);
    };
    // A failure concerns only those who ask for one of the values meanwhile.
    this.#begin([first, ...others]).result.then(done, done);
  }

  async #peekLater(key: string): Promise<V | undefined> {
    const entry = this.#entries.peek(key);
    if (!entry || entry.loadedAt < this.#trustedSince) return undefined;
    const caughtUp = this.options.caughtUp?.();
    if (!caughtUp) return undefined;
    await caughtUp;
    return this.peek(key);
  }

  async #outcome(key: string, load: Load<V>): Promise<V | undefined> {
    if (this.#stale(key)) {
      await Promise.race([load.result, load.late]).catch(() => undefined);
      // Look it up again: an invalidation may have come during the wait.
      const known = this.#stale(key);
      if (!load.settled && known) return known.value;
    }
    try {
      const loaded = await load.result;
      // A load may leave out all but its first key.
      return loaded.has(key) ? loaded.get(key) : await this.#outcome(key, this.#loads.get(key) ?? this.#load(key));
    } catch (error) {
      const known = this.#stale(key);
      if (known && error instanceof DatabaseFault) return known.value;
      throw error;
    }
  }

  /** Makes all values stale: invalidations may have been missed. Known values still bridge an outage. */
  expire(): void {
    this.#trustedSince = performance.now();
    this.#loads.clear();
  }

  /** Forgets a value. A load under way may have read the old row. Its callers get that row, but it is not cached. */
  invalidate(key: string): void {
    this.#entries.delete(key);
    this.#loads.delete(key);
  }

  #stale(key: string): Entry<V> | undefined {
    const entry = this.#entries.get(key);
    return entry && performance.now() - entry.loadedAt < this.options.staleFor ? entry : undefined;
  }

  /** Values of the group that were used since they were loaded, and are older than half of their time. */
  #due(group: string | undefined, except?: string): string[] {
    if (group === undefined || !this.#groups) return [];
    const now = performance.now();
    const freshFor = this.options.freshFor();
    return this.#groups.choose(group, MOST_TOGETHER - 1, (key) => {
      const entry = this.#entries.peek(key);
      if (!entry) return 'forget';
      const age = now - entry.loadedAt;
      const isTrusted = entry.loadedAt >= this.#trustedSince;
      if (isTrusted && age < freshFor / 2) return 'stop';
      if (key === except || this.#loads.has(key)) return 'skip';
      if (entry.used) return 'take';
      return isTrusted && age < freshFor ? 'skip' : 'forget';
    });
  }

  #load(key: string): Load<V> {
    return this.#begin([key, ...this.#due(this.#groups?.groupOf(key), key)]);
  }

  #begin(keys: Keys): Load<V> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, PATIENCE)));
    const result = this.#fill(keys, (key) => this.#loads.get(key) === load).finally(() => {
      load.settled = true;
      clearTimeout(timer);
    });
    const load: Load<V> = { result, late, settled: false };
    for (const key of keys) this.#loads.set(key, load);
    return load;
  }

  async #fill(keys: Keys, isCurrent: (key: string) => boolean): Promise<Loaded<V>> {
    // Wait for a turn of the event loop first, so that the load is registered before it can end.
    await Promise.resolve();
    const startedAt = performance.now();
    try {
      const loaded = await this.#read(keys);
      for (const [key, value] of loaded) {
        if (!isCurrent(key)) continue;
        if (value) this.#set(key, { value, loadedAt: startedAt - (this.options.ageOf?.(value) ?? 0), used: false });
        else this.#entries.delete(key);
      }
      return loaded;
    } finally {
      for (const key of keys) if (isCurrent(key)) this.#loads.delete(key);
    }
  }

  async #read(keys: Keys): Promise<Loaded<V>> {
    const { options } = this;
    return 'loadAll' in options ? options.loadAll(keys) : new Map([[keys[0], await options.load(keys[0])]]);
  }

  #set(key: string, entry: Entry<V>): void {
    this.#entries.set(key, entry);
    this.#groups?.add(key);
  }
}
