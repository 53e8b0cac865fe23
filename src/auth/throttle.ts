// Brute force: how soon the next password may be tried, on an account, from an address and within a tenant. Nobody is locked
// out: what is asked of a key that has failed often is patience, which grows, is bounded, and is forgotten.
import { createHash } from 'node:crypto';
import { isIPv6 } from 'node:net';
import { AppError, type ErrorCode } from '../errors.js';
import type { AttemptStore, Budget, Wait } from './attempts.js';

export interface ThrottleLimits {
  /** Failures on one account that cost no waiting. */
  readonly account: number;
  /** The same of one address: an IPv4 address or an IPv6 /64, which is what one customer of a provider gets. */
  readonly address: number;
  /** The same within one tenant, whatever the account. */
  readonly tenant: number;
  /** Time (ms) in which as many failures are forgotten as cost no waiting, one after the other. */
  readonly forget: number;
}

/** `rate-limited`, with the reason for the audit. */
export class Throttled extends AppError {
  constructor(readonly wait: Wait) {
    super('rate-limited', { retryAfter: Math.ceil(wait.left / 1_000) });
  }
}

/** What the directory knows of a tenant. */
interface TenantNames {
  readonly id: string;
  readonly slug: string;
}

/** What an attempt is counted on: a success forgets the failures on the account, and no others. */
interface Counted {
  readonly account: readonly Budget[];
  readonly others: readonly Budget[];
}

export interface Throttle {
  /**
   * One attempt to sign in as a user. `tenant` is what was sent, slug or id: an attempt is refused on that alone, before
   * anything is looked up. `work` calls `resolved` with what the name turned out to be, before it looks at the password: the
   * attempt then counts on the tenant's other name as well, so that two names are no two budgets.
   *
   * A failure (`invalid-credentials`) stays counted. A success forgets what the account had failed. Any other error says
   * nothing about the password, and does not count.
   *
   * @throws Throttled without running `work`, or from `resolved`
   */
  user<T>(
    attempt: { readonly tenant: string; readonly email: string; readonly address: string },
    work: (resolved: (tenant: TenantNames | undefined) => Promise<void>) => Promise<T>,
  ): Promise<T>;
  /** One attempt to sign in as an operator: the operators are counted like a tenant. @throws as above */
  operator<T>(attempt: { readonly email: string; readonly address: string }, work: () => Promise<T>): Promise<T>;
  /**
   * One attempt of somebody signed in to confirm the own password (`wrong-password` where it fails).
   *
   * @param realm the tenant's id, or `operators`
   * @throws as above
   */
  confirmation<T>(realm: string, accountId: string, work: () => Promise<T>): Promise<T>;
}

export function createThrottle(limits: ThrottleLimits, store: AttemptStore): Throttle {
  // Hashed, so that what is remembered of an attempt has one size, whatever was sent.
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
    // Counted before it is known how it ends: a hundred attempts at once would otherwise all find nothing counted yet.
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
          // A name that is nobody's is counted twice as well: the work is the same, and so is what is remembered.
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

/** IPv4 as it is, also where it is written as IPv6 (RFC 4291, 2.5.5.2); of IPv6 the first 64 bits. */
function networkOf(address: string): string {
  if (!isIPv6(address)) return address;
  const [, mapped] = /^::ffff:([\d.]+)$/i.exec(address) ?? [];
  if (mapped !== undefined) return mapped;
  const [head = '', tail] = address.split('::');
  const groups = head === '' ? [] : head.split(':');
  // What "::" stands for is at least one group of zeros; the tail counts only where that leaves room in the first four.
  const behind = tail === undefined || tail === '' ? [] : tail.split(':');
  const width = behind.length + (behind.at(-1)?.includes('.') ? 1 : 0);
  while (tail !== undefined && groups.length + width < 8) groups.push('0');
  return [...groups, ...behind]
    .slice(0, 4)
    .map((group) => Number.parseInt(group, 16).toString(16))
    .join(':');
}
