// The failures that count towards opening a breaker, and whether those of a cluster show that the whole server is at fault. Each
// failure is a connection of its own: what fails together on one connection is reported once (db/driver/lane/lane-keeper.ts).

/** Failures in a row that open a breaker, and the time (ms) within which they must lie. */
const FAILURES_TO_OPEN = 3;
const WINDOW = 10_000;

/** Failures kept while they do not suffice: those of one tenant may be many. */
const MOST_KEPT = 20;

export interface Failure {
  readonly at: number;
  /** Whose database the connection was to. */
  readonly tenantId: string;
  /** `opening`: the connection did not come about. `use`: it was open. `probe`: a probe failed. */
  readonly during: 'opening' | 'use' | 'probe';
}

export class Evidence {
  #failures: Failure[] = [];

  /** Failures in a row. */
  get size(): number {
    return this.#failures.length;
  }

  get last(): Failure | undefined {
    return this.#failures.at(-1);
  }

  /** Whether there are enough failures to open a breaker. */
  get suffices(): boolean {
    return this.#failures.length >= FAILURES_TO_OPEN;
  }

  /** Takes one more into account, and forgets those that are too old. */
  add(failure: Failure): void {
    this.#failures = this.#failures.filter(({ at }) => failure.at - at < WINDOW);
    this.#failures.push(failure);
    if (this.#failures.length > MOST_KEPT) this.#failures.shift();
  }

  /** Whether all of them are too old. */
  isOld(now: number): boolean {
    return this.#failures.every(({ at }) => now - at >= WINDOW);
  }

  /** For a success: the failures are no longer in a row. */
  clear(): void {
    this.#failures = [];
  }

  /**
   * Whether the server is at fault, and not the database or the backend of one tenant: a probe failed, or new connections of
   * two tenants failed, which is the same as a probe of one by the other. While a probe waits for its answer, failures of
   * two tenants are enough.
   *
   * @param probeWaits a probe has waited for its answer longer than a server takes that is in order
   */
  blamesServer(probeWaits: boolean): boolean {
    if (this.#failures.some(({ during }) => during === 'probe')) return true;
    return this.#tenants('opening') > 1 || (probeWaits && this.#tenants() > 1);
  }

  #tenants(during?: Failure['during']): number {
    const failures = this.#failures.filter((failure) => during === undefined || failure.during === during);
    return new Set(failures.map(({ tenantId }) => tenantId)).size;
  }
}
