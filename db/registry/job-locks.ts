// Locks of the registry, by which one replica at a time does a job. They are the connection's: one that is cut frees its lock,
// though what was done under it may still be under way.
import { sql, type Kysely } from 'kysely';
import type { Registry } from './registry-schema.js';

/**
 * Runs `work` where nobody else has the lock of that name, and nothing where somebody has.
 */
export async function whileLocked(registry: Kysely<Registry>, name: string, work: () => Promise<void>): Promise<void> {
  await registry.connection().execute(async (connection) => {
    const key = sql`hashtextextended(${`tenantry ${name}`}, 0)`;
    const { rows } = await sql<{ mine: boolean }>`select pg_try_advisory_lock(${key}) as mine`.execute(connection);
    if (!rows[0]?.mine) return;
    try {
      await work();
    } finally {
      await sql`select pg_advisory_unlock(${key})`.execute(connection);
    }
  });
}

/** Longest time (ms) that the registry waits between two statements of a short transaction. */
const IDLE_DEADLINE = 4_000;

/**
 * To be called first in a transaction that locks rows of tenants. If its connection is cut without notice, the server ends the
 * transaction soon, and other workers can lock the rows.
 */
export async function endWhenIdle(trx: Kysely<Registry>): Promise<void> {
  await sql`select set_config('idle_in_transaction_session_timeout', ${String(IDLE_DEADLINE)}, true)`.execute(trx);
}
