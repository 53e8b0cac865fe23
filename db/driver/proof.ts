// What a new connection must show of its server before it is used: after a failover the same host and port can lead to a
// standby, which answers reads with what it had some time ago.
import { DatabaseFault } from './database-fault.js';

/** What a new connection was found to be. */
export interface Proof {
  /** Whether its server, or its role, takes no writes. */
  readonly readOnly: boolean;
}

/** Asks a new connection. @throws DatabaseFault, or another error, if the connection must not be used */
// eslint-disable-next-line @typescript-eslint/no-invalid-void-type -- most find out nothing
export type Prove = (query: (text: string) => Promise<Record<string, unknown>[]>) => Promise<Proof | void>;

/** The server replays the log of another one: it is a standby, or has not been promoted yet. */
export const IN_RECOVERY = 'in recovery';

/** The server, or the role, takes no writes. */
export const READ_ONLY = 'read-only';

/** Columns `inRecovery` and `readOnly`, in SQL, for the statement that a new connection is asked. */
export const SERVER_STATE = `pg_is_in_recovery() as "inRecovery", current_setting('transaction_read_only') = 'on' as "readOnly"`;

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

/** For what only reads: any server that is no standby. */
export const provePrimary: Prove = async (query) => {
  const [row] = await query(STATE_QUERY);
  refuseStandby(row);
  return { readOnly: row?.['readOnly'] === true };
};

/** For what cannot work without writing: the registry, and making and removing databases. */
export const proveWritable: Prove = async (query) => {
  const [row] = await query(STATE_QUERY);
  refuseReadOnly(row);
  return { readOnly: false };
};
