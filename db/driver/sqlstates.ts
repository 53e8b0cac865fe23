// What each SQLSTATE of PostgreSQL means for a request: a fault of the server, or an error of the statement. Every class in
// appendix A of PostgreSQL's manual has an explicit entry here.

/** SQLSTATE: the statement was cancelled, by its deadline or by a CancelRequest. */
export const QUERY_CANCELED = '57014';

/**
 * - `unavailable`: the server refused, dropped or never answered; nothing is known to be wrong with the request.
 * - `busy`: all connections are taken and the wait is too long, or the transaction lost a race and may be retried.
 * - `timeout`: the statement ran longer than its deadline and was ended.
 */
export type DatabaseFaultKind = 'unavailable' | 'busy' | 'timeout';

/**
 * `statement`: the statement was wrong. The caller handles the error, or the program has a mistake. Every other value is a
 * fault.
 */
export type SqlStateMeaning = DatabaseFaultKind | 'statement';

/**
 * What a SQLSTATE means. An entry for the code takes precedence over its class. A class without an entry is an error of the
 * statement: only our own code and extensions raise those, and a mistake there must not look like an outage.
 *
 * @param code five characters, such as `54000`
 */
export function meaningOf(code: string): SqlStateMeaning {
  return codes[code] ?? classes[code.slice(0, 2)] ?? 'statement';
}

/** By the first two characters of a SQLSTATE. */
export const classes: Readonly<Record<string, SqlStateMeaning>> = {
  '00': 'statement', // successful completion
  '01': 'statement', // warning
  '02': 'statement', // no data
  '03': 'statement', // SQL statement not yet complete
  '08': 'unavailable', // connection exception
  '09': 'statement', // triggered action exception
  '0A': 'statement', // feature not supported
  '0B': 'statement', // invalid transaction initiation
  '0F': 'statement', // locator exception
  '0L': 'statement', // invalid grantor
  '0P': 'statement', // invalid role specification
  '0Z': 'statement', // diagnostics exception
  '10': 'statement', // XQuery error
  '20': 'statement', // case not found
  '21': 'statement', // cardinality violation
  '22': 'statement', // data exception
  '23': 'statement', // integrity constraint violation
  '24': 'statement', // invalid cursor state
  '25': 'statement', // invalid transaction state
  '26': 'unavailable', // invalid SQL statement name: the connection lost what was prepared on it
  '27': 'statement', // triggered data change violation
  '28': 'unavailable', // invalid authorization specification: the server's roles or pg_hba.conf changed
  '2B': 'statement', // dependent privilege descriptors still exist
  '2D': 'statement', // invalid transaction termination
  '2F': 'statement', // SQL routine exception
  '34': 'statement', // invalid cursor name
  '38': 'statement', // external routine exception
  '39': 'statement', // external routine invocation exception
  '3B': 'statement', // savepoint exception
  '3D': 'unavailable', // invalid catalog name: the database is not there
  '3F': 'statement', // invalid schema name
  '40': 'busy', // transaction rollback: lost a race
  '42': 'statement', // syntax error or access rule violation
  '44': 'statement', // WITH CHECK OPTION violation
  '53': 'unavailable', // insufficient resources: disk, memory, connections
  '54': 'unavailable', // program limit exceeded: the NOTIFY queue is full, transaction ids are used up
  '55': 'unavailable', // object not in prerequisite state
  '57': 'unavailable', // operator intervention
  '58': 'unavailable', // system error: input and output
  '72': 'busy', // snapshot failure: too old
  F0: 'unavailable', // configuration file error
  HV: 'unavailable', // foreign data wrapper error: another server's
  P0: 'statement', // PL/pgSQL error
  XX: 'unavailable', // internal error, corrupted data or index
};

/** Codes whose meaning differs from their class. */
export const codes: Readonly<Record<string, SqlStateMeaning>> = {
  '0A000': 'unavailable', // in practice: a table changed, and the result no longer fits the prepared statement
  '25006': 'unavailable', // read-only: a standby after a failover
  '25P03': 'timeout', // a transaction was idle for too long
  '25P04': 'timeout', // a transaction took too long (PostgreSQL 17)
  '40002': 'statement', // an integrity constraint that is checked at the end of the transaction
  '40003': 'unavailable', // statement completion unknown
  '42501': 'unavailable', // insufficient privilege: the role lost its grants, as after a restore
  '42P05': 'unavailable', // the prepared statement exists already: a pooler gave the connection to two clients
  '55006': 'busy', // object in use
  '55P03': 'busy', // lock timeout
  '57014': 'timeout', // statement timeout
};

/**
 * Codes after which the next statement on the same connection fails as well: its prepared statements no longer fit. The
 * connection must not be used again.
 */
export const SPOILED: ReadonlySet<string> = new Set(['0A000', '26000', '42P05']);
