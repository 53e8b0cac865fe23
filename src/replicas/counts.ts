// Limits on how often something may be done, for all replicas together: in Redis where there is one, otherwise in this process.
import { LRUCache } from 'lru-cache';
import { Bucket } from './bucket.js';
import { CountsExchange } from './counts-exchange.js';
import type { SharedStore } from './shared-store.js';

/** The part of a limit that all replicas together may take without having exchanged it. */
const UNSEEN = 0.05;

/** How long (ms) one request waits for exchanges. Then it is refused: more requests come at once than Redis answers for. */
const PATIENCE = 500;

/** After which time (ms) such a request may come again. */
const CROWDED = 1_000;

/** Keys that one limiter counts. The least recently used one is forgotten first, and then has a full bucket in this process. */
const MAX_KEYS = 100_000;

/** How things are with a key. */
export interface Quota {
  /** How often it may be done now. */
  readonly left: number;
  /** Time (ms) until the bucket is full again. */
  readonly full: number;
}

/** One limit on one key, of any limiter. */
export type Use = readonly [limiter: Limiter, key: string, size: number];

/**
 * Counts on one subject, such as requests by address. Each key has a bucket that holds `size` and fills at a steady rate.
 *
 * With Redis the bucket is shared. No request asks Redis as long as this replica has taken less than a chunk since its last
 * exchange, `chunk = max(1, size × 5 % / replicas)`; beyond it the next request waits for an exchange. So all replicas together
 * let through at most `replicas × chunk - 1` more than the bucket holds: 5 % of the limit, or one for each other replica.
 * What was let through in excess is missing from the bucket afterwards.
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
    this.#buckets = new LRUCache({ max: maxKeys });
  }

  /**
   * Takes one, or nothing where none is left.
   *
   * @param size how many the full bucket holds
   * @returns 0 if it was taken, otherwise the time (ms) until one is left; a promise only if an exchange is due
   */
  take(key: string, size: number): number | Promise<number> {
    return this.counts.takeFrom([this.bucket(key, size)]);
  }

  /** How things are, as far as this replica knows. */
  look(key: string, size: number): Quota {
    const bucket = this.#buckets.peek(key);
    if (!bucket) return { left: size, full: 0 };
    return this.counts.quotaOf(bucket, size);
  }

  /** The bucket of a key, up to date. */
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

  /** @param now ms, of a clock that is never set; for tests */
  constructor(readonly now: () => number = () => performance.now()) {}

  /**
   * @param name no two limiters have the same
   * @param refill ms in which an empty bucket is full again
   */
  limiter(name: string, refill: number, maxKeys = MAX_KEYS): Limiter {
    const limiter = new Limiter(this, name, refill, maxKeys);
    this.#limiters.push(limiter);
    return limiter;
  }

  /** From now on all replicas that use the same store count together. */
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

  /** Calls `listener` when Redis can be used, and when it was emptied: what else it held may be gone or old. */
  onLoss(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** Ends the exchange. */
  close(): void {
    this.#exchange?.close();
  }

  /** How many replicas share the limits; 1 without a store. */
  get replicas(): number {
    return this.#exchange?.replicas ?? 1;
  }

  /** Takes one of each, or none of any. @returns as `Limiter.take`, the longest wait */
  takeAll(uses: readonly Use[]): number | Promise<number> {
    return this.takeFrom(uses.map(([limiter, key, size]) => limiter.bucket(key, size)));
  }

  /** @param buckets up to date */
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
      // Requests that waited too may have taken the whole chunk.
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
      // Half a chunk before requests would have to wait for it.
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
