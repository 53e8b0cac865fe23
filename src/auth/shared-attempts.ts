// Counts failed attempts in Redis for all replicas together, and never too low: an attempt that Redis has not confirmed counts as
// a failure.
import { recentMap } from '../lib/recent-map.js';
import type { SharedStore } from '../replicas/shared-store.js';
import { COUNT_ATTEMPT, type AttemptAct } from './attempts-script.js';
import { LocalAttempts, type AttemptStore, type Budget, type Wait } from './attempts.js';

/** Limit for keys that this replica has not counted in Redis: the same limit as for its own counts. */
const MAX_PENDING = 100_000;

/** Budgets in one request to Redis after Redis has lost data. */
const BATCH = 100;

/** The other replicas, from src/replicas/counts.ts. */
export interface Replicas {
  /** The number of replicas, now or when Redis last answered. */
  readonly replicas: number;
  /** Calls `listener` when Redis may have lost data. */
  onLoss(listener: () => void): void;
}

type Answer = readonly [place: number, wait: string, first: number, ...counts: (string | number)[]];

/**
 * Counts in Redis, and keeps a copy of the answers.
 *
 * - Redis does not answer: the attempt is counted in the copy, and the free failures are divided by the number of replicas.
 * - Redis answers again: the attempts counted meanwhile are added, with the next attempt on the same budget or at once.
 * - Redis has lost data: every replica sends its copy, and the higher count is in force.
 */
export class SharedAttempts implements AttemptStore {
  readonly #local: LocalAttempts;
  /** Failures in the copy that Redis does not know. */
  readonly #pending = recentMap<string, number>(MAX_PENDING);
  /** Free failures of the keys in the copy, with the number of the loss after which Redis last confirmed the key. */
  readonly #keys = recentMap<string, { readonly free: number; loss: number }>(MAX_PENDING);
  /** Budgets whose attempt was counted only in the copy. */
  readonly #apart = new WeakSet<Budget>();
  /** The number of losses so far. */
  #loss = 0;

  /**
   * @param forget as in the limits
   * @param now the time (ms) of a clock that is never adjusted
   */
  constructor(
    private readonly forget: number,
    private readonly store: SharedStore,
    private readonly others: Replicas,
    now?: () => number,
  ) {
    this.#local = new LocalAttempts(forget, now);
    others.onLoss(() => {
      this.#loss += 1;
      void this.#sendAll();
    });
  }

  async take(budgets: readonly Budget[]): Promise<Wait | undefined> {
    const answer = await this.#run('take', budgets);
    if (answer) {
      const [place, wait, first] = answer;
      const budget = budgets[place - 1];
      return budget && { left: Number(wait), on: budget.on, first: first === 1 };
    }
    const refused = this.#local.takeNow(budgets, this.others.replicas);
    if (refused) return refused;
    for (const budget of budgets) {
      this.#apart.add(budget);
      this.#addPending(budget, 1);
    }
    return undefined;
  }

  async failed(budgets: readonly Budget[]): Promise<void> {
    if (!(await this.#run('failed', budgets))) await this.#local.failed(budgets);
  }

  async giveBack(budgets: readonly Budget[]): Promise<void> {
    if (budgets.length === 0) return;
    // Redis does not know these attempts. It knows the others, and continues to count them if it does not answer.
    const unknown = budgets.filter((budget) => this.#apart.has(budget) && (this.#pending.get(budget.key) ?? 0) > 0);
    for (const budget of unknown) this.#addPending(budget, -1);
    await this.#local.giveBack(unknown);
    const known = budgets.filter((budget) => !unknown.includes(budget));
    if (known.length > 0) await this.#run('give-back', known);
  }

  async clear(budgets: readonly Budget[]): Promise<void> {
    if (budgets.length === 0) return;
    for (const { key } of budgets) this.#pending.delete(key);
    await this.#local.clear(budgets);
    await this.#run('clear', budgets);
  }

  /** @returns undefined if Redis does not answer; Redis may have counted the attempt anyway */
  async #run(act: AttemptAct, budgets: readonly Omit<Budget, 'on'>[]): Promise<Answer | undefined> {
    if (!this.store.available || budgets.length === 0) return undefined;
    const { counts, now } = this.#local;
    const loss = this.#loss;
    const sent = budgets.map(({ key }) => this.#pending.get(key) ?? 0);
    const args = budgets.flatMap(({ key, free }, index) => {
      const pending = sent[index] ?? 0;
      // Deleted before sending, so that only one of two attempts at once sends it.
      this.#pending.delete(key);
      const count = counts.peek(key);
      if (!count || (pending === 0 && this.#keys.peek(key)?.loss === loss)) return [free, '', '', 0];
      return [free, Math.max(0, count.failures - pending), now() - count.at, Math.min(pending, count.failures)];
    });
    try {
      const keys = budgets.map(({ key }) => `attempts:${key}`);
      const answer = await this.store.run<Answer>(COUNT_ATTEMPT, keys, [act, this.forget, ...args]);
      for (const [index, { key, free }] of budgets.entries()) {
        const [failures, ago, refused] = answer.slice(3 + index * 3).map(Number);
        if (failures === undefined || ago === undefined || failures === 0) counts.delete(key);
        else {
          const more = this.#pending.get(key) ?? 0;
          counts.set(key, { failures: failures + more, at: now() - ago, refused: refused === 1 });
          this.#keys.set(key, { free, loss });
        }
      }
      return answer;
    } catch {
      for (const [index, budget] of budgets.entries()) this.#addPending(budget, sent[index] ?? 0);
      return undefined;
    }
  }

  #addPending({ key, free }: Omit<Budget, 'on'>, more: number): void {
    const pending = (this.#pending.get(key) ?? 0) + more;
    if (pending > 0) this.#pending.set(key, pending);
    else this.#pending.delete(key);
    this.#keys.set(key, { free, loss: this.#keys.peek(key)?.loss ?? -1 });
  }

  /** Also sends budgets without a request, because the next attempt on them may come to another replica. */
  async #sendAll(): Promise<void> {
    const loss = this.#loss;
    const all = [...this.#keys.entries()].map(([key, { free }]) => ({ key, free }));
    for (let from = 0; from < all.length && this.#loss === loss; from += BATCH)
      if (!(await this.#run('merge', all.slice(from, from + BATCH)))) return;
  }
}
