// Limits how many tasks run at once and how many may wait. Tasks over the limit are refused at once instead of piling up.
import { AppError } from '../errors.js';

/** Runs at most `size` tasks at once and lets at most `queue` tasks wait, first come, first served. */
export class Slots {
  #running = 0;
  readonly #waiting = new Set<() => void>();

  /**
   * @param patience longest wait (ms) for a slot; without it a task waits until its turn comes
   * @param refusal makes the error for a task that is refused
   */
  constructor(
    private readonly size: number,
    private readonly queue: number,
    private readonly patience?: number,
    private readonly refusal: () => Error = () => new AppError('unavailable', { retryAfter: 1 }),
  ) {}

  /** @throws the refusal, AppError `unavailable` by default, if too many tasks wait or the wait was too long; errors of the task */
  async run<T>(task: () => Promise<T>): Promise<T> {
    if (this.#running >= this.size) {
      if (this.#waiting.size >= this.queue) throw this.refusal();
      // The running task hands its slot over and does not free it. Otherwise a new task could overtake a waiting one.
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
        reject(this.refusal());
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
