// Limits the requests that hash a password, for each account and each tenant, on all replicas together: two token buckets.
// Sign-in has its own limits (throttle.ts).
import { RateLimited } from '../errors.js';
import type { Counts, Limiter } from '../replicas/counts.js';
import { payerOf } from './passwords.js';
import type { Principal } from './tokens.js';

/** Time (ms) in which an empty bucket is full again. */
export const REFILL = 30_000;

/** Buckets of each kind that are kept. */
const MAX_KEPT = 20_000;

/** Requests allowed at once, and in each `REFILL`. All operators together count as one tenant. */
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
   * Takes one request from both of the caller's buckets, or none if either is empty. So a refused account costs its tenant
   * nothing.
   *
   * @throws AppError `rate-limited` with the seconds until both buckets have a request
   */
  async take(principal: Principal): Promise<void> {
    const tenant = payerOf(principal);
    const id = principal.kind === 'user' ? principal.userId : principal.operatorId;
    const wait = await this.counts.takeAll([
      // Ids are unique within one tenant only.
      [this.#accounts, `${tenant} ${id}`, this.limits.account],
      [this.#tenants, tenant, this.limits.tenant],
    ]);
    if (wait > 0) throw new RateLimited('password', wait);
  }
}
