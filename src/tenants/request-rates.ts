// Limits how many requests each tenant makes, over all replicas together. Each tenant with a limit has a bucket, which fills at
// its rate and holds one second's worth. Also counts the requests that this process let through lately.
import { recentMap } from '../lib/recent-map.js';
import type { Limiter } from '../replicas/counts.js';

/** The most tenants that are counted at once. */
const MAX_COUNTED = 20_000;

/** Time (ms) in which a bucket is full again. After a quiet second, a tenant may send a second's worth at once. */
export const RATE_REFILL = 1_000;

/** Requests that were let through in a second and in the second before. */
interface Recent {
  second: number;
  inSecond: number;
  inSecondBefore: number;
}

export class RequestRates {
  readonly #recent = recentMap<string, Recent>(MAX_COUNTED);

  /**
   * @param limiter a limiter with a refill of `RATE_REFILL`
   * @param now ms on one clock; for tests
   */
  constructor(
    readonly limiter: Limiter,
    private readonly now: () => number = () => performance.now(),
  ) {}

  /**
   * Takes one request out of the tenant's bucket.
   *
   * @param rate requests a second; also the size of the bucket
   * @returns 0 if the request was taken, otherwise the time (ms) until the bucket has one again; a promise only if the other
   *   replicas must be asked first
   */
  take(tenantId: string, rate: number): number | Promise<number> {
    const wait = this.limiter.take(tenantId, rate);
    if (typeof wait !== 'number') return wait.then((after) => this.#count(tenantId, after));
    return this.#count(tenantId, wait);
  }

  /** Requests that this process let through in this second or in the second before, whichever is more. */
  recent(tenantId: string): number {
    const recent = this.#recent.peek(tenantId);
    if (!recent) return 0;
    turn(recent, secondOf(this.now()));
    return Math.max(recent.inSecond, recent.inSecondBefore);
  }

  #count(tenantId: string, wait: number): number {
    if (wait > 0) return wait;
    const second = secondOf(this.now());
    let recent = this.#recent.get(tenantId);
    if (!recent) {
      recent = { second, inSecond: 0, inSecondBefore: 0 };
      this.#recent.set(tenantId, recent);
    }
    turn(recent, second);
    recent.inSecond += 1;
    return wait;
  }
}

const secondOf = (now: number): number => Math.floor(now / 1_000);

function turn(recent: Recent, second: number): void {
  if (recent.second === second) return;
  recent.inSecondBefore = recent.second === second - 1 ? recent.inSecond : 0;
  recent.inSecond = 0;
  recent.second = second;
}
