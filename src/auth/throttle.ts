// Brute force: how soon the next password may be tried, on an account, from an address and within a tenant. Nobody is locked
// out: what is asked of a key that has failed often is patience, which grows, is bounded, and is forgotten.
import { createHash } from 'node:crypto';
import { isIPv6 } from 'node:net';
import { LRUCache } from 'lru-cache';
import { AppError, type ErrorCode } from '../errors.js';

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

/** What attempts are counted on. */
export interface Budget {
  readonly on: 'account' | 'address' | 'tenant';
  /** No two things have the same. */
  readonly key: string;
  /** Failures that cost no waiting. */
  readonly free: number;
}

/** Why an attempt is refused. */
export interface Wait {
  /** Time (ms) until the next one may be made. */
  readonly left: number;
  /** What has failed too often. */
  readonly on: Budget['on'];
  /** Whether this is the first attempt that is refused because of it. */
  readonly first: boolean;
}

/** `rate-limited`, with the reason for the audit. */
export class Throttled extends AppError {
  constructor(readonly wait: Wait) {
    super('rate-limited', { retryAfter: Math.ceil(wait.left / 1_000) });
  }
}

/** Where attempts are counted: in this process, or in a place that several share. */
export interface AttemptStore {
  /**
   * Counts an attempt on each of the budgets, or on none where one of them must wait.
   *
   * @returns the longest wait, or undefined where the attempt was counted
   */
  take(budgets: readonly Budget[]): Promise<Wait | undefined>;
  /** A counted attempt has failed: the wait begins now, however long it took to tell. */
  failed(budgets: readonly Budget[]): Promise<void>;
  /** Takes a counted attempt back that was no failure. */
  giveBack(budgets: readonly Budget[]): Promise<void>;
  /** Forgets every failure. */
  clear(budgets: readonly Budget[]): Promise<void>;
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

/** The first wait (ms); each further failure doubles it. */
const FIRST_WAIT = 1_000;

/** The longest wait (ms): what somebody who hammers an account can cost its owner. */
const LONGEST_WAIT = 300_000;

/** Failures beyond the free ones that are remembered: more would not make the wait longer, only the time until it is over. */
const MOST_BEYOND = Math.ceil(Math.log2(LONGEST_WAIT / FIRST_WAIT));

/** Keys counted at once, some 200 bytes each; the one that was asked for longest ago is forgotten first. */
const MAX_KEYS = 100_000;

interface Count {
  /** When the last attempt began, or was known to have failed; from then on failures are forgotten. */
  readonly at: number;
  /** At that time. */
  readonly failures: number;
  /** Whether somebody was refused since the last attempt that was counted. */
  readonly refused: boolean;
}

/**
 * Counts in this process.
 *
 * @param forget as in the limits
 * @param now the time in ms, of a clock that is never set
 */
export function createLocalAttempts(forget: number, now = (): number => performance.now()): AttemptStore {
  const counts = new LRUCache<string, Count>({ max: MAX_KEYS });

  function waitOf({ key, free }: Budget, time: number): number {
    const count = counts.get(key);
    if (!count) return 0;
    // The first of several failures has been forgotten in part when the last one comes: it counts as a whole until it is gone.
    const beyond = Math.ceil(count.failures) - free;
    if (beyond < 0) return 0;
    return Math.max(0, count.at + Math.min(FIRST_WAIT * 2 ** beyond, LONGEST_WAIT) - time);
  }

  /** What is left of the failures, and `more`, as of now. */
  function count({ key, free }: Budget, time: number, more: number): void {
    const { at, failures, refused } = counts.get(key) ?? { at: time, failures: 0, refused: false };
    const left = Math.max(0, failures - ((time - at) * free) / forget);
    counts.set(key, {
      at: time,
      failures: Math.min(left + more, free + MOST_BEYOND),
      // A wait that begins anew because a failure was told late is still the same wait.
      refused: more === 0 && refused,
    });
  }

  return {
    take(budgets) {
      const time = now();
      const waits = budgets.map((budget) => ({ budget, left: waitOf(budget, time) }));
      const { budget, left } = waits.reduce((one, other) => (other.left > one.left ? other : one));
      const counted = counts.get(budget.key);
      if (left > 0 && counted) {
        if (!counted.refused) counts.set(budget.key, { ...counted, refused: true });
        return Promise.resolve({ left, on: budget.on, first: !counted.refused });
      }
      for (const each of budgets) count(each, time, 1);
      return Promise.resolve(undefined);
    },

    failed(budgets) {
      const time = now();
      for (const budget of budgets) count(budget, time, 0);
      return Promise.resolve();
    },

    giveBack(budgets) {
      for (const { key } of budgets) {
        const count = counts.get(key);
        if (count && count.failures > 1) counts.set(key, { ...count, failures: count.failures - 1 });
        else counts.delete(key);
      }
      return Promise.resolve();
    },

    clear(budgets) {
      for (const { key } of budgets) counts.delete(key);
      return Promise.resolve();
    },
  };
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
