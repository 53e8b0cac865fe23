// Exchanges with the other replicas what this replica took from shared buckets, through Redis and in batches.
import { randomBytes } from 'node:crypto';
import type { Bucket } from './bucket.js';
import { EXCHANGE } from './counts-script.js';
import type { SharedStore } from './shared-store.js';

/** Time (ms) between two exchanges. */
const EVERY = 100;

/** The most buckets in one exchange. */
const BATCH = 200;

/** The most buckets that wait for an exchange. A bucket beyond that is exchanged only when it is taken from again. */
const MAX_WAITING = 200_000;

/** The number of replicas to assume until Redis reports it. */
const UNKNOWN_REPLICAS = 2;

/**
 * If Redis reports fewer replicas than before, the higher number counts for this long (ms): a replica that lost Redis may still
 * serve.
 */
const REMEMBERED_FOR = 15_000;

/** After Redis lost data, the replicas have this long (ms) to send again what they know. */
const MENDED_WITHIN = 1_000;

/**
 * After MENDED_WITHIN the replicas stay apart for this long (ms), until each has sent what it took meanwhile. They do not all come
 * back at the same time.
 */
const SENT_WITHIN = 500;

/**
 * - *together*: Redis answers. Buckets are as Redis reported at the last exchange.
 * - *apart*: Redis does not answer, or has lost data within the last 1.5 seconds. Each replica has its own part of each limit.
 *
 *     together ── no answer, another epoch ──→ apart ── an answer, and 1.5 s after Redis came back ──→ together
 *
 * When Redis comes back, or has another epoch (it was emptied), every replica sends the most that can be left in each bucket. It
 * sends what it took meanwhile a second later: sent earlier, another replica's bound would hide it.
 */
export class CountsExchange {
  readonly #id = randomBytes(9).toString('base64url');
  readonly #waiting = new Set<Bucket>();
  readonly #timer: NodeJS.Timeout;
  #urgent = new Set<Bucket>();
  #next: Promise<void> | undefined;
  #underWay = false;
  #number = 0;
  #epoch: string | undefined;
  #replicas = UNKNOWN_REPLICAS;
  #replicasAt = -Infinity;
  #failing = false;
  #mendedAt = -Infinity;
  #closed = false;

  /**
   * @param live all buckets that may not be full
   * @param onLoss called when Redis may have lost data
   */
  constructor(
    private readonly store: SharedStore,
    private readonly live: () => Iterable<Bucket>,
    private readonly now: () => number,
    private readonly onLoss: () => void,
  ) {
    let known = store.available;
    store.onChange((available) => {
      if (!available) return;
      // After an absence Redis may be an older copy of itself, with the same epoch. Before this replica first reached Redis,
      // Redis was away for this replica only.
      if (known) this.#mend();
      else this.onLoss();
      known = true;
    });
    this.#timer = setInterval(() => void this.#tick(), EVERY).unref();
    void this.#tick();
  }

  /** The number of replicas that share the limits. */
  get replicas(): number {
    return this.#replicas;
  }

  /** Whether each replica keeps to its own part of each limit. */
  get apart(): boolean {
    return !this.store.available || this.#failing || this.now() < this.#mendedAt + SENT_WITHIN;
  }

  /** Call this when the bucket was taken from. The bucket is exchanged within 100 ms. */
  changed(bucket: Bucket): void {
    if (this.#waiting.size < MAX_WAITING) this.#waiting.add(bucket);
  }

  /** Exchanges the bucket now. Resolves within REDIS_TIMEOUT_MS when the exchange has ended, even if it failed. */
  soon(bucket: Bucket): Promise<void> {
    if (bucket.flight) return bucket.flight;
    this.#urgent.add(bucket);
    // Buckets of the same turn of the event loop form one batch.
    this.#next ??= new Promise((resolve) => {
      setImmediate(() => {
        const urgent = this.#urgent;
        this.#urgent = new Set();
        this.#next = undefined;
        void this.#exchange(urgent).then(resolve);
      });
    });
    return this.#next;
  }

  /** Whether the replicas are sending Redis what it has lost. */
  get #mending(): boolean {
    return this.now() < this.#mendedAt;
  }

  close(): void {
    this.#closed = true;
    clearInterval(this.#timer);
  }

  /**
   * This exchanges even without a waiting bucket: the other replicas then count this one, and it notices that Redis was emptied.
   */
  async #tick(): Promise<void> {
    if (this.#underWay || !this.store.available || this.#closed) return;
    this.#underWay = true;
    // While bounds are sent, takes wait: they are subtracted from what all replicas together know.
    await this.#exchange(this.#mending ? [...this.#waiting].filter(({ mends }) => mends) : this.#waiting, true);
    this.#underWay = false;
  }

  /** Never rejects. */
  async #exchange(buckets: Iterable<Bucket>, evenIfNone = false): Promise<void> {
    const all = [...buckets];
    for (let from = 0; from < all.length || (evenIfNone && from === 0); from += BATCH) {
      const batch = all.slice(from, from + BATCH).filter(({ flight }) => flight === undefined);
      if (batch.length === 0 && !(evenIfNone && from === 0)) continue;
      const flight = this.#send(batch).finally(() => {
        for (const bucket of batch) bucket.flight = undefined;
      });
      for (const bucket of batch) bucket.flight = flight;
      await flight;
    }
  }

  async #send(batch: readonly Bucket[]): Promise<void> {
    const keys = ['counts:epoch', 'counts:replicas', ...batch.map(({ key }) => key)];
    const args: (string | number)[] = [this.#id, randomBytes(9).toString('base64url')];
    const boundsOnly = this.#mending;
    for (const bucket of batch) {
      const bound = bucket.mends ? String(bucket.left + bucket.pending) : '';
      const { taken, number } = boundsOnly ? { taken: 0, number: 0 } : bucket.send(() => (this.#number += 1));
      args.push(taken, number, bound, bucket.size, bucket.refill);
    }
    const mending = batch.filter(({ mends }) => mends);
    for (const bucket of batch) {
      bucket.mends = false;
      this.#waiting.delete(bucket);
    }
    let answer: readonly [epoch: string, replicas: number, ...left: string[]];
    try {
      answer = await this.store.run(EXCHANGE, keys, args);
    } catch {
      this.#failing = true;
      for (const bucket of mending) bucket.mends = true;
      for (const bucket of batch) this.changed(bucket);
      return;
    }
    this.#failing = false;
    const [epoch, replicas, ...left] = answer;
    for (const [index, bucket] of batch.entries()) {
      bucket.turn(bucket.size, this.#replicas, this.now());
      if (!boundsOnly) bucket.confirmed();
      bucket.learned(Number(left[index]));
      if (bucket.pending > 0) this.changed(bucket);
    }
    this.#count(replicas);
    const former = this.#epoch;
    this.#epoch = epoch;
    if (former !== undefined && former !== epoch) this.#mend();
  }

  #count(replicas: number): void {
    const now = this.now();
    if (replicas < this.#replicas && now - this.#replicasAt < REMEMBERED_FOR) return;
    this.#replicas = replicas;
    this.#replicasAt = now;
  }

  #mend(): void {
    const now = this.now();
    this.#mendedAt = now + MENDED_WITHIN;
    this.onLoss();
    for (const bucket of this.live()) {
      bucket.turn(bucket.size, this.#replicas, now);
      if (bucket.left >= bucket.size && bucket.pending === 0) continue;
      bucket.mends = true;
      this.changed(bucket);
    }
  }
}
