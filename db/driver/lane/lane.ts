// The lane: one pipelined connection that short reads of a database share. Each is sent at once and answered in order, so
// that one connection carries what would take several, and packets carry several statements. What a shared connection must
// not do is wait: the server ends a statement that takes long, and its like keep off the lane for a while; a lane that
// answers nothing any more is cut.
import type { Writable } from 'node:stream';
import pg from 'pg';
import { ClientConnection, type Ending } from '../connection.js';
import { addressOf } from '../destinations.js';
import { DatabaseFault, hasSqlState, statementFault, TAKES_NO_WRITES } from '../database-fault.js';
import type { LaneLoad, LaneStatement } from './lane-load.js';
import { ask } from '../query.js';
import { nextTurn } from '../../../src/lib/turns.js';

/*
 * States of a lane, and what changes them:
 *
 *     opening  → open       it has connected, and proved whose database it reached
 *     opening  → gone       it could not
 *     open     → closing    close(): it is unused, a table changed, or its connection is needed for other work; what is under
 *                           way is answered, and nothing more is taken
 *     open     → abandoned  a read took too long, or those under way would: they run again on connections of their own
 *     open     → lost       the connection broke, or nothing was answered for SILENCE: the reads under way fail together, which
 *                           is one outcome (takeLoss)
 *     closing, abandoned, lost → gone   the connection has closed
 */

/** Longest run (ms) of a statement on the lane; beyond it everybody behind would wait too. */
const STATEMENT_TIMEOUT = 500;

/** Longest wait (ms) for a lock: reads wait for locks only while a table is changed. */
const LOCK_TIMEOUT = 100;

/** A lane on which nothing was answered for this long (ms), though something is under way, hangs. */
const SILENCE = 1_500;

/** How long (ms) a statement that took too long keeps off the lane. */
const KEPT_OFF = 60_000;

/** Statements under way on one lane, at most. */
const MAX_IN_FLIGHT = 500;

/** Time (ms) after which reads under way that seem to wait too long are looked at again: one late answer proves nothing. */
const LOOK_AGAIN = 100;

const QUERY_CANCELED = '57014';
const LOCK_NOT_AVAILABLE = '55P03';
const RESULT_CHANGED = '0A000';
const NOT_PREPARED = '26000';

/** The streams of lanes that something was written to since the event loop last looked for new input. */
const heldBack: Writable[] = [];

/** Makes one packet of all that is written before then: a write costs more than all else that a lane does. */
function holdBack(stream: Writable): void {
  if (stream.writableCorked > 0) return;
  stream.cork();
  // One callback for all lanes: where there are many, each has little to send.
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
  /** Whether the timer is set for a silence, and not for the end of the idle time. */
  #watched = false;
  #hung = false;
  /** Set when it was cut because something on it took too long: what else was under way can be run elsewhere. */
  #abandoned = false;
  #ready = false;
  /** What the connection was lost to, until it is taken. */
  #loss: DatabaseFault | undefined;
  #lossTaken = false;
  /** Set while reads under way seem to wait too long. */
  #lookAgain: NodeJS.Timeout | undefined;
  /** Whether its server was known to take no writes when it was opened. */
  readOnly = false;
  /** When it is too old (on `performance.now`). */
  #expiresAt = Infinity;

  /**
   * @param load kept by the pool, which opens one lane after the other
   * @param limits longest wait for the connection and its proof, how long it is kept without use, how long any statement may
   *   run, and how long it is kept at all, in ms
   * @param beginsToClose called once, when it is asked to close
   * @param tookNoWrite called when a server that took writes takes none
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

  /** Statements under way. */
  get inFlight(): number {
    return this.#ready ? this.#inFlight : 1;
  }

  /** Whether it takes reads: neither closing nor lost. */
  get isOpen(): boolean {
    return this.#ready;
  }

  /** The backend's process id. */
  get pid(): number | null {
    return this.#client.processID;
  }

  /** The server's address; undefined when the socket is closed. */
  get address(): string | undefined {
    return addressOf(this.#client);
  }

  /** Connects. @throws what pg or `prove` throws */
  async open(prove: (client: pg.ClientBase) => Promise<void>): Promise<void> {
    await this.#client.open(this.limits.connectTimeout, prove);
    this.#ready = true;
    this.#expiresAt = performance.now() + this.limits.lifetime;
    this.#watchIn(this.limits.idleTimeout);
  }

  /** Whether the statement may ride on the lane now. */
  takes(statement: LaneStatement): boolean {
    const { name, keptOffUntil } = statement;
    if (!this.#ready || name === undefined || this.#inFlight >= MAX_IN_FLIGHT || this.load.isFull) return false;
    if (keptOffUntil === 0) return true;
    if (performance.now() < keptOffUntil) return false;
    statement.keptOffUntil = 0;
    return true;
  }

  /**
   * Its rows, or undefined where it, or something before it, took too long: it has changed nothing, and can be run elsewhere.
   *
   * @throws DatabaseFault, or the server's error
   */
  async read<R>(statement: LaneStatement, values: readonly unknown[]): Promise<R[] | undefined> {
    this.#begin(statement);
    try {
      const { rows } = await ask<R>(this.#client, statement.name, statement.text, values);
      return rows;
    } catch (error) {
      // All that were under way fail together.
      if (!this.#ready) await nextTurn();
      if (this.#hung) throw this.#lose(new DatabaseFault('timeout', 'no answer'));
      if (hasSqlState(error, QUERY_CANCELED) || hasSqlState(error, LOCK_NOT_AVAILABLE)) {
        statement.keptOffUntil = performance.now() + KEPT_OFF;
        // Those behind it may be of its kind, and each would wait for its own deadline in turn.
        this.#abandon();
      }
      if (this.#abandoned) return undefined;
      // A table has changed: the statement's result no longer fits what was prepared, on this connection for ever.
      if (hasSqlState(error, RESULT_CHANGED)) {
        this.close();
        return undefined;
      }
      // Sent behind the one that was to prepare it, which failed.
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
   * What the connection was lost to; undefined if it was not, and from the second call on. The reads that were under way fail
   * together, and that is one failure of one connection.
   */
  takeLoss(): DatabaseFault | undefined {
    if (this.#lossTaken) return undefined;
    this.#lossTaken = this.#loss !== undefined;
    return this.#loss;
  }

  /** Lets what is under way finish and closes the connection. */
  close(): void {
    // Each read that finds a changed table comes here.
    if (this.#client.closing) return;
    this.#ready = false;
    clearTimeout(this.#watch);
    this.beginsToClose();
    // What is under way is bounded by the statement's deadline; a server that hangs is not waited for.
    this.#client.close(SILENCE);
  }

  /** Ends it on this side at once. */
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

  /** One timer a lane, looked at when it fires: one for each statement would cost more than all else that is done here. */
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

  /** Remembers the first fault, which says more than those that follow from it. */
  #lose(fault: DatabaseFault): DatabaseFault {
    this.#loss ??= fault;
    this.cut();
    return fault;
  }
}
