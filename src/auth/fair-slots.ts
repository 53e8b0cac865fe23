// Shares slots fairly between payers: a bounded number of tasks runs at once, and payers take turns. A payer with many tasks
// delays only its own tasks.
import { AppError } from '../errors.js';
import { LinkedQueue, Queued } from '../lib/linked-queue.js';
import { ClientLeft, type Requester } from '../lib/requester.js';

// States of one task, and its transitions:
//
//   new      → running   a slot is free (then no work waits)
//   new      → waiting   all slots are taken, and neither bound is reached
//   new      → refused   its payer's queue is full; or the total is reached, and no payer has a longer queue than its own
//                        payer's would be
//   waiting  → running   a slot was handed over, and it is the first of the payer whose turn it is
//   waiting  → refused   it waited longer than the patience; or the total was reached, its payer had the longest queue,
//                        and it was the newest in it
//   waiting  → left      its client has left
//   running  → done      the task ended; the slot is handed over, or is free when no work waits
//
// The ring holds each payer that has work waiting, once. The payer at its head has the next turn and then goes to the end. A
// payer leaves the ring with its last waiting work. So each waiting payer has one turn before any payer has its second.
//
// Always: running ≤ size; running = size while work waits; waiting = the sum of all queues ≤ total; no queue > perPayer.

/** One piece of work that waits. */
class Waiter extends Queued<Waiter> {
  timer: NodeJS.Timeout | undefined;

  constructor(
    readonly enter: () => void,
    readonly refuse: () => void,
    /** Called when it waits no longer. */
    readonly ended: () => void,
  ) {
    super();
  }
}

/** A payer that has work waiting. */
class Line extends Queued<Line> {
  readonly waiters = new LinkedQueue<Waiter>();

  constructor(readonly payer: string) {
    super();
  }
}

/** How much may wait, for one payer and in all. */
export interface WaitingBounds {
  readonly perPayer: number;
  readonly total: number;
}

/** Runs at most `size` tasks at once. Payers take turns; the work of one payer runs in the order in which it came. */
export class FairSlots {
  #running = 0;
  #waiting = 0;
  readonly #ring = new LinkedQueue<Line>();
  readonly #lines = new Map<string, Line>();

  /** @param patience longest wait (ms) for a slot */
  constructor(
    private readonly size: number,
    private readonly bounds: WaitingBounds,
    private readonly patience: number,
  ) {}

  /** Slots in use, and tasks that wait. */
  get load(): { readonly running: number; readonly waiting: number } {
    return { running: this.#running, waiting: this.#waiting };
  }

  /**
   * @param requester ends the wait of its task when it leaves; a task that runs is finished
   * @throws AppError `unavailable` if a bound is reached or the wait was too long; ClientLeft; every error of the task
   */
  async run<T>(payer: string, task: () => Promise<T>, requester?: Requester): Promise<T> {
    if (requester?.destroyed) throw new ClientLeft();
    if (this.#running < this.size) this.#running += 1;
    else await this.#turn(payer, requester);
    try {
      return await task();
    } finally {
      // The slot is handed over, not freed, so that a new task cannot overtake a waiting task.
      const next = this.#next();
      if (next) next.enter();
      else this.#running -= 1;
    }
  }

  #turn(payer: string, requester: Requester | undefined): Promise<void> {
    const line = this.#lines.get(payer) ?? new Line(payer);
    if (line.waiters.size >= this.bounds.perPayer) return Promise.reject(refusal());
    if (this.#waiting >= this.bounds.total) {
      const longest = this.#longest();
      // The new task is counted too. Otherwise it would replace a task that has waited longer, and help no payer.
      if (!longest || longest.waiters.size <= line.waiters.size + 1) return Promise.reject(refusal());
      const newest = longest.waiters.last;
      if (newest) this.#leave(longest, newest).refuse();
    }
    return new Promise((resolve, reject) => {
      const refuse = (): void => {
        reject(refusal());
      };
      const left = (): void => {
        this.#leave(line, waiter);
        reject(new ClientLeft());
      };
      const waiter = new Waiter(resolve, refuse, () => requester?.off('close', left));
      requester?.once('close', left);
      waiter.timer = setTimeout(() => {
        this.#leave(line, waiter).refuse();
      }, this.patience);
      line.waiters.push(waiter);
      this.#waiting += 1;
      if (line.queue) return;
      this.#ring.push(line);
      this.#lines.set(payer, line);
    });
  }

  /** Removes and returns the waiting task that has the next turn. */
  #next(): Waiter | undefined {
    const line = this.#ring.first;
    const waiter = line?.waiters.first;
    if (!line || !waiter) return undefined;
    this.#ring.push(line);
    return this.#leave(line, waiter);
  }

  #leave(line: Line, waiter: Waiter): Waiter {
    clearTimeout(waiter.timer);
    waiter.ended();
    line.waiters.remove(waiter);
    this.#waiting -= 1;
    if (line.waiters.size === 0) {
      this.#ring.remove(line);
      this.#lines.delete(line.payer);
    }
    return waiter;
  }

  /** Checks every waiting payer: at most as many as the total, and only when the total is reached. */
  #longest(): Line | undefined {
    let longest: Line | undefined;
    for (const line of this.#ring) if (line.waiters.size > (longest?.waiters.size ?? 0)) longest = line;
    return longest;
  }
}

function refusal(): AppError {
  return new AppError('unavailable', { retryAfter: 1 });
}
