// Whether a database lets itself be entered and answers: a connection that is opened, asked once, and closed.
import { openPool, type ConnectionSettings } from './client.js';
import { within } from '../../src/lib/deadline.js';
import { DatabaseFault } from './database-fault.js';
import type { Destinations } from './destinations.js';
import type { ChangingPassword, PoolOptions } from './pool/pool-types.js';
import { provePrimary } from './proof.js';

/**
 * Connects, asks for an answer (a pooler between may accept connections without a server behind it), and disconnects.
 *
 * @param deadlineMs for everything but the disconnecting
 * @param admit what its connection is admitted by, where it shares a budget with others
 * @param password instead of the connection's own, where it may have just been changed
 * @param replicaId at the end of the connection's application_name
 * @param destinations of the process, where connections are retired by them
 * @throws DatabaseFault where there is no connection or no answer by then
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
    // That the server answers is all that is asked.
    failsWhenFull: true,
    ...(admit && { admit }),
    ...(password && { password }),
    // A standby answers, and is not what the breaker waits for.
    prove: provePrimary,
    destinations,
  });
  try {
    await within(pool.run('select 1', []), deadlineMs, () => new DatabaseFault('timeout', 'no answer'));
  } finally {
    await pool.close(0);
  }
}
