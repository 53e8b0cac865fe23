// What brings a server to a halt some day, if no person acts: transaction ids that run out, and replication slots that keep WAL.
import { sql } from 'kysely';
import type { ClusterDb } from './server-admin.js';

export interface ServerHealth {
  /** The oldest database, and how many transaction ids it is behind. At about 2.1 billion the server takes no more writes. */
  readonly oldest: { readonly database: string; readonly age: number };
  /** Replication slots that no connection uses. The server keeps all WAL since then, until its disk is full. */
  readonly idleSlots: readonly string[];
}

export async function readServerHealth(cluster: ClusterDb): Promise<ServerHealth> {
  const { rows } = await sql<{ database: string; age: number; idleSlots: string[] }>`
    select datname as database, greatest(age(datfrozenxid), mxid_age(datminmxid))::float8 as age,
      array(select slot_name::text from pg_replication_slots
        where not active and not temporary and restart_lsn is not null order by 1) as "idleSlots"
    from pg_database order by 2 desc, 1 limit 1`.execute(cluster);
  const [found] = rows;
  if (!found) throw new Error('the server has no database');
  const { database, age, idleSlots } = found;
  return { oldest: { database, age }, idleSlots };
}
