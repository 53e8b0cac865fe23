// How many requests each tenant makes, in this process: a bucket for each tenant that has a limit, which fills at its rate and
// holds a second's worth.
import { LRUCache } from 'lru-cache';

/** Tenants counted at once; one that is forgotten begins anew with a full bucket. */
const MAX_COUNTED = 20_000;

interface Bucket {
  tokens: number;
  /** When they were counted, on `performance.now`. */
  at: number;
  /** The second of the last request, and those that were let through in it and in the one before. */
  second: number;
  inSecond: number;
  inSecondBefore: number;
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
      bucket = { tokens: rate, at: now, second: secondOf(now), inSecond: 0, inSecondBefore: 0 };
      this.#buckets.set(tenantId, bucket);
    }
    bucket.tokens = Math.min(rate, bucket.tokens + ((now - bucket.at) * rate) / 1_000);
    bucket.at = now;
    if (bucket.tokens < 1) return false;
    bucket.tokens -= 1;
    turn(bucket, secondOf(now));
    bucket.inSecond += 1;
    return true;
  }

  /** Requests that were let through in this second or in the one before, whichever had more. */
  recent(tenantId: string): number {
    const bucket = this.#buckets.peek(tenantId);
    if (!bucket) return 0;
    turn(bucket, secondOf(this.now()));
    return Math.max(bucket.inSecond, bucket.inSecondBefore);
  }
}

const secondOf = (now: number): number => Math.floor(now / 1_000);

function turn(bucket: Bucket, second: number): void {
  if (bucket.second === second) return;
  bucket.inSecondBefore = bucket.second === second - 1 ? bucket.inSecond : 0;
  bucket.inSecond = 0;
  bucket.second = second;
}
