// How long a read would wait on the lane (db/driver/lane/lane.ts): what each statement took of late, and which ones are under way.
import { statementName } from '../statement-names.js';

/** Expected wait (ms) up to which one more read joins the lane. */
const LONGEST_WAIT = 250;

/** Expected time (ms) of all reads under way beyond which the lane is given up, and they run on connections of their own. */
const TOO_LONG = 500;

/**
 * What a statement takes is the mean over its last answers: as many as took this long (ms) together, or this number of them.
 * Over less, one late answer of a busy machine would look like a slow statement.
 */
const MEASURED_OVER = 200;
const MEASURED_ANSWERS = 256;

/** A read, as the lanes of one pool know it. */
export interface LaneStatement {
  /** Of the prepared statement; undefined if there is none, and then it never rides. */
  readonly name: string | undefined;
  readonly text: string;
  /** Mean time (ms) from the answer before to its own; 0 until that is known. */
  took: number;
  inFlight: number;
  /** What the next mean is made of: answers, and the time (ms) of all of them. */
  answers: number;
  busy: number;
  /** It keeps off the lane until then, on `performance.now`. */
  keptOffUntil: number;
}

/** Of one pool: it outlives the lanes. */
export class LaneLoad {
  readonly #statements = new Map<string, LaneStatement>();
  #inFlight = 0;
  /** The sum over all reads under way of what their statements took, in ms. */
  #expected = 0;

  statement(text: string): LaneStatement {
    return this.#statements.get(text) ?? this.#learn(text);
  }

  /** Whether one more read would wait too long. */
  get isFull(): boolean {
    return this.#expected > LONGEST_WAIT;
  }

  /** Whether the reads under way wait too long: their statements took longer than was known when they joined. */
  get isOverfull(): boolean {
    return this.#expected > TOO_LONG;
  }

  begin(statement: LaneStatement): void {
    this.#inFlight += 1;
    statement.inFlight += 1;
    this.#expected += statement.took;
  }

  /** @param took from the answer before it to its own, in ms; undefined if it was not answered */
  end(statement: LaneStatement, took: number | undefined): void {
    this.#inFlight -= 1;
    statement.inFlight -= 1;
    this.#expected -= statement.took;
    if (took !== undefined) {
      statement.answers += 1;
      statement.busy += took;
      if (statement.busy >= MEASURED_OVER || statement.answers >= MEASURED_ANSWERS) this.#measure(statement);
    }
    // Sums of fractions drift.
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
    // Those with a name are bounded in number.
    if (name !== undefined) this.#statements.set(text, statement);
    return statement;
  }
}
