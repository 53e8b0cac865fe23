// What new connections of a pool found out about its server: whether it accepts writes, and whether it was refused a moment ago.
import type { DatabaseFault } from '../database-fault.js';
import { IN_RECOVERY, READ_ONLY, type Proof } from '../proof.js';

/** Interval (ms) of the checks whether a read-only server accepts writes again. */
const LOOK_EVERY = 1_000;

/** After a standby or a read-only server was refused, no other connection is opened for this long (ms). */
const REFUSED_FOR = 200;

export class FoundServer {
  readonly #readOnly = new WeakSet<object>();
  readonly #servers = new WeakMap<object, string>();
  /** When a connection was last found read-only; undefined if the newest connection accepted writes. */
  #readOnlyAt: number | undefined;
  #refusal: { readonly fault: DatabaseFault; readonly until: number } | undefined;

  /** Records the result of a new connection's proof. */
  proved(client: object, { readOnly, server }: Proof): void {
    if (server !== undefined) this.#servers.set(client, server);
    if (!readOnly) return;
    this.#readOnly.add(client);
    this.#readOnlyAt = performance.now();
  }

  /** Whether the connection was read-only when it was proved. */
  isReadOnly(client: object): boolean {
    return this.#readOnly.has(client);
  }

  /** The server that the connection reached, as its proof found it. */
  serverOf(client: object): string | undefined {
    return this.#servers.get(client);
  }

  /** Call this when a new connection accepts writes. Returns whether earlier connections were found read-only. */
  takesWritesAgain(): boolean {
    const again = this.#readOnlyAt !== undefined;
    this.#readOnlyAt = undefined;
    return again;
  }

  /** Whether a new connection should check if the server accepts writes again. @param now on `performance.now` */
  lookIsDue(now: number): boolean {
    return this.#readOnlyAt !== undefined && now - this.#readOnlyAt >= LOOK_EVERY;
  }

  /** Records that this check has begun. */
  looked(now: number): void {
    this.#readOnlyAt = now;
  }

  /** Records why a new connection could not be opened. */
  refused(fault: DatabaseFault): void {
    if (fault.reason === IN_RECOVERY || fault.reason === READ_ONLY)
      this.#refusal = { fault, until: performance.now() + REFUSED_FOR };
  }

  /** @throws DatabaseFault for which another connection was refused a moment ago */
  refuseAgain(): void {
    if (this.#refusal && performance.now() < this.#refusal.until) throw this.#refusal.fault;
  }
}
