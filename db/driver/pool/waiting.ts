// The requests that wait for a connection: first come, first served, each until its deadline.
import { DatabaseFault, openedLate } from '../database-fault.js';
import type { Session } from './held-connection.js';
import { nextTurn } from '../../../src/lib/turns.js';

/*
 * States of a request that waits, and what changes them:
 *
 *     queued   → served     a session was given back: it is the first in the queue
 *     queued   → opening    a slot came: a connection is opened for it
 *     queued   → rejected   its deadline is over; or no slot came, and the pool has no connection; or the pool closes
 *     opening  → served     the connection is open
 *     opening  → rejected   the connection could not be opened
 *     opening  → late       its deadline is over: it is rejected at once, and its connection goes to another request
 */
interface Waiter {
  readonly resolve: (session: Session) => void;
  readonly reject: (error: Error) => void;
  /** When the request began to wait, and its deadline, on `performance.now`. */
  readonly since: number;
  readonly deadline: number;
  readonly timer: NodeJS.Timeout;
  state: 'queued' | 'opening' | 'late' | 'done';
}

export class WaitingQueue {
  readonly #waiters: Waiter[] = [];

  /** Requests in the queue. A request for which a connection is opening is not in the queue. */
  get length(): number {
    return this.#waiters.length;
  }

  /** How long (ms) the first request has waited; 0 if none waits. */
  get longestWait(): number {
    const [first] = this.#waiters;
    return first ? performance.now() - first.since : 0;
  }

  /**
   * Waits for a session.
   *
   * @param deadline on `performance.now`
   * @throws DatabaseFault `busy` when the time is up; what the request is rejected with
   */
  wait(deadline: number): Promise<Session> {
    return new Promise((resolve, reject) => {
      const since = performance.now();
      const timer = setTimeout(() => {
        void this.#giveUp(waiter);
      }, deadline - since);
      const waiter: Waiter = { resolve, reject, since, deadline, timer, state: 'queued' };
      this.#waiters.push(waiter);
    });
  }

  /** Gives a session to the first request. Returns false if none waits. */
  give(session: Session): boolean {
    const waiter = this.#take();
    waiter?.resolve(session);
    return waiter !== undefined;
  }

  /**
   * Opens a connection for the first request. Returns false if none waits.
   *
   * @param open is given the request's deadline
   */
  open(open: (deadline: number) => Promise<Session>): boolean {
    const waiter = this.#waiters.shift();
    if (waiter) void this.#openFor(waiter, open);
    return waiter !== undefined;
  }

  /** Rejects the first request, if one waits. */
  rejectFirst(error: Error): void {
    this.#take()?.reject(error);
  }

  /** Rejects every request in the queue. */
  rejectAll(error: () => Error): void {
    for (let waiter = this.#take(); waiter; waiter = this.#take()) waiter.reject(error());
  }

  #take(): Waiter | undefined {
    const waiter = this.#waiters.shift();
    if (!waiter) return undefined;
    clearTimeout(waiter.timer);
    waiter.state = 'done';
    return waiter;
  }

  async #openFor(waiter: Waiter, open: (deadline: number) => Promise<Session>): Promise<void> {
    waiter.state = 'opening';
    try {
      const session = await open(waiter.deadline);
      if (isLate(waiter)) session.release();
      else waiter.resolve(session);
    } catch (error) {
      waiter.reject(error as Error);
    } finally {
      waiter.state = 'done';
      clearTimeout(waiter.timer);
    }
  }

  async #giveUp(waiter: Waiter): Promise<void> {
    await nextTurn();
    // A connection may have come in the last moment.
    if (waiter.state === 'opening') {
      waiter.state = 'late';
      waiter.reject(openedLate());
    } else if (waiter.state === 'queued') {
      this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
      waiter.state = 'done';
      waiter.reject(new DatabaseFault('busy', 'no connection became free in time'));
    }
  }
}

/** A function, because TypeScript assumes that the state did not change during an await. */
function isLate(waiter: Waiter): boolean {
  return waiter.state === 'late';
}
