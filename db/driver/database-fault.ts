// What can go wrong below the queries, in words that the layers above understand: no driver error passes unread.
import pg from 'pg';
import { meaningOf, type DatabaseFaultKind } from './sqlstates.js';

export type { DatabaseFaultKind } from './sqlstates.js';

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
    /** The server answered a statement with this ERROR: the statement did nothing, and the connection works. */
    readonly answered = false,
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

/** Whether `error` is PostgreSQL's answer with the given SQLSTATE, also when that counts as a fault. */
export function hasSqlState(error: unknown, sqlState: string): boolean {
  if (error instanceof DatabaseFault) return error.answered && error.reason === sqlState;
  return error instanceof pg.DatabaseError && error.code === sqlState;
}

/** Whether PostgreSQL itself answered the statement with an error: then the statement did nothing, for certain. */
export function wasAnswered(error: unknown): boolean {
  if (error instanceof DatabaseFault) return error.answered;
  return error instanceof pg.DatabaseError;
}

/** FATAL and PANIC end the session, and say nothing certain of what ran. Neither does 40003, statement completion unknown. */
function isError({ severity, code }: pg.DatabaseError): boolean {
  return severity === 'ERROR' && code !== '40003';
}

/** Errors of a new connection (53300) that concern its role or its database alone, by the function that raises them. */
const LIMIT_OF_ROLE: ReadonlySet<string | undefined> = new Set(['InitializeSessionUserId', 'CheckMyDatabase']);

/** SQLSTATE: the role, the database or the server has as many connections as it may have. */
export const TOO_MANY_CONNECTIONS = '53300';

/** Whether a fault was made from an error of which `serverIsFull` is true. */
export function isServerFull(fault: unknown): boolean {
  return fault instanceof DatabaseFault && fault.kind === 'busy' && fault.reason === TOO_MANY_CONNECTIONS;
}

/** Whether the server, as opposed to the role or the database, has as many connections as it may have (53300). */
export function serverIsFull(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === TOO_MANY_CONNECTIONS && !LIMIT_OF_ROLE.has(error.routine);
}

/** What was wrong with a new connection, by the words of whoever proved it; never seen outside db/. */
export class Unproven extends Error {
  constructor(override readonly cause: Error) {
    super('a new connection did not prove itself', { cause });
  }
}

/** What a request gets whose time is up while a connection is opened for it. */
export function openedLate(): DatabaseFault {
  return new DatabaseFault('busy', 'no connection was opened in time');
}

/** What a request gets that a closed pool has no connection for. */
export function poolClosed(): DatabaseFault {
  return new DatabaseFault('unavailable', 'the pool was closed');
}

/** The fault behind a failed attempt to get a connection: here every error is one. */
export function connectFault(error: unknown): DatabaseFault {
  if (error instanceof DatabaseFault) return error;
  if (serverIsFull(error)) return new DatabaseFault('busy', TOO_MANY_CONNECTIONS);
  return new DatabaseFault('unavailable', reasonOf(error, 'connection failed'));
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
  const meaning = isConcurrent(error) ? 'busy' : meaningOf(code);
  return meaning === 'statement' ? undefined : new DatabaseFault(meaning, code, undefined, isError(error));
}

/** Second of two transactions that change one row of a catalog. It has no SQLSTATE of its own, and no translation. */
const CONCURRENT = { sqlState: 'XX000', message: 'tuple concurrently updated' };

function isConcurrent({ code, message }: pg.DatabaseError): boolean {
  return code === CONCURRENT.sqlState && message === CONCURRENT.message;
}

function reasonOf(error: unknown, otherwise: string): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : otherwise;
}
