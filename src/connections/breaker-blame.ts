// Which faults of a connection count against a tenant's database, which against its server, and which against neither.
import { DatabaseFault, pooledAdvice } from '../../db/driver/database-fault.js';
import { IN_RECOVERY } from '../../db/driver/proof.js';
import type { BreakerScope } from './breaker-types.js';

/**
 * The breaker that a fault counts for. `cluster`: the server refused, dropped the connection, or gave no answer. `tenant`: the
 * tenant may not enter, or its database is missing. Undefined: no breaker could help. Either a statement took too long (57014),
 * or the server is short of something (`busy`, 53300, other shortages), and refusing more requests would not help.
 */
export function blamed({ kind, reason, answered }: DatabaseFault): BreakerScope | undefined {
  // An ERROR that answers a statement: the server works, and other statements may succeed.
  if (kind === 'busy' || answered) return undefined;
  // The server's own statement timeout has a SQLSTATE. If the client's deadline came first, the server was silent.
  if (kind === 'timeout') return reason === 'no answer' ? 'cluster' : undefined;
  if (isSqlState(reason)) {
    const known = bySqlState[reason] ?? bySqlState[reason.slice(0, 2)] ?? 'tenant';
    return known === 'neither' ? undefined : known;
  }
  // A pooler can have other settings for each database.
  if (pooledAdvice(reason) !== undefined) return 'tenant';
  // A standby would refuse the connections of all its tenants. The breaker's probes find out when it has been promoted.
  return SILENCE.has(reason) || reason === IN_RECOVERY || SYSTEM_ERROR.test(reason) ? 'cluster' : undefined;
}

/** SQLSTATEs and classes. Any other SQLSTATE answered a new connection, and concerns the tenant that opened the connection. */
const bySqlState: Readonly<Record<string, BreakerScope | 'neither'>> = {
  '08': 'cluster', // connection exceptions
  '08P01': 'tenant', // protocol violation; PgBouncer also reports an unknown database or user with it
  '25006': 'neither', // read-only: reads are answered
  '53': 'neither', // out of connections, disk or memory: the server answers, and reads may go on
  '57P01': 'tenant', // ended by an administrator: if the server shuts down, it refuses the next connection as well
  '57P02': 'cluster', // crash of another backend
  '57P03': 'cluster', // starting up or shutting down
  '57P05': 'neither', // idle session timeout
  '54': 'neither', // a limit of the server, such as transaction ids that are used up: reads are answered
  '58': 'neither', // I/O errors, which may concern a single file
  F0: 'cluster', // configuration file error
};

/** The fixed texts of db/driver/database-fault.ts for a connection that broke or could not be opened, and has no code. */
const SILENCE: ReadonlySet<string> = new Set(['connection failed', 'connection lost']);

/** Codes such as ECONNREFUSED, and the TLS codes for a certificate. */
const SYSTEM_ERROR = /^[A-Z][A-Z0-9_]*$/;

/** Five characters with a digit among them. The digit keeps out EPIPE. */
function isSqlState(reason: string): boolean {
  return /^(?=.*\d)[0-9A-Z]{5}$/.test(reason);
}

/** Whether a failed probe shows that the breaker may close: the server answered, and the breaker does not count the fault. */
export function answersProbe(scope: BreakerScope, error: unknown): boolean {
  if (!(error instanceof DatabaseFault) || !isSqlState(error.reason)) return false;
  const blame = blamed(error);
  return blame === undefined || (scope === 'cluster' && blame === 'tenant');
}
