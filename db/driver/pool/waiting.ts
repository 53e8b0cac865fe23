// The requests that wait for a connection: first come, first served, each until its deadline.
import { DatabaseFault, openedLate } from '../database-fault.js';
import type { Session } from './held-connection.js';
import { ClientLeft, type Requester } from '../../../src/lib/requester.js';
import { nextTurn } from '../../../src/lib/turns.js';

/*
 * States of a request that waits, and what changes them:
 *
 *     queued   → served     a session was given back: it is the first in the queue
 *     queued   → opening    a slot came: a connection is opened for it
 *     queued   → rejected   its deadline is over; or no slot came, and the pool has no connection; or the pool closes
 *     queued   → rejected   its client has left
 *     opening  → served     the connection is open
 *     opening  → rejected   the connection could not be opened
 *     opening  → late       its deadline is over, or its client has left: it is rejected at once, and its connection goes to
 *                           another request
 */
interface Waiter {
  readonly resolve: (session: Session) => void;
  readonly reject: (error: Error) => void;
  readonly requester: Requester | undefined;
  /** When the request began to wait, and its deadline, on `performance.now`. */
  readonly since: number;
  readonly deadline: number;
  /** Call this when the request waits no longer. */
  readonly ended: () => void;
  state: 'queued' | 'opening' | 'late' | 'done';
}

type Open = (deadline: number, requester: Requester | undefined) => Promise<Session>;

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
   * @param requester ends its wait when it leaves
   * @throws DatabaseFault `busy` when the time is up; ClientLeft; what the request is rejected with
   */
  wait(deadline: number, requester?: Requester): Promise<Session> {
    return new Promise((resolve, reject) => {
      const since = performance.now();
      const timer = setTimeout(() => {
        void this.#giveUp(waiter);
      }, deadline - since);
      const left = (): void => {
        this.#end(waiter, new ClientLeft());
      };
      const ended = (): void => {
        clearTimeout(timer);
        requester?.off('close', left);
      };
      const waiter: Waiter = { resolve, reject, requester, since, deadline, ended, state: 'queued' };
      requester?.once('close', left);
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
   * @param open is given the request's deadline, and its client
   */
  open(open: Open): boolean {
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
    waiter.ended();
    waiter.state = 'done';
    return waiter;
  }

  async #openFor(waiter: Waiter, open: Open): Promise<void> {
    waiter.state = 'opening';
    try {
      const session = await open(waiter.deadline, waiter.requester);
      if (isLate(waiter)) session.release();
      else waiter.resolve(session);
    } catch (error) {
      waiter.reject(error as Error);
    } finally {
      waiter.state = 'done';
      waiter.ended();
    }
  }

  async #giveUp(waiter: Waiter): Promise<void> {
    await nextTurn();
    // A connection may have come in the last moment.
    const isQueued = waiter.state === 'queued';
    this.#end(waiter, isQueued ? new DatabaseFault('busy', 'no connection became free in time') : openedLate());
  }

  /** Rejects a request that is not answered yet. */
  #end(waiter: Waiter, error: Error): void {
    if (waiter.state === 'opening') waiter.state = 'late';
    else if (waiter.state === 'queued') {
      this.#waiters.splice(this.#waiters.indexOf(waiter), 1);
      waiter.state = 'done';
      waiter.ended();
    } else return;
    waiter.reject(error);
  }
}

/** A function, because TypeScript assumes that the state did not change during an await. */
function isLate(waiter: Waiter): boolean {
  return waiter.state === 'late';
}
