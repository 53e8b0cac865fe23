// When requests are refused because the process cannot keep up with them.
//
//     calm      → refusing   several turns of the event loop in a row took longer than the limit. One may be a pause: garbage
//                            collection, or a host that gave the processor to others
//     refusing  → calm       for some time nothing was refused, and the last turn was short
//
// While it refuses, the first requests of each turn are served, up to a part of the limit. What exceeds the capacity is then refused
// in the turn in which it arrives, and what is served waits for a short time only.

/** Long turns in a row that are no pause. */
const LONG_TURNS = 3;

/** The part of the limit for requests that begin. The turn also needs time for the answers of earlier ones. */
const PART_TO_BEGIN = 0.25;

/** For how long (ms) nothing must have been refused. */
const CALM_AFTER = 1_000;

/** One time of overload, when it is over. */
export interface OverloadEnded {
  readonly refused: number;
  /** ms */
  readonly duration: number;
}

export class Overload {
  #longTurns = 0;
  #refusing = false;
  #since = 0;
  #refused = 0;
  #lastRefusedAt = 0;

  /**
   * @param limit ms that a turn may take
   * @param told when it begins, with the length (ms) of the last turn, and when it has ended
   */
  constructor(
    private readonly limit: number,
    private readonly told: { readonly begun: (turn: number) => void; readonly ended: (past: OverloadEnded) => void },
    private readonly now: () => number = () => performance.now(),
  ) {}

  /** @param worked the length (ms) of the turn */
  turnEnded(worked: number): void {
    this.#longTurns = worked > this.limit ? this.#longTurns + 1 : 0;
    if (this.#refusing) this.#calmDown();
    else if (this.#longTurns >= LONG_TURNS) {
      this.#refusing = true;
      this.#refused = 0;
      this.#since = this.#lastRefusedAt = this.now();
      this.told.begun(worked);
    }
  }

  /**
   * Whether a request that is read now is refused. Ask only between `begun` and `ended`.
   *
   * @param worked how long (ms) the present turn has worked
   */
  refuses(worked: number): boolean {
    if (worked <= this.limit * PART_TO_BEGIN) return false;
    this.#refused += 1;
    this.#lastRefusedAt = this.now();
    return true;
  }

  #calmDown(): void {
    const now = this.now();
    if (this.#longTurns > 0 || now - this.#lastRefusedAt < CALM_AFTER) return;
    this.#refusing = false;
    this.told.ended({ refused: this.#refused, duration: now - this.#since });
  }
}
