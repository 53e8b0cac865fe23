// What the process remembers of a database row, and for how long: fresh for a moment, shared by all who ask at once, taken
// back by an invalidation, and served stale only while the database does not answer.
import { LRUCache } from 'lru-cache';
import { DatabaseFault } from '../../db/driver/database-fault.js';

interface Entry<V> {
  readonly value: V;
  readonly loadedAt: number;
}

export interface FreshCacheOptions<V> {
  /** Entries kept at most; the one that was loaded longest ago goes first. */
  readonly max: number;
  /** A value younger than this (ms) is served as it is; asked each time, since it depends on whether invalidations arrive. */
  readonly freshFor: () => number;
  /**
   * While it is not known whether an invalidation was missed, and soon will be: resolves when it is. A value that is not fresh for
   * no other reason is looked at again then, and not loaded.
   */
  readonly caughtUp?: () => Promise<void> | undefined;
  /** The age (ms) that a value has already when it is loaded: what was read from a copy. */
  readonly ageOf?: (value: V) => number;
  /** While loading fails for a fault of the database, or takes too long, a value younger than this (ms) is served. */
  readonly staleFor: number;
  /** Reads one value; undefined where there is none, which is never remembered. */
  readonly load: (key: string) => Promise<V | undefined>;
}

/**
 * How long (ms) a load is waited for where an older value could be served. A server that hangs refuses nothing: each
 * request would otherwise wait for the whole deadline of a connection or a statement.
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
  /** What was loaded before is not fresh. */
  #trustedSince = -Infinity;

  constructor(private readonly options: FreshCacheOptions<V>) {
    this.#entries = new LRUCache({ max: options.max });
  }

  /** The value where it is known and fresh, without waiting: the warm path allocates no promise. */
  peek(key: string): V | undefined {
    // Not counted as a use, which would cost more than the look-up: loading anew, as every value must be in time, counts.
    const entry = this.#entries.peek(key);
    if (!entry || entry.loadedAt < this.#trustedSince) return undefined;
    return performance.now() - entry.loadedAt < this.options.freshFor() ? entry.value : undefined;
  }

  /**
   * The value, loaded where it is not fresh; requests that arrive together share one load.
   *
   * @throws what `load` throws, where nothing young enough is known
   */
  async get(key: string): Promise<V | undefined> {
    return (
      this.peek(key) ?? (await this.#peekLater(key)) ?? this.#outcome(key, this.#loads.get(key) ?? this.#load(key))
    );
  }

  /** The value as it is now, whatever is known; that still bridges an outage. @throws as `get` does */
  async reload(key: string): Promise<V | undefined> {
    // Not one that is under way: it may have read before what the caller knows of.
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
      // Looked up again: an invalidation may have come while this waited.
      const known = this.#stale(key);
      if (!load.settled && known) return known.value;
    }
    return load.result;
  }

  /** Nothing is fresh any more: invalidations may have been missed. What is known still bridges an outage. */
  expire(): void {
    this.#trustedSince = performance.now();
    this.#loads.clear();
  }

  /** Forgets a value. A load under way may have read the old row: its callers get it, the cache does not. */
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
    // A turn of the event loop first, so that the load is registered before it can end.
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
