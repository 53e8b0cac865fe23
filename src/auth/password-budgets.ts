// How many requests that hash a password an account, and a tenant, may make, on all replicas together: two token buckets.
// Signing in has limits of its own (throttle.ts).
import { AppError } from '../errors.js';
import type { Counts, Limiter } from '../replicas/counts.js';
import { payerOf } from './passwords.js';
import type { Principal } from './tokens.js';

/** Time (ms) in which an empty bucket is full again. */
export const REFILL = 30_000;

/** Buckets kept of each kind. */
const MAX_KEPT = 20_000;

/** Requests at once, and in each `REFILL`. All operators together are counted as one tenant. */
export interface PasswordBudgetLimits {
  readonly account: number;
  readonly tenant: number;
}

export class PasswordBudgets {
  readonly #accounts: Limiter;
  readonly #tenants: Limiter;

  constructor(
    private readonly limits: PasswordBudgetLimits,
    private readonly counts: Counts,
  ) {
    this.#accounts = counts.limiter('password-account', REFILL, MAX_KEPT);
    this.#tenants = counts.limiter('password-tenant', REFILL, MAX_KEPT);
  }

  /**
   * Takes one request of the caller's, or nothing if either bucket is empty: an account that is refused costs its tenant nothing.
   *
   * @throws AppError `rate-limited` with the seconds until both buckets have one
   */
  async take(principal: Principal): Promise<void> {
    const tenant = payerOf(principal);
    const id = principal.kind === 'user' ? principal.userId : principal.operatorId;
    const wait = await this.counts.takeAll([
      // Ids are unique within one tenant only.
      [this.#accounts, `${tenant} ${id}`, this.limits.account],
      [this.#tenants, tenant, this.limits.tenant],
    ]);
    if (wait > 0) throw new AppError('rate-limited', { retryAfter: Math.ceil(wait / 1_000) });
  }
}
