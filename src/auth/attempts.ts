// Where failed attempts are counted, and how long the next attempt must wait. This store counts in this process;
// shared-attempts.ts counts for all replicas.
import { LRUCache } from 'lru-cache';

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

/** The first wait (ms); each further failure doubles it. */
export const FIRST_WAIT = 1_000;

/** The longest wait (ms): the most that hammering an account can cost its owner. */
export const LONGEST_WAIT = 300_000;

/** Failures beyond the free ones that are remembered: more would not make the wait longer, only the time until it is over. */
export const MOST_BEYOND = Math.ceil(Math.log2(LONGEST_WAIT / FIRST_WAIT));

/** Keys counted at once, some 200 bytes each; the one that was asked for longest ago is forgotten first. */
const MAX_KEYS = 100_000;

export interface Count {
  /** When the last attempt began, or was known to have failed; from then on failures are forgotten. */
  readonly at: number;
  /** At that time. */
  readonly failures: number;
  /** Whether an attempt was refused since the last attempt that was counted. */
  readonly refused: boolean;
}

/** Counts in this process. */
export class LocalAttempts implements AttemptStore {
  readonly counts = new LRUCache<string, Count>({ max: MAX_KEYS });

  /**
   * @param forget as in the limits
   * @param now the time in ms, of a clock that is never set
   */
  constructor(
    private readonly forget: number,
    readonly now = (): number => performance.now(),
  ) {}

  take(budgets: readonly Budget[]): Promise<Wait | undefined> {
    return Promise.resolve(this.takeNow(budgets, 1));
  }

  /** @param replicas that share the free failures: each has its part, and at least one */
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
    // The first of several failures has been forgotten in part when the last one comes: it counts as a whole until it is gone.
    const beyond = Math.ceil(count.failures) - Math.max(1, Math.floor(free / replicas));
    if (beyond < 0) return 0;
    return Math.max(0, count.at + Math.min(FIRST_WAIT * 2 ** beyond, LONGEST_WAIT) - time);
  }

  /** What is left of the failures, and `more`, as of now. */
  #count({ key, free }: Budget, time: number, more: number): void {
    const { at, failures, refused } = this.counts.get(key) ?? { at: time, failures: 0, refused: false };
    const left = Math.max(0, failures - ((time - at) * free) / this.forget);
    this.counts.set(key, {
      at: time,
      failures: Math.min(left + more, free + MOST_BEYOND),
      // A wait that begins again because a failure is known late is still the same wait.
      refused: more === 0 && refused,
    });
  }
}
