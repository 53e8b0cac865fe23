// Counts failed attempts, and decides how long the next attempt must wait. This store counts in this process; shared-attempts.ts
// counts for all replicas.
import { recentMap } from '../lib/recent-map.js';

/** A budget of failed attempts: of an account, an address or a tenant. */
export interface Budget {
  readonly on: 'account' | 'address' | 'tenant';
  /** Unique for each account, address or tenant. */
  readonly key: string;
  /** Failures without a wait. */
  readonly free: number;
}

/** Why an attempt is refused. */
export interface Wait {
  /** Time (ms) until the next one may be made. */
  readonly left: number;
  /** Which kind of budget has too many failures. */
  readonly on: Budget['on'];
  /** Whether this is the first refusal of this wait. */
  readonly first: boolean;
}

/** A store of counted attempts: in this process, or shared by several. */
export interface AttemptStore {
  /**
   * Counts an attempt on every budget, or on no budget if one of them must wait.
   *
   * @returns the longest wait, or undefined if the attempt was counted
   */
  take(budgets: readonly Budget[]): Promise<Wait | undefined>;
  /** A counted attempt has failed: the wait begins now, however long the attempt took. */
  failed(budgets: readonly Budget[]): Promise<void>;
  /** Removes a counted attempt that was no failure. */
  giveBack(budgets: readonly Budget[]): Promise<void>;
  /** Forgets every failure. */
  clear(budgets: readonly Budget[]): Promise<void>;
}

/** The first wait (ms); each further failure doubles it. */
export const FIRST_WAIT = 1_000;

/** The longest wait (ms): the most that repeated failures can delay the owner of an account. */
export const LONGEST_WAIT = 300_000;

/** Failures beyond the free ones that are counted. More would not make the wait longer, but would take longer to expire. */
export const MOST_BEYOND = Math.ceil(Math.log2(LONGEST_WAIT / FIRST_WAIT));

/** Keys that are counted at once, about 200 bytes each; the least recently used key is dropped first. */
const MAX_KEYS = 100_000;

export interface Count {
  /** Time of the last attempt, or of its known failure; failures expire from this time on. */
  readonly at: number;
  /** The number at that time. */
  readonly failures: number;
  /** Whether an attempt was refused since the last counted attempt. */
  readonly refused: boolean;
}

/** Counts in this process. */
export class LocalAttempts implements AttemptStore {
  readonly counts = recentMap<string, Count>(MAX_KEYS);

  /**
   * @param forget as in the limits
   * @param now the time (ms) of a clock that is never adjusted
   */
  constructor(
    private readonly forget: number,
    readonly now = (): number => performance.now(),
  ) {}

  take(budgets: readonly Budget[]): Promise<Wait | undefined> {
    return Promise.resolve(this.takeNow(budgets, 1));
  }

  /** @param replicas number of replicas that share the free failures: each has an equal part, but at least one */
  takeNow(budgets: readonly Budget[], replicas: number): Wait | undefined {
    const time = this.now();
    const waits = budgets.map((budget) => ({ budget, left: this.#waitOf(budget, replicas, time) }));
    const { budget, left } = waits.reduce((one, other) => (other.left > one.left ? other : one));
    const counted = this.counts.get(budget.key);
    if (left > 0 && counted) {
      if (!counted.refused) this.counts.set(budget.key, { ...counted, refused: true });
      return { left, on: budget.on, first: !counted.refused };
    }
    for (const each of budgets) this.#count(each, time, 1);
    return undefined;
  }

  failed(budgets: readonly Budget[]): Promise<void> {
    const time = this.now();
    for (const budget of budgets) this.#count(budget, time, 0);
    return Promise.resolve();
  }

  giveBack(budgets: readonly Budget[]): Promise<void> {
    for (const { key } of budgets) {
      const count = this.counts.get(key);
      if (count && count.failures > 1) this.counts.set(key, { ...count, failures: count.failures - 1 });
      else this.counts.delete(key);
    }
    return Promise.resolve();
  }

  clear(budgets: readonly Budget[]): Promise<void> {
    for (const { key } of budgets) this.counts.delete(key);
    return Promise.resolve();
  }

  #waitOf({ key, free }: Budget, replicas: number, time: number): number {
    const count = this.counts.get(key);
    if (!count) return 0;
    // Rounded up: some of the first failure has expired when the last one comes, but it counts in full until it is gone.
    const beyond = Math.ceil(count.failures) - Math.max(1, Math.floor(free / replicas));
    if (beyond < 0) return 0;
    return Math.max(0, count.at + Math.min(FIRST_WAIT * 2 ** beyond, LONGEST_WAIT) - time);
  }

  /** Counts the failures that have not expired, plus `more`, as of now. */
  #count({ key, free }: Budget, time: number, more: number): void {
    const { at, failures, refused } = this.counts.get(key) ?? { at: time, failures: 0, refused: false };
    const left = Math.max(0, failures - ((time - at) * free) / this.forget);
    this.counts.set(key, {
      at: time,
      failures: Math.min(left + more, free + MOST_BEYOND),
      // If a wait begins again because a failure is known late, it is still the same wait.
      refused: more === 0 && refused,
    });
  }
}
