// Brute-force protection: how soon the next password may be tried on an account, from an address and within a tenant. Accounts
// are never locked. Each further failure makes the wait longer, up to a bound, and failures expire.
import { createHash } from 'node:crypto';
import { isIPv6 } from 'node:net';
import { AppError, RateLimited, type ErrorCode } from '../errors.js';
import type { AttemptStore, Budget, Wait } from './attempts.js';

export interface ThrottleLimits {
  /** Failures on one account without a wait. */
  readonly account: number;
  /**
   * Failures from one address without a wait: an IPv4 address, or an IPv6 /64, which is the network of one customer of a
   * provider.
   */
  readonly address: number;
  /** Failures within one tenant without a wait, on all its accounts together. */
  readonly tenant: number;
  /** Failures decay linearly; after this time (ms) the full free allowance is back. */
  readonly forget: number;
}

/** `rate-limited`, with the reason for the audit. */
export class Throttled extends RateLimited {
  constructor(readonly wait: Wait) {
    // The audit trail reports the first refusal of each wait.
    super(`failures-${wait.on}`, wait.left, null);
  }
}

/** The names of a tenant in the directory. */
interface TenantNames {
  readonly id: string;
  readonly slug: string;
}

/** The budgets of an attempt: a success clears the failures on the account, and no others. */
interface Counted {
  readonly account: readonly Budget[];
  readonly others: readonly Budget[];
}

export interface Throttle {
  /**
   * One attempt to sign in as a user. `tenant` is the slug or id that the client sent. The attempt can be refused on that alone,
   * before any look-up. `work` calls `resolved` with the tenant that it found, before it checks the password. The attempt then
   * also counts on the tenant's other name, so that two names do not give two budgets.
   *
   * A failure (`invalid-credentials`) stays counted. A success clears the failures of the account. Any other error says nothing
   * about the password, and does not count.
   *
   * @throws Throttled without running `work`, or from `resolved`
   */
  user<T>(
    attempt: { readonly tenant: string; readonly email: string; readonly address: string },
    work: (resolved: (tenant: TenantNames | undefined) => Promise<void>) => Promise<T>,
  ): Promise<T>;
  /** One attempt to sign in as an operator: all operators are counted like one tenant. @throws as above */
  operator<T>(attempt: { readonly email: string; readonly address: string }, work: () => Promise<T>): Promise<T>;
  /**
   * One attempt of a signed-in account to confirm its own password (`wrong-password` if it fails).
   *
   * @param realm the tenant's id, or `operators`
   * @throws as above
   */
  confirmation<T>(realm: string, accountId: string, work: () => Promise<T>): Promise<T>;
}

export function createThrottle(limits: ThrottleLimits, store: AttemptStore): Throttle {
  // Hashed, so that every remembered key has the same size, whatever the client sent.
  const budget = (on: Budget['on'], ...parts: string[]): Budget => ({
    on,
    key: createHash('sha256').update(JSON.stringify(parts)).digest('base64'),
    free: limits[on],
  });
  const from = (address: string): Budget => budget('address', 'address', networkOf(address));
  const within = (email: string, ...realm: string[]): Counted => ({
    account: [budget('account', 'account', ...realm, email)],
    others: [budget('tenant', ...realm)],
  });

  async function attempt<T>(on: Counted, work: (count: (more: Counted) => Promise<void>) => Promise<T>): Promise<T> {
    const account: Budget[] = [];
    const others: Budget[] = [];
    // Counted before the outcome is known: otherwise a hundred attempts at once would all find no failures yet.
    const count = async (more: Counted): Promise<void> => {
      const wait = await store.take([...more.account, ...more.others]);
      if (wait) throw new Throttled(wait);
      account.push(...more.account);
      others.push(...more.others);
    };
    await count(on);
    let result: T;
    try {
      result = await work(count);
    } catch (error) {
      await (isFailure(error) ? store.failed([...account, ...others]) : store.giveBack([...account, ...others]));
      throw error;
    }
    await store.giveBack(others);
    await store.clear(account);
    return result;
  }

  return {
    user({ tenant, email, address }, work) {
      const asSent = within(email, 'tenant', tenant);
      return attempt({ ...asSent, others: [...asSent.others, from(address)] }, (count) =>
        work((found) => {
          // An unknown name is counted twice as well, so that the work and the stored data are the same as for a known name.
          if (!found) return count(within(email, 'nobody', tenant));
          return count(within(email, 'tenant', tenant === found.id ? found.slug : found.id));
        }),
      );
    },

    operator({ email, address }, work) {
      const asSent = within(email, 'operators');
      return attempt({ ...asSent, others: [...asSent.others, from(address)] }, work);
    },

    confirmation: (realm, accountId, work) =>
      attempt({ account: [budget('account', 'confirmation', realm, accountId)], others: [] }, work),
  };
}

const failures: readonly ErrorCode[] = ['invalid-credentials', 'wrong-password'];

function isFailure(error: unknown): boolean {
  return error instanceof AppError && failures.includes(error.code);
}

/** IPv4 unchanged, also in IPv6 notation (RFC 4291, 2.5.5.2); of IPv6 the first 64 bits. */
function networkOf(address: string): string {
  if (!isIPv6(address)) return address;
  const [, mapped] = /^::ffff:([\d.]+)$/i.exec(address) ?? [];
  if (mapped !== undefined) return mapped;
  const [head = '', tail] = address.split('::');
  const groups = head === '' ? [] : head.split(':');
  // "::" means at least one group of zeros. The tail counts only if it reaches into the first four groups.
  const behind = tail === undefined || tail === '' ? [] : tail.split(':');
  const width = behind.length + (behind.at(-1)?.includes('.') ? 1 : 0);
  while (tail !== undefined && groups.length + width < 8) groups.push('0');
  return [...groups, ...behind]
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':');
}
