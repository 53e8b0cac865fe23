// One connection in use: what Kysely and compiled statements run on. It knows when it can no longer be trusted: after a
// statement without an answer, in an open transaction, after an error that was not the statement's own.
import type { PostgresCursor, PostgresPoolClient, PostgresQueryResult } from 'kysely';
import pg from 'pg';
import { connectFault, DatabaseFault, statementFault, TAKES_NO_WRITES } from '../database-fault.js';
import type { PooledClient } from './pooled-client.js';
import { ask } from '../query.js';
import { SPOILED } from '../sqlstates.js';
import { statementName } from '../statement-names.js';

/** PostgreSQL's source file that a notice about synchronous replication comes from: its text is in the server's language. */
const SYNCHRONOUS_REPLICATION = 'syncrep.c';

export class Session implements PostgresPoolClient {
  /** Since when nobody uses it; meaningless while somebody does. */
  idleSince = 0;
  /** When the last statement was sent. */
  askedAt = 0;
  /** Set when it leads to the wrong server, or is old: it is not handed out again. */
  retired = false;
  /** Whether its server was known to take no writes when it was opened. */
  readOnly = false;
  /** When it is too old (on `performance.now`). */
  expiresAt = Infinity;
  /** To be called when it has closed. */
  left: (() => void) | undefined;
  #running = 0;
  /** Set by the server when it gave up waiting for a synchronous standby: what it then calls committed may be lost. */
  #unreplicated = false;
  /** When the statement that runs must have been answered. */
  #deadline = Infinity;
  /** What went wrong when the connection's state is no longer known. */
  #doubt: Error | undefined;
  /** Set where it was cut from this side: the driver only knows that it is gone. */
  #cutBecause: DatabaseFault | undefined;

  /**
   * @param queryTimeout longest wait (ms) for an answer, kept by whoever calls `checkDeadline`
   * @param told called: `released` when the session is given back; `tookNoWrite` when a server that took writes takes none
   */
  constructor(
    readonly client: PooledClient,
    private readonly prepared: boolean,
    private readonly queryTimeout: number,
    private readonly told: {
      readonly released: (session: Session) => void;
      readonly tookNoWrite: () => void;
    },
  ) {
    // A backend that dies raises 'error' on its client: without a listener the process would end. Whoever has the session
    // learns of it from the next statement.
    client.on('error', (error) => {
      this.#doubt ??= connectFault(error);
    });
    client.on('notice', (notice) => {
      if (notice.file === SYNCHRONOUS_REPLICATION) this.#unreplicated = true;
    });
  }

  /** Whether the next one who gets the session finds it as new: nothing runs, no transaction is open, nothing is in doubt. */
  get clean(): boolean {
    return !this.#doubt && this.#running === 0 && this.client.getTransactionStatus() === 'I';
  }

  /** What the connection was lost to, if it was. */
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

  async run<R>(text: string, values: readonly unknown[]): Promise<PostgresQueryResult<R>> {
    // Behind a statement that got no answer the ROLLBACK would wait for the whole deadline a second time, and its error
    // would hide the first one.
    if (this.#doubt) throw this.#doubt;
    const name = this.prepared ? statementName(text) : undefined;
    this.#running += 1;
    this.askedAt = performance.now();
    this.#deadline = this.askedAt + this.queryTimeout;
    try {
      const result = await ask<R>(this.client, name, text, values);
      // The server answers COMMIT of a failed transaction with ROLLBACK and no error: the write would be acknowledged and lost.
      if (text === 'commit' && (result.command as string) !== 'COMMIT')
        throw new DatabaseFault('unavailable', 'the transaction had failed and was rolled back');
      if (this.#unreplicated) throw new DatabaseFault('timeout', 'no synchronous standby confirmed the write');
      return result;
    } catch (error) {
      const tookNoWrite = error instanceof pg.DatabaseError && error.code === TAKES_NO_WRITES && !this.readOnly;
      // The session is clean, and on the wrong server.
      const answered = error instanceof pg.DatabaseError && error.severity === 'ERROR' && !tookNoWrite;
      const thrown = (answered ? undefined : this.#cutBecause) ?? statementFault(error) ?? error;
      // After a timeout the answer may still arrive and would be read as the next query's; what is spoiled stays so for as
      // long as the connection lives: after DDL the result of a named statement no longer fits, for example.
      if (!answered || (name && SPOILED.has(error.code ?? ''))) this.#doubt ??= thrown as Error;
      if (tookNoWrite) this.told.tookNoWrite();
      throw thrown;
    } finally {
      this.#running -= 1;
      if (this.#running === 0) this.#deadline = Infinity;
    }
  }

  /** Back to the pool. */
  release(): void {
    this.told.released(this);
  }

  /** Ends the wait for an answer that is overdue. */
  checkDeadline(now: number): void {
    if (now > this.#deadline) this.cut(new DatabaseFault('timeout', 'no answer'));
  }

  /** Cuts the connection; whatever runs on it, or is asked of it, fails with `reason`. */
  cut(reason: DatabaseFault): void {
    this.#doubt ??= reason;
    this.#cutBecause = reason;
    this.client.cut();
  }
}
