// Locks of the registry, with which one replica at a time runs a job. A lock belongs to its connection. If the connection is cut,
// the lock is free, although the job may still be running.
import { sql, type Kysely } from 'kysely';
import type { Registry } from './registry-schema.js';

/** The name of a job's lock (db/registry/lock-session.ts). */
export function jobLockName(job: string): string {
  return `tenantry ${job}`;
}

/** Longest time (ms) that the registry waits between two statements of a short transaction. */
export const IDLE_DEADLINE = 4_000;

/**
 * Call this first in a transaction that locks rows of tenants. If its connection is cut without notice, the server soon ends the
 * transaction, and other workers can lock the rows.
 */
export async function endWhenIdle(trx: Kysely<Registry>): Promise<void> {
  await sql`select set_config('idle_in_transaction_session_timeout', ${String(IDLE_DEADLINE)}, true)`.execute(trx);
}
