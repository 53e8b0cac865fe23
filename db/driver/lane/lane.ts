// The lane: one pipelined connection that short reads of a database share. Each read is sent at once and answered in order. One
// connection then carries the reads of several, and one packet carries several statements. A shared connection must not wait. The
// server ends a statement that takes long, and that statement is kept off the lane for a while. A lane that answers nothing is
// cut.
import type { Writable } from 'node:stream';
import pg from 'pg';
import { ClientConnection, type Ending } from '../connection.js';
import { addressOf } from '../destinations.js';
import { DatabaseFault, hasSqlState, statementFault, TAKES_NO_WRITES } from '../database-fault.js';
import type { LaneLoad, LaneStatement } from './lane-load.js';
import { ask } from '../query.js';
import { QUERY_CANCELED } from '../sqlstates.js';
import { nextTurn } from '../../../src/lib/turns.js';

/*
 * States of a lane, and what changes them:
 *
 *     opening  → open       its connection is open, and proved that it reached the right database
 *     opening  → gone       it could not connect, or the proof failed
 *     open     → closing    close(): it is unused, a table changed, or its slot is needed for other work; reads under way are
 *                           answered, and no further read is accepted
 *     open     → abandoned  a read took too long, or the reads under way would: they run again on connections of their own
 *     open     → lost       the connection broke, or no answer came for SILENCE: the reads under way fail together, which
 *                           is one outcome (takeLoss)
 *     closing, abandoned, lost → gone   the connection has closed
 */

/** Longest run (ms) of a statement on the lane. All later statements on the lane wait for it. */
const STATEMENT_TIMEOUT = 500;

/** Longest wait (ms) for a lock: reads wait for locks only while a table is changed. */
const LOCK_TIMEOUT = 100;

/** If no answer comes for this long (ms) while something is under way, the lane hangs. */
const SILENCE = 1_500;

/** How long (ms) a statement that took too long is kept off the lane. */
const KEPT_OFF = 60_000;

/** Statements under way on one lane, at most. */
const MAX_IN_FLIGHT = 500;

/** If the reads under way seem to wait too long, the lane checks again after this time (ms): one late answer proves nothing. */
const LOOK_AGAIN = 100;

const LOCK_NOT_AVAILABLE = '55P03';
const RESULT_CHANGED = '0A000';
const NOT_PREPARED = '26000';

/** The streams of lanes that were written to since the event loop last read input. */
const heldBack: Writable[] = [];

/**
 * Combines everything written in one turn of the event loop into one packet. A write costs more than everything else in a lane.
 */
function holdBack(stream: Writable): void {
  if (stream.writableCorked > 0) return;
  stream.cork();
  // One callback for all lanes: if there are many lanes, each has little to send.
  if (heldBack.push(stream) === 1) setImmediate(send);
}

function send(): void {
  for (const stream of heldBack.splice(0)) stream.uncork();
}

export class Lane {
  readonly #client: ClientConnection;
  #inFlight = 0;
  #lastAnswer = 0;
  #lastUse = performance.now();
  #watch: NodeJS.Timeout | undefined;
  /** Whether the timer is set for a silence rather than for the end of the idle time. */
  #watched = false;
  #hung = false;
  /** Set if the lane was cut because something on it took too long. The other reads under way can run elsewhere. */
  #abandoned = false;
  #ready = false;
  /** Why the connection was lost; see takeLoss. */
  #loss: DatabaseFault | undefined;
  #lossTaken = false;
  /** Set while reads under way seem to wait too long. */
  #lookAgain: NodeJS.Timeout | undefined;
  /** Whether the server was read-only when the lane was opened. */
  readOnly = false;
  /** When the lane is too old (on `performance.now`). */
  #expiresAt = Infinity;

  /**
   * @param load belongs to the pool, which opens one lane after the other
   * @param limits in ms: longest wait for the connection and its proof, longest time without use, longest run of any statement,
   *   longest life of the lane
   * @param beginsToClose called once, when the lane begins to close
   * @param tookNoWrite called when a server that accepted writes answers that it accepts none
   * @param gone called once, when the connection has closed or could not be opened
   */
  constructor(
    config: pg.ClientConfig,
    private readonly load: LaneLoad,
    private readonly limits: {
      readonly connectTimeout: number;
      readonly idleTimeout: number;
      readonly statementTimeout: number;
      readonly lifetime: number;
    },
    private readonly beginsToClose: () => void,
    private readonly tookNoWrite: () => void,
    gone: (ending: Ending) => void,
  ) {
    this.#client = new ClientConnection({
      ...config,
      pipeline: true,
      statement_timeout: Math.min(STATEMENT_TIMEOUT, limits.statementTimeout),
      lock_timeout: LOCK_TIMEOUT,
    });
    void this.#client.closed.then((ending) => {
      this.#ready = false;
      clearTimeout(this.#watch);
      clearTimeout(this.#lookAgain);
      gone(ending);
    });
  }

  /** Statements under way; 1 if the lane is not ready, so that it never counts as idle. */
  get inFlight(): number {
    return this.#ready ? this.#inFlight : 1;
  }

  /** Whether the lane accepts reads: it is neither closing nor lost. */
  get isOpen(): boolean {
    return this.#ready;
  }

  /** The backend's process id. */
  get pid(): number | null {
    return this.#client.backendId;
  }

  /** The server's address; undefined when the socket is closed. */
  get address(): string | undefined {
    return addressOf(this.#client);
  }

  /** Connects. @throws what pg or `prove` throws */
  async open(prove: (client: ClientConnection) => Promise<void>): Promise<void> {
    await this.#client.open(this.limits.connectTimeout, prove);
    this.#ready = true;
    this.#expiresAt = performance.now() + this.limits.lifetime;
    this.#watchIn(this.limits.idleTimeout);
  }

  /** Whether the statement may use the lane now. */
  takes(statement: LaneStatement): boolean {
    const { name, keptOffUntil } = statement;
    if (!this.#ready || name === undefined || this.#inFlight >= MAX_IN_FLIGHT || this.load.isFull) return false;
    if (keptOffUntil === 0) return true;
    if (performance.now() < keptOffUntil) return false;
    statement.keptOffUntil = 0;
    return true;
  }

  /**
   * Runs a read. Returns its rows, or undefined if it or an earlier read took too long. Then the read has changed nothing, and
   * can run elsewhere.
   *
   * @throws DatabaseFault, or the server's error
   */
  async read<R>(statement: LaneStatement, values: readonly unknown[]): Promise<R[] | undefined> {
    this.#begin(statement);
    try {
      const { rows } = await ask<R>(this.#client, statement.name, statement.text, values);
      return rows;
    } catch (error) {
      // All reads that were under way fail together.
      if (!this.#ready) await nextTurn();
      if (this.#hung) throw this.#lose(new DatabaseFault('timeout', 'no answer'));
      if (hasSqlState(error, QUERY_CANCELED) || hasSqlState(error, LOCK_NOT_AVAILABLE)) {
        statement.keptOffUntil = performance.now() + KEPT_OFF;
        // The reads after it may be of the same kind, and each would wait for its own deadline in turn.
        this.#abandon();
      }
      if (this.#abandoned) return undefined;
      // A table has changed: the result no longer fits the prepared statement, for the rest of this connection's life.
      if (hasSqlState(error, RESULT_CHANGED)) {
        this.close();
        return undefined;
      }
      // An earlier read was to prepare this statement, and failed.
      if (hasSqlState(error, NOT_PREPARED)) return undefined;
      if (hasSqlState(error, TAKES_NO_WRITES) && !this.readOnly) {
        this.close();
        this.tookNoWrite();
      }
      const fault = statementFault(error);
      const answered = error instanceof pg.DatabaseError && error.severity === 'ERROR';
      throw fault && !answered ? this.#lose(fault) : (fault ?? error);
    } finally {
      this.#end(statement);
    }
  }

  /**
   * Why the connection was lost. Undefined if it was not lost, and from the second call on: all reads under way fail together,
   * which counts as one failure of one connection.
   */
  takeLoss(): DatabaseFault | undefined {
    if (this.#lossTaken) return undefined;
    this.#lossTaken = this.#loss !== undefined;
    return this.#loss;
  }

  /** Lets the reads under way finish, then closes the connection. */
  close(): void {
    // Each read that finds a changed table calls this.
    if (this.#client.closing) return;
    this.#ready = false;
    clearTimeout(this.#watch);
    this.beginsToClose();
    // The statement timeout bounds the reads under way. The margin ends the wait for a server that hangs.
    this.#client.close(SILENCE);
  }

  /** Closes the connection on this side at once. */
  cut(): void {
    this.#ready = false;
    this.#client.cut();
  }

  #begin(statement: LaneStatement): void {
    this.load.begin(statement);
    holdBack(this.#client.connection.stream);
    this.#lastUse = performance.now();
    if (this.#inFlight === 0) this.#lastAnswer = this.#lastUse;
    this.#inFlight += 1;
    if (!this.#watched) this.#watchIn(SILENCE);
    this.#watched = true;
  }

  #end(statement: LaneStatement): void {
    const now = performance.now();
    this.load.end(statement, this.#ready ? now - this.#lastAnswer : undefined);
    this.#inFlight -= 1;
    this.#lastAnswer = now;
    if (!this.load.isOverfull || !this.#ready || this.#lookAgain) return;
    this.#lookAgain = setTimeout(() => {
      this.#lookAgain = undefined;
      if (this.#ready && this.load.isOverfull) this.#abandon();
    }, LOOK_AGAIN);
    this.#lookAgain.unref();
  }

  /** One timer for the whole lane. A timer for each statement would cost more than everything else here. */
  #watchIn(ms: number): void {
    clearTimeout(this.#watch);
    this.#watch = setTimeout(() => {
      this.#look();
    }, ms);
    this.#watch.unref();
  }

  #look(): void {
    const now = performance.now();
    this.#watched = this.#inFlight > 0;
    if (this.#inFlight > 0 && now - this.#lastAnswer >= SILENCE) {
      this.#hung = true;
      this.cut();
    } else if (now >= this.#expiresAt) this.close();
    else if (this.#inFlight > 0) this.#watchIn(SILENCE - (now - this.#lastAnswer));
    else if (now - this.#lastUse >= this.limits.idleTimeout) this.close();
    else this.#watchIn(this.limits.idleTimeout - (now - this.#lastUse));
  }

  #abandon(): void {
    this.#abandoned = true;
    this.cut();
  }

  /** Stores the first fault only: it says more than the faults that follow from it. */
  #lose(fault: DatabaseFault): DatabaseFault {
    this.#loss ??= fault;
    this.cut();
    return fault;
  }
}
