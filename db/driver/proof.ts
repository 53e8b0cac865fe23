// The proof of a new connection before its first use. After a failover the same host and port can lead to a standby, which
// answers reads with outdated data.
import { DatabaseFault } from './database-fault.js';
import { SESSION_FACTS } from './session-settings.js';

/** The result of a new connection's proof. */
export interface Proof {
  /** Whether the server, or the role, is read-only. */
  readonly readOnly: boolean;
  /** When the process of PostgreSQL started, by its own clock. After a restart or a failover another process answers. */
  readonly server?: string | undefined;
}

/** Checks a new connection. @throws DatabaseFault, or another error, if the connection must not be used */
// eslint-disable-next-line @typescript-eslint/no-invalid-void-type -- most find out nothing
export type Prove = (query: (text: string) => Promise<Record<string, unknown>[]>) => Promise<Proof | void>;

/** The server replays the log of another server: it is a standby, or has not been promoted yet. */
export const IN_RECOVERY = 'in recovery';

/** The server, or the role, accepts no writes. */
export const READ_ONLY = 'read-only';

/**
 * The SQL columns `inRecovery`, `readOnly`, `server`, and those of SESSION_FACTS, for the statement that proves a new connection.
 */
export const SERVER_STATE = `${SESSION_FACTS}, pg_is_in_recovery() as "inRecovery", current_setting('transaction_read_only') = 'on' as "readOnly",
  extract(epoch from pg_postmaster_start_time())::text as "server"`;

const STATE_QUERY = `select ${SERVER_STATE}`;

/** @param row with the columns of SERVER_STATE. @throws DatabaseFault `in recovery` */
export function refuseStandby(row: Readonly<Record<string, unknown>> | undefined): void {
  if (row?.['inRecovery'] !== false) throw new DatabaseFault('unavailable', IN_RECOVERY);
}

/** @param row with the columns of SERVER_STATE. @throws DatabaseFault `in recovery` or `read-only` */
export function refuseReadOnly(row: Readonly<Record<string, unknown>> | undefined): void {
  refuseStandby(row);
  if (row?.['readOnly'] !== false) throw new DatabaseFault('unavailable', READ_ONLY);
}

/** For a look at any server: only the session is checked. */
export const proveSession: Prove = async (query) => {
  await query(STATE_QUERY);
};

/** For pools that serve reads from any server that is not a standby. */
export const provePrimary: Prove = async (query) => {
  const [row] = await query(STATE_QUERY);
  refuseStandby(row);
  return { readOnly: row?.['readOnly'] === true, server: serverIn(row) };
};

/** For work that is impossible without writes: the registry, and creating and removing databases. */
export const proveWritable: Prove = async (query) => {
  const [row] = await query(STATE_QUERY);
  refuseReadOnly(row);
  return { readOnly: false, server: serverIn(row) };
};

/** @param row with the columns of SERVER_STATE */
export function serverIn(row: Readonly<Record<string, unknown>> | undefined): string | undefined {
  const server = row?.['server'];
  return typeof server === 'string' ? server : undefined;
}
