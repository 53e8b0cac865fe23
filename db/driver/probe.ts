// Probes a database: opens a connection, asks for one answer, and closes the connection.
import { openPool, type ConnectionSettings } from './client.js';
import { within } from '../../src/lib/deadline.js';
import { DatabaseFault } from './database-fault.js';
import type { Destinations } from './destinations.js';
import type { ChangingPassword, PoolOptions } from './pool/pool-types.js';
import { provePrimary } from './proof.js';

/**
 * Connects, runs one statement, and disconnects. A pooler may accept connections without a server, so only an answer counts.
 *
 * @param deadlineMs for everything except disconnecting
 * @param admit admits the probe's connection, if it shares a budget with others
 * @param password replaces the connection's own, if it may have just changed
 * @param replicaId suffix of the connection's application_name
 * @param destinations of the process, if they retire its connections
 * @throws DatabaseFault if there is no connection or no answer in time
 */
export async function probeDatabase(
  connection: ConnectionSettings,
  deadlineMs: number,
  admit?: PoolOptions['admit'],
  password?: ChangingPassword,
  replicaId = '',
  destinations?: Destinations,
): Promise<void> {
  const limits = {
    max: 1,
    acquireTimeout: deadlineMs,
    connectTimeout: deadlineMs,
    timeout: deadlineMs,
    idleTimeoutMillis: deadlineMs,
  };
  const pool = openPool(connection, limits, {
    applicationName: `tenantry probe ${replicaId}`.trim(),
    preparedStatements: false,
    // Not waiting for room: that the server answers is enough.
    failsWhenFull: true,
    ...(admit && { admit }),
    ...(password && { password }),
    // A standby answers too, but the breaker waits for the primary.
    prove: provePrimary,
    destinations,
  });
  try {
    await within(pool.run('select 1', []), deadlineMs, () => new DatabaseFault('timeout', 'no answer'));
  } finally {
    await pool.close(0);
  }
}
