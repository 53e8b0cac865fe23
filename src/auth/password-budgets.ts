// How many requests that hash a password an account, and a tenant, may make in this process: two token buckets. Signing in has
// limits of its own (throttle.ts).
import { LRUCache } from 'lru-cache';
import { AppError } from '../errors.js';
import { payerOf } from './passwords.js';
import type { Principal } from './tokens.js';

/** Time (ms) in which an empty bucket is full again. */
export const REFILL = 30_000;

/** Buckets kept of each kind. One that is forgotten is full when it is needed again; after `REFILL` without use it is anyway. */
const MAX_KEPT = 20_000;

/** Requests at once, and in each `REFILL`. All operators together are counted as one tenant. */
export interface PasswordBudgetLimits {
  readonly account: number;
  readonly tenant: number;
}

export class PasswordBudgets {
  readonly #accounts: Buckets;
  readonly #tenants: Buckets;

  /** @param now ms on one clock; for tests */
  constructor({ account, tenant }: PasswordBudgetLimits, now: () => number = () => performance.now()) {
    this.#accounts = new Buckets(account, now);
    this.#tenants = new Buckets(tenant, now);
  }

  /**
   * Takes one request of the caller's, or nothing if either bucket is empty: an account that is refused costs its tenant nothing.
   *
   * @throws AppError `rate-limited` with the seconds until both buckets have one
   */
  take(principal: Principal): void {
    const tenant = payerOf(principal);
    const id = principal.kind === 'user' ? principal.userId : principal.operatorId;
    // Ids are unique within one tenant only.
    const account = `${tenant} ${id}`;
    const wait = Math.max(this.#accounts.waitOf(account), this.#tenants.waitOf(tenant));
    if (wait > 0) throw new AppError('rate-limited', { retryAfter: Math.ceil(wait / 1_000) });
    this.#accounts.take(account);
    this.#tenants.take(tenant);
  }
}

class Buckets {
  readonly #kept = new LRUCache<string, { readonly tokens: number; readonly at: number }>({ max: MAX_KEPT });

  constructor(
    private readonly size: number,
    private readonly now: () => number,
  ) {}

  /** ms until there is a token. */
  waitOf(key: string): number {
    return Math.max(0, ((1 - this.#tokens(key)) * REFILL) / this.size);
  }

  take(key: string): void {
    this.#kept.set(key, { tokens: this.#tokens(key) - 1, at: this.now() });
  }

  #tokens(key: string): number {
    const bucket = this.#kept.get(key);
    return bucket ? Math.min(this.size, bucket.tokens + ((this.now() - bucket.at) * this.size) / REFILL) : this.size;
  }
}
