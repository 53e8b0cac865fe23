// A cache of database rows. A value is fresh for a short time, and concurrent requests share one load. An invalidation removes a
// value. A stale value is served only while the database does not answer.
import type { LRUCache } from 'lru-cache';
import { recentMap } from '../lib/recent-map.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';

interface Entry<V> {
  readonly value: V;
  readonly loadedAt: number;
}

export interface FreshCacheOptions<V> {
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
  /** Reads one value; undefined if there is none, which is never cached. */
  readonly load: (key: string) => Promise<V | undefined>;
}

/**
 * How long (ms) a caller waits for a load if an older value could be served. A server that hangs refuses nothing: otherwise each
 * request would wait for the whole deadline of a connection or a statement.
 */
const PATIENCE = 500;

interface Load<V> {
  readonly result: Promise<V | undefined>;
  /** Resolves when the load has taken too long. */
  readonly late: Promise<void>;
  settled: boolean;
}

export class FreshCache<V extends object> {
  readonly #entries: LRUCache<string, Entry<V>>;
  readonly #loads = new Map<string, Load<V>>();
  /** Values that were loaded before this time are not fresh. */
  #trustedSince = -Infinity;

  constructor(private readonly options: FreshCacheOptions<V>) {
    this.#entries = recentMap(options.max);
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
    return performance.now() - entry.loadedAt < this.options.freshFor() ? entry.value : undefined;
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
    return load.result;
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

  #load(key: string): Load<V> {
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, PATIENCE)));
    const result = this.#fill(key, () => this.#loads.get(key) === load).finally(() => {
      load.settled = true;
      clearTimeout(timer);
    });
    const load: Load<V> = { result, late, settled: false };
    this.#loads.set(key, load);
    return load;
  }

  async #fill(key: string, isCurrent: () => boolean): Promise<V | undefined> {
    // Wait for a turn of the event loop first, so that the load is registered before it can end.
    await Promise.resolve();
    const startedAt = performance.now();
    try {
      const value = await this.options.load(key);
      if (isCurrent()) {
        if (value) this.#entries.set(key, { value, loadedAt: startedAt - (this.options.ageOf?.(value) ?? 0) });
        else this.#entries.delete(key);
      }
      return value;
    } catch (error) {
      const known = this.#stale(key);
      if (known && error instanceof DatabaseFault) return known.value;
      throw error;
    } finally {
      if (isCurrent()) this.#loads.delete(key);
    }
  }
}
