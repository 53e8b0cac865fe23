// Faults of a database, in the words of the layers above: every error of the driver becomes one, or is an error of the statement.
import pg from 'pg';
import { meaningOf, type DatabaseFaultKind } from './sqlstates.js';

export type { DatabaseFaultKind } from './sqlstates.js';

/**
 * A failure of the database as a service, as opposed to an error in a statement.
 *
 * `reason` is a SQLSTATE, a system error code or a short fixed text. It is never the server's message, which can quote rows and
 * role names. `retryAfter` (seconds) is set if it is known when the next attempt makes sense.
 */
export class DatabaseFault extends Error {
  constructor(
    readonly kind: DatabaseFaultKind,
    readonly reason: string,
    readonly retryAfter?: number,
    /** The server answered a statement with this ERROR: the statement changed nothing, and the connection works. */
    readonly answered = false,
  ) {
    super(`database ${kind}: ${reason}`);
    this.name = 'DatabaseFault';
  }
}

/** SQLSTATE: a write on a read-only server, or in a session whose role is read-only. */
export const TAKES_NO_WRITES = '25006';

/** The constraint that an INSERT or UPDATE violated, if `error` is a unique violation (23505). */
export function violatedUniqueConstraint(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError && error.code === '23505' ? (error.constraint ?? '') : undefined;
}

/** The constraint that a row violated, if `error` is a check violation (23514). */
export function violatedCheck(error: unknown): string | undefined {
  return error instanceof pg.DatabaseError && error.code === '23514' ? (error.constraint ?? '') : undefined;
}

/** Whether `error` is PostgreSQL's answer with the given SQLSTATE, also if that SQLSTATE counts as a fault. */
export function hasSqlState(error: unknown, sqlState: string): boolean {
  if (error instanceof DatabaseFault) return error.answered && error.reason === sqlState;
  return error instanceof pg.DatabaseError && error.code === sqlState;
}

/** Whether PostgreSQL itself answered the statement with an error. Then the statement certainly changed nothing. */
export function wasAnswered(error: unknown): boolean {
  if (error instanceof DatabaseFault) return error.answered;
  return error instanceof pg.DatabaseError;
}

/** PostgreSQL's answer to a statement that a person wrote, in PostgreSQL's words. Only that person may read it: it can quote rows. */
export class AnsweredError extends Error {
  override readonly name = 'AnsweredError';

  /** @param code the SQLSTATE */
  constructor(
    readonly code: string,
    message: string,
  ) {
    super(message);
  }
}

/** The answer in `error`; undefined if PostgreSQL answered nothing, or has ended the session. */
export function answeredError(error: unknown): AnsweredError | undefined {
  if (!(error instanceof pg.DatabaseError) || !isError(error)) return undefined;
  return new AnsweredError(error.code ?? '', error.message);
}

/** After FATAL and PANIC, which end the session, the statement may have run. The same holds for 40003, completion unknown. */
function isError({ severity, code }: pg.DatabaseError): boolean {
  return severity === 'ERROR' && code !== '40003';
}

/** The functions of PostgreSQL that raise 53300 for a new connection because of its role or its database alone. */
const LIMIT_OF_ROLE: ReadonlySet<string | undefined> = new Set(['InitializeSessionUserId', 'CheckMyDatabase']);

/** SQLSTATE: the role, the database or the server has as many connections as its limit allows. */
export const TOO_MANY_CONNECTIONS = '53300';

/** Whether a fault was made from an error for which `serverIsFull` is true. */
export function isServerFull(fault: unknown): boolean {
  return fault instanceof DatabaseFault && fault.kind === 'busy' && fault.reason === TOO_MANY_CONNECTIONS;
}

/** Whether the server itself has as many connections as it may have (53300), as opposed to the role or the database. */
export function serverIsFull(error: unknown): boolean {
  return error instanceof pg.DatabaseError && error.code === TOO_MANY_CONNECTIONS && !LIMIT_OF_ROLE.has(error.routine);
}

/** Why the proof of a new connection failed: the error that the proof threw. Never seen outside db/. */
export class Unproven extends Error {
  constructor(override readonly cause: Error) {
    super('a new connection did not prove itself', { cause });
  }
}

/** The error of a request whose deadline passed while its connection was opened. */
export function openedLate(): DatabaseFault {
  return new DatabaseFault('busy', 'no connection was opened in time');
}

/** The error of a request that needs a connection from a closed pool. */
export function poolClosed(): DatabaseFault {
  return new DatabaseFault('unavailable', 'the pool was closed');
}

/** The reasons for which a connection through a pooler is refused. Each says where to read what to do. */
export const REFUSED_BY_POOLER = {
  settings: 'a pooler refuses the settings of sessions (docs/guide/poolers.md)',
  shared: 'a pooler shares its connections between sessions (docs/guide/poolers.md)',
  role: 'a pooler signs in as another role (docs/guide/poolers.md)',
} as const;

/** What to do about a reason of REFUSED_BY_POOLER, as a sentence without its full stop. Undefined for other reasons. */
export function pooledAdvice(reason: string): string | undefined {
  return POOLER_ADVICE[reason];
}

const POOLER_ADVICE: Readonly<Record<string, string>> = {
  [REFUSED_BY_POOLER.settings]:
    'for PgBouncer, set pool_mode = session and ignore_startup_parameters = options, statement_timeout, lock_timeout, idle_in_transaction_session_timeout, or connect to PostgreSQL itself',
  [REFUSED_BY_POOLER.shared]:
    'for PgBouncer, set pool_mode = session and leave server_reset_query at DISCARD ALL, or connect to PostgreSQL itself',
  [REFUSED_BY_POOLER.role]: 'for PgBouncer, remove user= from its section [databases]',
};

/** The errors of PgBouncer, and of RDS Proxy, for the startup parameters of a connection. Neither translates them. */
const REFUSED_STARTUP = /^unsupported (?:options )?startup parameter|doesn't support command-line options/;

/** The fault of a failed attempt to get a connection. Every such error is a fault. */
export function connectFault(error: unknown): DatabaseFault {
  if (error instanceof DatabaseFault) return error;
  if (serverIsFull(error)) return new DatabaseFault('busy', TOO_MANY_CONNECTIONS);
  if (error instanceof pg.DatabaseError && REFUSED_STARTUP.test(error.message))
    return new DatabaseFault('unavailable', REFUSED_BY_POOLER.settings);
  return new DatabaseFault('unavailable', reasonOf(error, 'connection failed'));
}

/** The fault of a failed statement; undefined if the statement itself was wrong (a violated constraint, for example). */
export function statementFault(error: unknown): DatabaseFault | undefined {
  if (error instanceof DatabaseFault) return error;
  if (!(error instanceof pg.DatabaseError)) {
    // A TypeError or a similar error is a mistake in this program and must not look like an outage.
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

/**
 * PostgreSQL's error for the second of two transactions that change one row of a catalog. It has no SQLSTATE of its own, and its
 * message is not translated.
 */
const CONCURRENT = { sqlState: 'XX000', message: 'tuple concurrently updated' };

function isConcurrent({ code, message }: pg.DatabaseError): boolean {
  return code === CONCURRENT.sqlState && message === CONCURRENT.message;
}

function reasonOf(error: unknown, otherwise: string): string {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  return typeof code === 'string' ? code : otherwise;
}
