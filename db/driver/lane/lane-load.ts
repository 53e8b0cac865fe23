// How long a read would wait on the lane (db/driver/lane/lane.ts): the recent run times of each statement, and the reads under
// way.
import { statementName } from '../statement-names.js';

/** One more read may join the lane while the expected wait (ms) is at most this. */
const LONGEST_WAIT = 250;

/**
 * If the expected time (ms) of all reads under way exceeds this, the lane is given up. The reads run on connections of their
 * own.
 */
const TOO_LONG = 500;

/**
 * A statement's time is its mean over the last answers: over 200 ms of answers, or over 256 answers, whichever comes first. With
 * fewer answers, one late answer of a busy machine would look like a slow statement.
 */
const MEASURED_OVER = 200;
const MEASURED_ANSWERS = 256;

/** A read, as the lanes of one pool see it. */
export interface LaneStatement {
  /** The prepared statement's name. A statement without a name never uses the lane. */
  readonly name: string | undefined;
  readonly text: string;
  /** Mean time (ms) between the previous answer on the lane and its own answer; 0 until it is measured. */
  took: number;
  inFlight: number;
  /** The sample for the next mean: the number of answers, and their total time (ms). */
  answers: number;
  busy: number;
  /** The statement does not use the lane before this time, on `performance.now`. */
  keptOffUntil: number;
}

/** The load of one pool's lanes. It outlives each lane. */
export class LaneLoad {
  readonly #statements = new Map<string, LaneStatement>();
  #inFlight = 0;
  /** The sum of `took` (ms) over all reads under way. */
  #expected = 0;

  statement(text: string): LaneStatement {
    return this.#statements.get(text) ?? this.#learn(text);
  }

  /** Whether one more read would wait too long. */
  get isFull(): boolean {
    return this.#expected > LONGEST_WAIT;
  }

  /** Whether the reads under way wait too long: their statements took longer than expected when they joined. */
  get isOverfull(): boolean {
    return this.#expected > TOO_LONG;
  }

  begin(statement: LaneStatement): void {
    this.#inFlight += 1;
    statement.inFlight += 1;
    this.#expected += statement.took;
  }

  /** @param took time (ms) from the previous answer to its own; undefined if it was not answered */
  end(statement: LaneStatement, took: number | undefined): void {
    this.#inFlight -= 1;
    statement.inFlight -= 1;
    this.#expected -= statement.took;
    if (took !== undefined) {
      statement.answers += 1;
      statement.busy += took;
      if (statement.busy >= MEASURED_OVER || statement.answers >= MEASURED_ANSWERS) this.#measure(statement);
    }
    // Sums of fractions accumulate rounding errors.
    if (this.#inFlight === 0) this.#expected = 0;
  }

  #measure(statement: LaneStatement): void {
    const before = statement.took;
    statement.took = statement.busy / statement.answers;
    this.#expected += (statement.took - before) * statement.inFlight;
    statement.answers = 0;
    statement.busy = 0;
  }

  #learn(text: string): LaneStatement {
    const name = statementName(text);
    const statement = { name, text, took: 0, inFlight: 0, answers: 0, busy: 0, keptOffUntil: 0 };
    // Only statements with a name are stored: their number is bounded.
    if (name !== undefined) this.#statements.set(text, statement);
    return statement;
  }
}
