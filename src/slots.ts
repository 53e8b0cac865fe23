// A bound on how much runs at once and how much may wait: work over the bound is refused at once instead of piling up.
import { AppError } from './errors.js';

/** Runs at most `size` tasks at once and lets at most `queue` wait, first come, first served. */
export class Slots {
  #running = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(
    private readonly size: number,
    private readonly queue: number,
  ) {}

  /** @throws AppError `unavailable` where too many wait already, and whatever the task throws */
  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.#running >= this.size) {
      if (this.#waiting.length >= this.queue) throw new AppError('unavailable', { retryAfter: 1 });
      // The slot is handed over, not freed, so that a newcomer cannot overtake the one who waits.
      await new Promise<void>((resolve) => this.#waiting.push(resolve));
    } else {
      this.#running += 1;
    }
    try {
      return await task();
    } finally {
      const next = this.#waiting.shift();
      if (next) next();
      else this.#running -= 1;
    }
  }
}
