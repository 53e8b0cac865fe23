// Which faults of a connection count against a tenant's database or against its server, and which count against neither.
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { IN_RECOVERY } from '../../db/driver/proof.js';
import type { BreakerScope } from './breaker-types.js';

/**
 * The breaker that a fault counts for: `cluster` if the server refused, dropped the connection or gave no answer; `tenant` if
 * the tenant may not enter, or its database is not there. Undefined if no breaker could help: a statement took too long
 * (57014), or there is back-pressure (`busy`, 53300, other shortages), to which more refusals would be the wrong answer.
 */
export function blamed({ kind, reason, answered }: DatabaseFault): BreakerScope | undefined {
  // An ERROR in answer to a statement: the server works, and other statements may succeed.
  if (kind === 'busy' || answered) return undefined;
  // The server's own statement timeout has a SQLSTATE. If the client's deadline came first, the server was silent.
  if (kind === 'timeout') return reason === 'no answer' ? 'cluster' : undefined;
  if (isSqlState(reason)) {
    const known = bySqlState[reason] ?? bySqlState[reason.slice(0, 2)] ?? 'tenant';
    return known === 'neither' ? undefined : known;
  }
  // A standby would refuse all of its tenants' connections: the breaker's probes find out when it has been promoted.
  return SILENCE.has(reason) || reason === IN_RECOVERY || SYSTEM_ERROR.test(reason) ? 'cluster' : undefined;
}

/** SQLSTATEs and classes. Any other SQLSTATE answered a new connection, and is about the tenant that opened it. */
const bySqlState: Readonly<Record<string, BreakerScope | 'neither'>> = {
  '08': 'cluster', // connection exceptions
  '08P01': 'tenant', // protocol violation: also how PgBouncer says that it knows no such database or user
  '25006': 'neither', // read-only: reads are answered
  '53': 'neither', // out of connections, disk or memory: the server answers, and reads may go on
  '57P01': 'tenant', // ended by an administrator: a shutdown of the server refuses the next connection as well
  '57P02': 'cluster', // crash of another backend
  '57P03': 'cluster', // starting up or shutting down
  '57P05': 'neither', // idle session timeout
  '54': 'neither', // a limit of the server, such as transaction ids that are used up: reads are answered
  '58': 'neither', // I/O errors: of one file, perhaps
  F0: 'cluster', // configuration file error
};

/** The fixed texts of db/driver/database-fault.ts for a connection that broke, or could not be opened, without a code. */
const SILENCE: ReadonlySet<string> = new Set(['connection failed', 'connection lost']);

/** ECONNREFUSED and its like, and the codes of TLS for a certificate. */
const SYSTEM_ERROR = /^[A-Z][A-Z0-9_]*$/;

/** Five characters with a digit among them, which EPIPE has not. */
function isSqlState(reason: string): boolean {
  return /^(?=.*\d)[0-9A-Z]{5}$/.test(reason);
}

/** Whether a failed probe shows that the breaker may close: the server answered, and the fault is not the breaker's concern. */
export function answersProbe(scope: BreakerScope, error: unknown): boolean {
  if (!(error instanceof DatabaseFault) || !isSqlState(error.reason)) return false;
  const blame = blamed(error);
  return blame === undefined || (scope === 'cluster' && blame === 'tenant');
}
