// A bound on how much runs at once and how much may wait: work over the bound is refused at once instead of piling up.
import { AppError } from '../errors.js';

/** Runs at most `size` tasks at once and lets at most `queue` wait, first come, first served. */
export class Slots {
  #running = 0;
  readonly #waiting = new Set<() => void>();

  /** @param patience longest wait (ms) for a slot; without it as long as those before take */
  constructor(
    private readonly size: number,
    private readonly queue: number,
    private readonly patience?: number,
  ) {}

  /** @throws AppError `unavailable` where too many wait already or the wait was too long, and whatever the task throws */
  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.#running >= this.size) {
      if (this.#waiting.size >= this.queue) throw new AppError('unavailable', { retryAfter: 1 });
      // The slot is handed over, not freed, so that a newcomer cannot overtake the one who waits.
      await this.#turn();
    } else {
      this.#running += 1;
    }
    try {
      return await task();
    } finally {
      const [next] = this.#waiting;
      if (next) next();
      else this.#running -= 1;
    }
  }

  #turn(): Promise<void> {
    return new Promise((resolve, reject) => {
      const giveUp = (): void => {
        this.#waiting.delete(enter);
        reject(new AppError('unavailable', { retryAfter: 1 }));
      };
      const timer = this.patience === undefined ? undefined : setTimeout(giveUp, this.patience);
      const enter = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(enter);
        resolve();
      };
      this.#waiting.add(enter);
    });
  }
}
