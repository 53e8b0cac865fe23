// How many requests each tenant makes, for all replicas together: a bucket for each tenant that has a limit, which fills at its
// rate and holds a second's worth. And how many this process let through lately.
import { LRUCache } from 'lru-cache';
import type { Limiter } from '../replicas/counts.js';

/** Tenants counted at once. */
const MAX_COUNTED = 20_000;

/** ms in which a bucket is full again: a tenant that was quiet may send a second's worth at once. */
export const RATE_REFILL = 1_000;

/** Requests that were let through in a second and in the one before. */
interface Recent {
  second: number;
  inSecond: number;
  inSecondBefore: number;
}

export class RequestRates {
  readonly #recent = new LRUCache<string, Recent>({ max: MAX_COUNTED });

  /**
   * @param limiter with a refill of `RATE_REFILL`
   * @param now ms on one clock; for tests
   */
  constructor(
    readonly limiter: Limiter,
    private readonly now: () => number = () => performance.now(),
  ) {}

  /**
   * Takes one request out of the tenant's bucket.
   *
   * @param rate requests a second; also what the bucket holds
   * @returns 0, or the time (ms) until there is one again if there was none left; a promise only if the other replicas have to
   *   be asked first
   */
  take(tenantId: string, rate: number): number | Promise<number> {
    const wait = this.limiter.take(tenantId, rate);
    if (typeof wait !== 'number') return wait.then((after) => this.#count(tenantId, after));
    return this.#count(tenantId, wait);
  }

  /** Requests that this process let through in this second or in the one before, whichever had more. */
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
