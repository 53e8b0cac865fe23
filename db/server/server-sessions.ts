// The sessions on a server that belong to connections of one replica, as the server's provisioner sees them.
import { sql } from 'kysely';
import type { ClusterDb } from './server-admin.js';

export interface ServerSession {
  readonly pid: number;
  /**
   * When the session began, by the server's clock. With the pid it identifies one session. Null if the provisioner may not see
   * it.
   */
  readonly began: string | null;
  /** Whether the session waits for a statement, in a transaction or not. */
  readonly idle: boolean;
}

export interface ServerSessions {
  /** When the server started, by its own clock. */
  readonly startedAt: string;
  readonly sessions: readonly ServerSession[];
}

/**
 * Sessions in any database and of any role whose application_name ends in `suffix`. Any role sees pid and name. Only members of
 * a session's role see what the session does. A session whose handshake is under way has no name yet.
 */
export async function findSessions(cluster: ClusterDb, suffix: string): Promise<ServerSessions> {
  const { rows } = await sql<{ startedAt: string; pid: number | null; began: string | null; idle: boolean }>`
    select pg_postmaster_start_time()::text as "startedAt", pid, backend_start::text as began,
      coalesce(state like 'idle%', false) as idle
    from (select 1) as server left join pg_stat_activity
      on right(application_name, length(${suffix}::text)) = ${suffix}::text`.execute(cluster);
  const sessions = rows.flatMap(({ pid, began, idle }) => (pid === null ? [] : [{ pid, began, idle }]));
  return { startedAt: rows[0]?.startedAt ?? '', sessions };
}

/** Ends those of these sessions that still wait for a statement. */
export async function endIdleSessions(cluster: ClusterDb, sessions: readonly ServerSession[]): Promise<void> {
  await sql`
    select pg_terminate_backend(pid)
    from unnest(${sessions.map(({ pid }) => pid)}::int[], ${sessions.map(({ began }) => began)}::text[]) as lost (pid, began)
    join pg_stat_activity using (pid)
    where backend_start::text = began and state like 'idle%'`.execute(cluster);
}
