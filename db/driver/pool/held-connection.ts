// One connection in use, on which Kysely and compiled statements run. It knows when it can no longer be trusted: after a
// statement without an answer, in an open transaction, or after an error that was not the statement's own.
import type { PostgresCursor, PostgresPoolClient, PostgresQueryResult } from 'kysely';
import pg from 'pg';
import { connectFault, DatabaseFault, hasSqlState, statementFault, TAKES_NO_WRITES } from '../database-fault.js';
import type { PooledClient } from './pooled-client.js';
import { ask } from '../query.js';
import { QUERY_CANCELED, SPOILED } from '../sqlstates.js';
import { LIFT_DEADLINE, RESTORE_DEADLINE } from '../statement-deadline.js';
import { statementName } from '../statement-names.js';
import { ClientLeft, type Requester } from '../../../src/lib/requester.js';

/** PostgreSQL's source file of the notices about synchronous replication. Their text is in the server's language. */
const SYNCHRONOUS_REPLICATION = 'syncrep.c';

/** A statement that has run for less than this time (ms) is not cancelled yet: most end by themselves, at a lower price. */
const NOT_CANCELLED_BEFORE = 20;

export class Session implements PostgresPoolClient {
  /** Since when the session is unused; meaningless while it is in use. */
  idleSince = 0;
  /** When the last statement was sent. */
  askedAt = 0;
  /** Set when the connection leads to the wrong server, is too old, or has spoiled statements. It is not handed out again. */
  retired = false;
  /** Set when another connection of the pool has met a changed table since this one was opened. */
  outgrown = false;
  /** Whether the server was read-only when the connection was opened. */
  readOnly = false;
  /** When the connection is too old (on `performance.now`). */
  expiresAt = Infinity;
  /** Call this when the connection has closed. */
  left: (() => void) | undefined;
  #running = 0;
  /** Set when the server stopped waiting for a synchronous standby. A commit that it then reports may be lost. */
  #unreplicated = false;
  /** When the running statement must have been answered. */
  #deadline = Infinity;
  /** Whether statements have a deadline. */
  #hurried = true;
  /** The error after which the connection's state is unknown. */
  #doubt: Error | undefined;
  /** Set if this side cut the connection: the driver only reports that the connection is gone. */
  #cutBecause: DatabaseFault | undefined;

  /**
   * @param queryTimeout longest wait (ms) for an answer; the caller of `checkDeadline` enforces it
   * @param told callbacks: `released` when the session is given back; `cancelled` when the server is asked to cancel a statement;
   *   `spoiled` when a prepared statement no longer fits; `tookNoWrite` when a server that accepted writes answers that it accepts
   *   none
   */
  constructor(
    readonly client: PooledClient,
    private readonly prepared: boolean,
    private readonly queryTimeout: number,
    private readonly told: {
      readonly released: (session: Session) => void;
      readonly cancelled: () => void;
      readonly spoiled: () => void;
      readonly tookNoWrite: () => void;
    },
  ) {
    // A backend that dies raises 'error' on its client. Without a listener the process would end. The session's holder gets the
    // error from its next statement.
    client.on('error', (error) => {
      this.#doubt ??= connectFault(error);
    });
    client.on('notice', (notice) => {
      if (notice.file === SYNCHRONOUS_REPLICATION) this.#unreplicated = true;
    });
  }

  /** Whether the next holder gets the session as good as new: nothing runs, no transaction is open, nothing is in doubt. */
  get clean(): boolean {
    return !this.#doubt && this.#running === 0 && this.client.getTransactionStatus() === 'I';
  }

  /** Why the connection was lost, if it was. */
  get fault(): DatabaseFault | undefined {
    return this.#doubt instanceof DatabaseFault ? this.#doubt : undefined;
  }

  query<R>(text: string, values: readonly unknown[]): Promise<PostgresQueryResult<R>>;
  query<R>(cursor: PostgresCursor<R>): PostgresCursor<R>;
  query<R>(
    text: string | PostgresCursor<R>,
    values: readonly unknown[] = [],
  ): Promise<PostgresQueryResult<R>> | PostgresCursor<R> {
    if (typeof text !== 'string') throw new TypeError('cursors are not supported: a page is a query of its own');
    return this.run<R>(text, values);
  }

  /** @param prepared whether the statement is prepared, if it may be: by default as the pool says */
  async run<R>(text: string, values: readonly unknown[], prepared = this.prepared): Promise<PostgresQueryResult<R>> {
    // After a statement without an answer, the ROLLBACK would wait for the whole deadline a second time. Its error would hide the
    // first one.
    if (this.#doubt) throw this.#doubt;
    const name = prepared ? statementName(text) : undefined;
    this.#running += 1;
    this.askedAt = performance.now();
    this.#deadline = this.#hurried ? this.askedAt + this.queryTimeout : Infinity;
    try {
      const result = await this.#ask<R>(name, text, values);
      // The server answers the COMMIT of a failed transaction with ROLLBACK and no error. The lost write would be acknowledged.
      if (text === 'commit' && (result.command as string) !== 'COMMIT')
        throw new DatabaseFault('unavailable', 'the transaction had failed and was rolled back');
      if (text === LIFT_DEADLINE) this.#hurried = false;
      else if (text === RESTORE_DEADLINE) this.#hurried = true;
      if (this.#unreplicated) throw new DatabaseFault('timeout', 'no synchronous standby confirmed the write');
      return result;
    } catch (error) {
      const tookNoWrite = error instanceof pg.DatabaseError && error.code === TAKES_NO_WRITES && !this.readOnly;
      // The session is clean, but on the wrong server.
      const answered = error instanceof pg.DatabaseError && error.severity === 'ERROR' && !tookNoWrite;
      const thrown = (answered ? undefined : this.#cutBecause) ?? statementFault(error) ?? error;
      // After a timeout the answer may still arrive, and would be read as the answer to the next query. A spoiled connection
      // stays spoiled: after DDL, for example, the result of a named statement no longer fits.
      const spoiled = name !== undefined && isSpoiled(error);
      if (!answered || spoiled) this.#doubt ??= thrown as Error;
      if (spoiled) this.#spoil();
      if (tookNoWrite) this.told.tookNoWrite();
      throw thrown;
    } finally {
      this.#running -= 1;
      if (this.#running === 0) this.#deadline = Infinity;
    }
  }

  /**
   * Like `run`, for a statement that changes nothing: it is cancelled if its requester leaves. Returns when the session may be used
   * again, or is marked as not usable.
   *
   * @throws ClientLeft if it was cancelled
   */
  async runFor<R>(requester: Requester, text: string, values: readonly unknown[]): Promise<PostgresQueryResult<R>> {
    let timer: NodeJS.Timeout | undefined;
    let cancelling: Promise<void> | undefined;
    const left = (): void => {
      timer = setTimeout(
        () => {
          cancelling = this.#cancel();
        },
        NOT_CANCELLED_BEFORE - (performance.now() - this.askedAt),
      );
    };
    requester.once('close', left);
    try {
      const answer = this.run<R>(text, values);
      if (requester.destroyed) left();
      return await answer;
    } catch (error) {
      throw cancelling && hasSqlState(error, QUERY_CANCELED) ? new ClientLeft() : error;
    } finally {
      requester.off('close', left);
      clearTimeout(timer);
      // Here and not in the background: the request that gets the session next must not be the one that is cancelled.
      if (cancelling) await cancelling;
    }
  }

  async #cancel(): Promise<void> {
    this.told.cancelled();
    // The request may still be on its way. It must find no other statement on this connection.
    if ((await this.client.requestCancel()) === 'unknown') this.retired = true;
  }

  /**
   * A prepared statement may no longer fit: after DDL, for example, its result would look different. PostgreSQL says so before it
   * runs anything. Outside a transaction the statement is then sent once more, unprepared.
   */
  async #ask<R>(name: string | undefined, text: string, values: readonly unknown[]): Promise<PostgresQueryResult<R>> {
    const isAlone = this.client.getTransactionStatus() === 'I';
    try {
      return await ask<R>(this.client, name, text, values);
    } catch (error) {
      if (name === undefined || !isAlone || !isSpoiled(error)) throw error;
      this.#spoil();
      return ask<R>(this.client, undefined, text, values);
    }
  }

  /** The other statements that it has prepared may not fit either. Other connections may have prepared the same ones. */
  #spoil(): void {
    this.retired = true;
    // The pool knows of the change that this one has met, and newer connections may have been opened after it.
    if (!this.outgrown) this.told.spoiled();
  }

  /** Gives the session back to the pool. */
  release(): void {
    this.told.released(this);
  }

  /** Cuts the connection if an answer is overdue. */
  checkDeadline(now: number): void {
    if (now > this.#deadline) this.cut(new DatabaseFault('timeout', 'no answer'));
  }

  /** Cuts the connection. Every running or later statement on it fails with `reason`. */
  cut(reason: DatabaseFault): void {
    this.#doubt ??= reason;
    this.#cutBecause = reason;
    this.client.cut();
  }
}

function isSpoiled(error: unknown): boolean {
  return error instanceof pg.DatabaseError && SPOILED.has(error.code ?? '');
}
