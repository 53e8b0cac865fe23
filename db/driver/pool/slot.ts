// The right to have a connection open on a server, and the interface that grants it. A pool asks for a slot before it opens a
// connection; src/connections/governor.ts grants slots to all pools of one server.
import { DatabaseFault } from '../database-fault.js';

/**
 * The right to have one connection open. It ends with `release` or `orphan`. Several attempts to connect may use it one after
 * the other, if nothing is left of the previous attempt.
 */
export interface Slot {
  /** The connection has reached the backend with this process id. */
  reached(pid: number): void;
  /** The connection begins to close: the slot will be free soon. */
  closing(): void;
  /** Nothing is left of the connection, on the server either. */
  release(): void;
  /**
   * The connection has closed, and its backend may live on. The slot counts as held until the backend is seen to be gone.
   *
   * @param freed called once, when the slot is free
   */
  orphan(freed: () => void): void;
}

/** Decides whether one more connection may be opened. */
export interface Admission {
  /** A slot, if one is free now. */
  tryOpen(): Slot | undefined;
  /**
   * A slot as soon as one is free.
   *
   * @param purpose what `withdraw` gives up
   * @throws DatabaseFault `busy` if that takes too long or too many requests wait; `withdrawn`
   */
  open(timeoutMs: number, purpose?: object): Promise<Slot>;
  /** Gives up the pool's newest request of that purpose for a slot, which fails with `withdrawn`. Returns whether there was one. */
  withdraw?(purpose: object): boolean;
  /** Whether the pool now has an unused connection, which `closeIdle` would close. */
  idle(has: boolean): void;
  /**
   * Called when a connection is given back. Returns whether the pool must close it, because another pool needs its slot more.
   * The pool then calls `closing` of that slot at once.
   */
  mustYield(): boolean;
  /** The server had no room for a connection (53300), and its slot has not been given back yet. */
  refused?(): void;
}

/** The admission of one pool. */
export interface Membership extends Admission {
  /** Call this once, when the pool has closed: nothing is admitted afterwards. Slots count until each is released. */
  leave(): void;
}

/** The error of a request for a slot that the pool has given up. */
export const withdrawn = new DatabaseFault('busy', 'the slot is not needed any more');

/** The slot of a pool without admission. */
export const unlimitedSlot: Slot = {
  reached: () => undefined,
  closing: () => undefined,
  release: () => undefined,
  orphan: (freed) => {
    freed();
  },
};
