// What the new connections of a pool found out about its server: whether it takes writes, and whether it was refused a moment
// ago.
import type { DatabaseFault } from '../database-fault.js';
import { IN_RECOVERY, READ_ONLY } from '../proof.js';

/** Between two looks (ms) whether a server that took no writes takes them again. */
const LOOK_EVERY = 1_000;

/** For this long (ms) after a standby, or a server without writes, was refused, no other connection is opened. */
const REFUSED_FOR = 200;

export class FoundServer {
  readonly #readOnly = new WeakSet<object>();
  /** When a connection was last found read-only; undefined when the newest one took writes. */
  #readOnlyAt: number | undefined;
  #refusal: { readonly fault: DatabaseFault; readonly until: number } | undefined;

  /** A new connection has proved itself. */
  proved(client: object, readOnly: boolean): void {
    if (!readOnly) return;
    this.#readOnly.add(client);
    this.#readOnlyAt = performance.now();
  }

  /** Whether it was when it was proved. */
  isReadOnly(client: object): boolean {
    return this.#readOnly.has(client);
  }

  /** To be called when a new connection takes writes. Returns whether others are read-only since before. */
  takesWritesAgain(): boolean {
    const again = this.#readOnlyAt !== undefined;
    this.#readOnlyAt = undefined;
    return again;
  }

  /** Whether a new connection should look if writes are taken again. @param now on `performance.now` */
  lookIsDue(now: number): boolean {
    return this.#readOnlyAt !== undefined && now - this.#readOnlyAt >= LOOK_EVERY;
  }

  /** That look has begun. */
  looked(now: number): void {
    this.#readOnlyAt = now;
  }

  /** A new connection could not be had. */
  refused(fault: DatabaseFault): void {
    if (fault.reason === IN_RECOVERY || fault.reason === READ_ONLY)
      this.#refusal = { fault, until: performance.now() + REFUSED_FOR };
  }

  /** @throws DatabaseFault that another connection was refused for a moment ago */
  refuseAgain(): void {
    if (this.#refusal && performance.now() < this.#refusal.until) throw this.#refusal.fault;
  }
}
