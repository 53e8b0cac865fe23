// The lane: one pipelined connection that short reads of a database share. Each is sent at once and answered in order, so
// that one connection carries what would take several, and packets carry several statements. What a shared connection must
// not do is wait: the server ends a statement that takes long, and its like keep off the lane for a while; a lane that
// answers nothing any more is cut.
import type { Writable } from 'node:stream';
import pg from 'pg';
import { addressOf } from './destinations.js';
import { DatabaseFault, hasSqlState, statementFault, TAKES_NO_WRITES } from './errors.js';
import { ask } from './query.js';
import { nextTurn } from './turns.js';

/** A statement that changes nothing. Only named ones ride on a lane. */
export interface LaneQuery {
  readonly name: string | undefined;
  readonly text: string;
  readonly values: readonly unknown[];
}

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
  readonly #client: pg.Client & { readonly connection: pg.Connection };
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
  /** Whether its server was known to take no writes when it was opened. */
  readOnly = false;
  /** When it is too old (on `performance.now`). */
  #expiresAt = Infinity;

  /**
   * @param slow statements that are too slow for a lane, until when; kept by whoever opens one lane after the other
   * @param limits longest wait for the connection, how long it is kept without use, how long any statement may run, and how
   *   long it is kept at all, in ms
   * @param tookNoWrite called when a server that took writes takes none
   * @param gone called once, when the connection has closed or could not be opened
   */
  constructor(
    config: pg.ClientConfig,
    private readonly slow: Map<string, number>,
    private readonly limits: {
      readonly connectTimeout: number;
      readonly idleTimeout: number;
      readonly statementTimeout: number;
      readonly lifetime: number;
    },
    private readonly tookNoWrite: () => void,
    private readonly gone: () => void,
  ) {
    this.#client = new pg.Client({
      ...config,
      pipeline: true,
      statement_timeout: Math.min(STATEMENT_TIMEOUT, limits.statementTimeout),
      lock_timeout: LOCK_TIMEOUT,
      connectionTimeoutMillis: limits.connectTimeout,
    });
    this.#client.on('error', () => undefined);
    this.#client.once('end', () => {
      this.#ready = false;
      clearTimeout(this.#watch);
      this.gone();
    });
  }

  /** Statements under way. */
  get inFlight(): number {
    return this.#ready ? this.#inFlight : 1;
  }

  /** The server's address; undefined when the socket is closed. */
  get address(): string | undefined {
    return addressOf(this.#client);
  }

  /** Connects. @throws what pg or `prove` throws */
  async open(prove: (client: pg.ClientBase) => Promise<void>): Promise<void> {
    try {
      await this.#client.connect();
      await prove(this.#client);
    } catch (error) {
      this.#destroy();
      throw error;
    }
    this.#ready = true;
    this.#expiresAt = performance.now() + this.limits.lifetime;
    this.#watchIn(this.limits.idleTimeout);
  }

  /** Whether the statement may ride on the lane now. */
  takes({ name, text }: LaneQuery): boolean {
    if (!this.#ready || name === undefined || this.#inFlight >= MAX_IN_FLIGHT) return false;
    if (this.slow.size === 0) return true;
    const until = this.slow.get(text);
    if (until === undefined) return true;
    if (performance.now() < until) return false;
    this.slow.delete(text);
    return true;
  }

  /**
   * Its rows, or undefined where it, or something before it, took too long: it has changed nothing, and can be run elsewhere.
   *
   * @throws DatabaseFault, or the server's error
   */
  async read<R>({ name, text, values }: LaneQuery): Promise<R[] | undefined> {
    this.#begin();
    try {
      const { rows } = await ask<R>(this.#client, name, text, values);
      return rows;
    } catch (error) {
      // All that were under way fail together.
      if (!this.#ready) await nextTurn();
      if (this.#hung) throw new DatabaseFault('timeout', 'no answer');
      if (hasSqlState(error, QUERY_CANCELED) || hasSqlState(error, LOCK_NOT_AVAILABLE)) {
        this.slow.set(text, performance.now() + KEPT_OFF);
        // Those behind it may be of its kind, and each would wait for its own deadline in turn.
        this.#abandoned = true;
        this.#destroy();
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
      throw statementFault(error) ?? error;
    } finally {
      this.#inFlight -= 1;
      this.#lastAnswer = performance.now();
    }
  }

  /** Lets what is under way finish and closes the connection. */
  close(): void {
    this.#ready = false;
    // What is under way is bounded by the statement's deadline; a server that hangs is not waited for.
    this.#watchIn(SILENCE);
    void this.#client.end();
  }

  #begin(): void {
    holdBack(this.#client.connection.stream);
    this.#lastUse = performance.now();
    if (this.#inFlight === 0) this.#lastAnswer = this.#lastUse;
    this.#inFlight += 1;
    if (!this.#watched) this.#watchIn(SILENCE);
    this.#watched = true;
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
    if (!this.#ready || (this.#inFlight > 0 && now - this.#lastAnswer >= SILENCE)) {
      this.#hung = this.#ready;
      this.#destroy();
    } else if (now >= this.#expiresAt) this.close();
    else if (this.#inFlight > 0) this.#watchIn(SILENCE - (now - this.#lastAnswer));
    else if (now - this.#lastUse >= this.limits.idleTimeout) this.close();
    else this.#watchIn(this.limits.idleTimeout - (now - this.#lastUse));
  }

  #destroy(): void {
    this.#ready = false;
    this.#client.connection.stream.destroy();
  }
}
