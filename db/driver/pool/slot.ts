// The right to have a connection open on a server, and what grants it. A pool asks for a slot before it opens a connection;
// src/connections/governor.ts grants slots to all pools of one server.

/**
 * The right to have one connection open. It ends with `release`, or with `orphan`. Several attempts to connect may use it one
 * after the other, if nothing is left of the attempt before.
 */
export interface Slot {
  /** The connection has reached the backend with this process id. */
  reached(pid: number): void;
  /** The connection is asked to close: the slot will be free soon. */
  closing(): void;
  /** Nothing is left of the connection, on the server neither. */
  release(): void;
  /**
   * The connection has closed, and its backend may live on: the slot counts as held until that is seen gone.
   *
   * @param freed called once, when the slot is free
   */
  orphan(freed: () => void): void;
}

/** Decides whether one more connection may be opened. */
export interface Admission {
  /** A slot, if one is free now. */
  tryOpen(): Slot | undefined;
  /** A slot as soon as one is free. @throws DatabaseFault `busy` when that takes too long or too many requests wait */
  open(timeoutMs: number): Promise<Slot>;
  /** Whether the pool now has an unused connection, which `closeIdle` would close. */
  idle(has: boolean): void;
  /**
   * Called when a connection is given back: whether the pool must close it, because another pool needs its slot more. The pool
   * then calls `closing` of that slot at once.
   */
  mustYield(): boolean;
  /** The server refused a connection for want of room (53300), and its slot has not been given back yet. */
  refused?(): void;
}

/** A pool's part in what admits connections. */
export interface Membership extends Admission {
  /** To be called once, when the pool has closed: nothing is admitted any more. Slots count until each is released. */
  leave(): void;
}

/** The slot of a pool that asks for no admission. */
export const unlimitedSlot: Slot = {
  reached: () => undefined,
  closing: () => undefined,
  release: () => undefined,
  orphan: (freed) => {
    freed();
  },
};
