// Locks of the registry, with which one replica at a time runs a job. A lock belongs to its connection. If the connection is cut,
// the lock is free, although the job may still be running.
import { sql, type Kysely } from 'kysely';
import type { Registry } from './registry-schema.js';

/** Runs `work` if the lock of that name is free, and does nothing otherwise. Returns whether `work` ran. */
export async function whileLocked(
  registry: Kysely<Registry>,
  name: string,
  work: () => Promise<void>,
): Promise<boolean> {
  return registry.connection().execute(async (connection) => {
    const key = sql`hashtextextended(${`tenantry ${name}`}, 0)`;
    const { rows } = await sql<{ mine: boolean }>`select pg_try_advisory_lock(${key}) as mine`.execute(connection);
    if (!rows[0]?.mine) return false;
    try {
      await work();
      return true;
    } finally {
      await sql`select pg_advisory_unlock(${key})`.execute(connection);
    }
  });
}

/** Longest time (ms) that the registry waits between two statements of a short transaction. */
const IDLE_DEADLINE = 4_000;

/**
 * Call this first in a transaction that locks rows of tenants. If its connection is cut without notice, the server soon ends the
 * transaction, and other workers can lock the rows.
 */
export async function endWhenIdle(trx: Kysely<Registry>): Promise<void> {
  await sql`select set_config('idle_in_transaction_session_timeout', ${String(IDLE_DEADLINE)}, true)`.execute(trx);
}
