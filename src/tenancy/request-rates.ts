// How many requests each tenant makes, in this process: a bucket for each tenant that has a limit, which fills at its rate and
// holds a second's worth.
import { LRUCache } from 'lru-cache';

/** Tenants counted at once; one that is forgotten begins anew with a full bucket. */
const MAX_COUNTED = 20_000;

interface Bucket {
  tokens: number;
  /** When they were counted, on `performance.now`. */
  at: number;
}

export class RequestRates {
  readonly #buckets = new LRUCache<string, Bucket>({ max: MAX_COUNTED });

  /** @param now ms on one clock; for tests */
  constructor(private readonly now: () => number = () => performance.now()) {}

  /**
   * Takes one request out of the tenant's bucket. Returns whether there was one left.
   *
   * @param rate requests a second; also what the bucket holds, so that a tenant that was quiet may send as many at once
   */
  take(tenantId: string, rate: number): boolean {
    const now = this.now();
    let bucket = this.#buckets.get(tenantId);
    if (!bucket) {
      bucket = { tokens: rate, at: now };
      this.#buckets.set(tenantId, bucket);
    }
    fill(bucket, rate, now);
    if (bucket.tokens < 1) return false;
    bucket.tokens -= 1;
    return true;
  }

  /** How much of a second's worth is taken right now. */
  used(tenantId: string, rate: number): number {
    const bucket = this.#buckets.peek(tenantId);
    if (!bucket) return 0;
    fill(bucket, rate, this.now());
    return Math.ceil(rate - bucket.tokens);
  }
}

function fill(bucket: Bucket, rate: number, now: number): void {
  bucket.tokens = Math.min(rate, bucket.tokens + ((now - bucket.at) * rate) / 1_000);
  bucket.at = now;
}
