// What can go wrong below the queries, in words that the layers above understand: no driver error passes unread.
import pg from 'pg';

/**
 * - `unavailable`: the server refused, dropped or never answered; nothing is known to be wrong with the request.
 * - `busy`: every connection is taken and the wait is over its bound, or the transaction lost a race and may be retried.
 * - `timeout`: the statement ran longer than its deadline and was ended.
 */
export type DatabaseFaultKind = 'unavailable' | 'busy' | 'timeout';

/**
 * A failure of the database as a service, as opposed to an error in a statement. `reason` is a SQLSTATE, a system error
 * code or a short fixed text: never the server's message, which can quote rows and role names. `retryAfter` is in seconds,
 * where somebody knows when the next attempt makes sense.
 */
export class DatabaseFault extends Error {
  constructor(
    readonly kind: DatabaseFaultKind,
    readonly reason: string,
    readonly retryAfter?: number,
  ) {
    super(`database ${kind}: ${reason}`);
    this.name = 'DatabaseFault';
  }
}

/** SQLSTATE: a write on a server, or as a role, that takes none. */
export const TAKES_NO_WRITES = '25006';

/** The constraint that an INSERT or UPDATE violated, where `error` is a unique violation (23505). */
export function violatedUniqueConstraint(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError && error.code === '23505' ? (error.constraint ?? '') : undefined;
}

/** Whether `error` is PostgreSQL's answer with the given SQLSTATE. */
export function hasSqlState(error: unknown, sqlState: string): boolean {
  return error instanceof pg.DatabaseError && error.code === sqlState;
}

/** Whether PostgreSQL itself answered with an error that speaks of the statement: then it did nothing, for certain. */
export function wasAnswered(error: unknown): boolean {
  return error instanceof pg.DatabaseError;
}

/** What was wrong with a new connection, by the words of whoever proved it; never seen outside db/. */
export class Unproven extends Error {
  constructor(override readonly cause: Error) {
    super('a new connection did not prove itself', { cause });
  }
}

/** The fault behind a failed attempt to get a connection: here every error is one. */
export function connectFault(error: unknown): DatabaseFault {
  return error instanceof DatabaseFault
    ? error
    : new DatabaseFault('unavailable', reasonOf(error, 'connection failed'));
}

/** The fault behind a failed statement, or undefined where the statement itself was wrong (a violated constraint, say). */
export function statementFault(error: unknown): DatabaseFault | undefined {
  if (error instanceof DatabaseFault) return error;
  if (!(error instanceof pg.DatabaseError)) {
    // A TypeError and its like are mistakes in this program and must not look like an outage.
    if (!(error instanceof Error) || error.constructor !== Error) return undefined;
    const timedOut = error.message === 'Query read timeout';
    return new DatabaseFault(
      timedOut ? 'timeout' : 'unavailable',
      reasonOf(error, timedOut ? 'no answer' : 'connection lost'),
    );
  }
  const code = error.code ?? '';
  const kind = faultBySqlState[code] ?? faultBySqlState[code.slice(0, 2)];
  return kind && new DatabaseFault(kind, code);
}

/** SQLSTATEs (five characters) and classes (two) that speak of the server and not of the statement. */
const faultBySqlState: Readonly<Record<string, DatabaseFaultKind>> = {
  '08': 'unavailable', // connection exceptions
  '25006': 'unavailable', // read-only: a standby after a failover
  '25P03': 'timeout', // a transaction that sat idle
  '25P04': 'timeout', // a transaction that took too long (PostgreSQL 17)
  '40001': 'busy', // serialization failure
  '40P01': 'busy', // deadlock
  '53': 'unavailable', // out of disk, memory or connections
  '55P03': 'busy', // lock timeout
  '57014': 'timeout', // statement timeout
  '57P01': 'unavailable', // ended by an administrator
  '57P02': 'unavailable', // crash of another backend
  '57P03': 'unavailable', // starting up or shutting down
  '57P04': 'unavailable', // the database was dropped
  '57P05': 'unavailable', // idle session timeout
  '58': 'unavailable', // I/O errors
};

function reasonOf(error: unknown, otherwise: string): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : otherwise;
}
