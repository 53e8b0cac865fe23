// The failures that count towards opening a breaker, and whether the failures of a cluster show that the whole server is at
// fault. Each failure is a separate connection: db/driver/lane/lane-keeper.ts reports what fails together on one connection once.

/** A breaker opens after this many failures in a row, all within this time (ms). */
const FAILURES_TO_OPEN = 3;
const WINDOW = 10_000;

/** The most failures that are kept while they do not suffice: a single tenant may have many. */
const MOST_KEPT = 20;

export interface Failure {
  readonly at: number;
  /** The tenant whose database the connection was to. */
  readonly tenantId: string;
  /** `opening`: the connection could not be opened. `use`: it was open. `probe`: a probe failed. */
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

  /** Adds a failure, and forgets the failures that are too old. */
  add(failure: Failure): void {
    this.#failures = this.#failures.filter(({ at }) => failure.at - at < WINDOW);
    this.#failures.push(failure);
    if (this.#failures.length > MOST_KEPT) this.#failures.shift();
  }

  /** Whether all failures are too old. */
  isOld(now: number): boolean {
    return this.#failures.every(({ at }) => now - at >= WINDOW);
  }

  /** A success ends the row of failures. */
  clear(): void {
    this.#failures = [];
  }

  /**
   * Whether the server is at fault, and not the database or the backend of a single tenant. A failed probe shows that. Failed new
   * connections of two tenants show it too: each tenant is a probe for the other. While a probe waits for its answer, any
   * failures of two tenants are enough.
   *
   * @param probeWaits whether a probe has waited for its answer longer than a healthy server takes
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
