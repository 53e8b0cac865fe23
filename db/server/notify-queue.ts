// PostgreSQL's queue of notifications. All databases of a server share it, and any role can fill it. A full queue fails every
// COMMIT that notifies.
import { sql, type Kysely } from 'kysely';
import type { ClusterDb } from './server-admin.js';
import { foreignSessions } from './access.js';
import { hasSqlState } from '../driver/database-fault.js';
import { PREFIX } from './marks.js';

/**
 * From this usage on (0 to 1) the queue counts as crowded, and triggers no longer notify (migration 0014). A healthy queue is
 * almost empty.
 */
export const CROWDED = 0.5;

/** Whether a notification failed because the queue is full. */
export function isQueueFull(error: unknown): boolean {
  return hasSqlState(error, '54000');
}

/** How full the queue is, from 0 to 1. Reading it also frees what every listener has read; in a full queue nothing else does. */
export async function queueUsage<DB>(db: Kysely<DB>): Promise<number> {
  const { rows } = await sql<{ usage: number }>`select pg_notification_queue_usage() as usage`.execute(db);
  return rows[0]?.usage ?? 0;
}

/** Sessions of tenants' roles that may hold up the queue, the most suspect first. */
const suspects = {
  /** Sessions that are not the service's, by their application_name. */
  strangers: sql`application_name not like 'tenantry %'`,
  /** A session that listens reads nothing while its transaction is open. */
  transactions: sql`xact_start < clock_timestamp() - interval '5 seconds'`,
  /** PostgreSQL does not wake a listening session if the transaction that filled the queue was rolled back. */
  idle: sql`state = 'idle'`,
} as const;

/**
 * Ends sessions of the roles that carry the installation's mark, which are its tenants' roles. The mark is necessary: the
 * provisioner may be a member of other roles, and a superuser is a member of every role.
 *
 * @param cluster a connection as the provisioner
 * @returns how many sessions were ended
 */
export async function endSuspects(
  cluster: ClusterDb,
  which: keyof typeof suspects,
  installation: string,
): Promise<number> {
  const mark = `${PREFIX} ${installation} `;
  const { rows } = await sql<{ ended: number }>`
    select count(pg_terminate_backend(pid))::int as ended from pg_stat_activity
    where ${foreignSessions} and ${suspects[which]}
      and starts_with(shobj_description(usesysid, 'pg_authid'), ${mark}::text)`.execute(cluster);
  return rows[0]?.ended ?? 0;
}
