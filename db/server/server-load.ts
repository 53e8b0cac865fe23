// Whether a server is busy with tenants, for work that gives way to them.
import { sql, type Kysely } from 'kysely';
import { CURRENT_ROLE } from './current-role.js';

/**
 * Whether another role runs a statement in a database of the connected role, or ran one lately. Its sessions count if the connected
 * role may see their activity: a provisioner is a member of its tenants' roles.
 *
 * @param within ms
 */
export async function servesTenants(cluster: Kysely<unknown>, within: number): Promise<boolean> {
  const { rows } = await sql`
    select from pg_stat_activity join pg_database on pg_database.oid = datid
    where datdba = ${CURRENT_ROLE} and usesysid <> datdba and backend_type = 'client backend'
      and (state = 'active' or greatest(query_start, state_change) > clock_timestamp() - ${within}::float8 * interval '1 ms')
    limit 1`.execute(cluster);
  return rows.length > 0;
}
