// Queries on which process of PostgreSQL answers at each place, for the read cache (src/replicas/read-cache/place-servers.ts).
import { sql, type Kysely } from 'kysely';
import { WITHOUT_STANDBY } from '../../shared/synchronous-commit.js';
import type { Registry } from '../registry-schema.js';

/** The process that answers at a place. */
export interface CacheServer {
  /** When the process started, by its own clock. */
  readonly server: string;
  readonly generation: string;
}

/** @param place `host:port` @throws DatabaseFault */
export async function readCacheServer(db: Kysely<Registry>, place: string): Promise<CacheServer | undefined> {
  return db.selectFrom('cache_servers').select(['server', 'generation']).where('id', '=', place).executeTakeFirst();
}

/** Records the process that answers at a place. Another one than before makes another generation. @throws DatabaseFault */
export async function recordCacheServer(db: Kysely<Registry>, place: string, server: string): Promise<void> {
  await sql`
    insert into cache_servers as known (id, server) select ${place}::text, ${server}::text
    where (select ${WITHOUT_STANDBY}) is not null
    on conflict (id) do update set server = excluded.server, generation = gen_random_uuid()
    where known.server <> excluded.server`.execute(db);
}
