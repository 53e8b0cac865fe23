// How busy a server is with tenants, for work that gives way to them.
import { sql, type Kysely } from 'kysely';

/**
 * The number of sessions that ran a statement lately, without those of the connected role and those of roles whose activity it may not
 * see. A provisioner is a member of its tenants' roles, and sees theirs.
 *
 * @param within ms
 */
export async function countBusySessions(cluster: Kysely<unknown>, within: number): Promise<number> {
  const { rows } = await sql<{ sessions: number }>`
    select count(*)::int as sessions from pg_stat_activity
    where backend_type = 'client backend' and usename <> current_user
      and greatest(query_start, state_change) > clock_timestamp() - ${within}::float8 * interval '1 ms'`.execute(
    cluster,
  );
  return rows[0]?.sessions ?? 0;
}
