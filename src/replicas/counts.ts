// Limits on how often something may be done, over all replicas together. The counts are in Redis if it is configured, otherwise
// in this process.
import type { LRUCache } from 'lru-cache';
import { recentMap } from '../lib/recent-map.js';
import { Bucket } from './bucket.js';
import { CountsExchange } from './counts-exchange.js';
import type { SharedStore } from './shared-store.js';

/** The part of a limit that all replicas together may take before they exchange it. */
const UNSEEN = 0.05;

/** The longest (ms) that one request waits for exchanges. After that it is refused: Redis cannot keep up with the requests. */
const PATIENCE = 500;

/** Such a request may come again after this time (ms). */
const CROWDED = 1_000;

/**
 * The most keys that one limiter counts. The least recently used key is forgotten first, and then has a full bucket in this
 * process.
 */
const MAX_KEYS = 100_000;

/** The state of one key. */
export interface Quota {
  /** How often the key may be used now. */
  readonly left: number;
  /** Time (ms) until the bucket is full again. */
  readonly full: number;
}

/** One limit on one key of a limiter. */
export type Use = readonly [limiter: Limiter, key: string, size: number];

/**
 * Counts on one subject, such as requests by address. Each key has a bucket that holds `size` and fills at a steady rate.
 *
 * With Redis the bucket is shared. `chunk = max(1, size × 5 % / replicas)`. No request asks Redis until this replica has taken a
 * chunk since its last exchange; then the next request waits for an exchange. So all replicas together let through at most
 * `replicas × chunk - 1` more than the bucket holds: 5 % of the limit, or one for each other replica. The surplus is missing from
 * the bucket afterwards.
 */
export class Limiter {
  readonly #buckets: LRUCache<string, Bucket>;

  /** Made by `Counts.limiter`. */
  constructor(
    private readonly counts: Counts,
    readonly name: string,
    readonly refill: number,
    maxKeys: number,
  ) {
    this.#buckets = recentMap(maxKeys);
  }

  /**
   * Takes one, or nothing if none is left.
   *
   * @param size how many the full bucket holds
   * @returns 0 if one was taken, otherwise the time (ms) until one is left; a promise only if an exchange is due
   */
  take(key: string, size: number): number | Promise<number> {
    return this.counts.takeFrom([this.bucket(key, size)]);
  }

  /** The state of a key, as far as this replica knows. */
  look(key: string, size: number): Quota {
    const bucket = this.#buckets.peek(key);
    if (!bucket) return { left: size, full: 0 };
    return this.counts.quotaOf(bucket, size);
  }

  /** The up-to-date bucket of a key. */
  bucket(key: string, size: number): Bucket {
    const { now, replicas } = this.counts;
    const time = now();
    let bucket = this.#buckets.get(key);
    if (bucket) bucket.turn(size, replicas, time);
    else {
      bucket = new Bucket(`counts:${this.name}:${key}`, this.refill, size, replicas, time);
      this.#buckets.set(key, bucket);
    }
    return bucket;
  }

  /** All buckets that are known. */
  buckets(): Iterable<Bucket> {
    return this.#buckets.values();
  }
}

export class Counts {
  readonly #limiters: Limiter[] = [];
  readonly #listeners: (() => void)[] = [];
  #exchange: CountsExchange | undefined;

  /** @param now time (ms) on a clock that is never set; for tests */
  constructor(readonly now: () => number = () => performance.now()) {}

  /**
   * @param name a name that no other limiter has
   * @param refill time (ms) in which an empty bucket becomes full again
   */
  limiter(name: string, refill: number, maxKeys = MAX_KEYS): Limiter {
    const limiter = new Limiter(this, name, refill, maxKeys);
    this.#limiters.push(limiter);
    return limiter;
  }

  /** After this call, all replicas that use the same store count together. */
  share(store: SharedStore): void {
    this.#exchange = new CountsExchange(
      store,
      () => this.#live(),
      this.now,
      () => {
        for (const listener of this.#listeners) listener();
      },
    );
  }

  /** Calls `listener` when Redis becomes usable, and when it was emptied: its other data may be missing or old. */
  onLoss(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** Ends the exchange. */
  close(): void {
    this.#exchange?.close();
  }

  /** The number of replicas that share the limits; 1 without a store. */
  get replicas(): number {
    return this.#exchange?.replicas ?? 1;
  }

  /** Takes one from each limit, or none from any. @returns as `Limiter.take`; the time is the longest wait */
  takeAll(uses: readonly Use[]): number | Promise<number> {
    return this.takeFrom(uses.map(([limiter, key, size]) => limiter.bucket(key, size)));
  }

  /** @param buckets up-to-date buckets */
  takeFrom(buckets: readonly Bucket[]): number | Promise<number> {
    const wait = this.#waitOf(buckets, this.#exchange?.apart ?? false);
    if (wait > 0) return wait;
    if (this.#exchange && buckets.some((bucket) => this.#mustExchange(bucket)))
      return this.#takeLater(this.#exchange, buckets);
    this.#take(buckets);
    return 0;
  }

  quotaOf(bucket: Bucket, size: number): Quota {
    bucket.turn(size, this.replicas, this.now());
    const left = this.#exchange?.apart ? Math.min(bucket.left, bucket.part) : bucket.left;
    return { left: Math.max(0, Math.floor(left)), full: ((size - left) * bucket.refill) / size };
  }

  async #takeLater(exchange: CountsExchange, buckets: readonly Bucket[]): Promise<number> {
    const until = this.now() + PATIENCE;
    for (;;) {
      const due = buckets.filter((bucket) => this.#mustExchange(bucket));
      const flights = due.map((bucket) => exchange.soon(bucket));
      await (flights.length === 1 ? flights[0] : Promise.all(flights));
      for (const bucket of buckets) bucket.turn(bucket.size, this.replicas, this.now());
      const wait = this.#waitOf(buckets, exchange.apart);
      if (wait > 0) return wait;
      // Other requests that waited may have taken the whole chunk.
      if (!buckets.some((bucket) => this.#mustExchange(bucket))) {
        this.#take(buckets);
        return 0;
      }
      if (this.now() >= until) return CROWDED;
    }
  }

  #waitOf(buckets: readonly Bucket[], apart: boolean): number {
    const { replicas } = this;
    let longest = 0;
    for (const bucket of buckets) longest = Math.max(longest, bucket.waitOf(replicas, apart));
    return longest;
  }

  #take(buckets: readonly Bucket[]): void {
    const exchange = this.#exchange;
    for (const bucket of buckets) {
      bucket.take();
      if (!exchange) continue;
      exchange.changed(bucket);
      // This starts an exchange half a chunk before requests would have to wait for it.
      if (!exchange.apart && bucket.pending >= this.#chunkOf(bucket) / 2) void exchange.soon(bucket);
    }
  }

  #mustExchange(bucket: Bucket): boolean {
    return this.#exchange?.apart === false && bucket.pending >= this.#chunkOf(bucket);
  }

  #chunkOf({ size }: Bucket): number {
    return Math.max(1, Math.floor((size * UNSEEN) / this.replicas));
  }

  *#live(): Iterable<Bucket> {
    for (const limiter of this.#limiters) yield* limiter.buckets();
  }
}
