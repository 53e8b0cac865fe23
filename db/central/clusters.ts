// Queries on the registry's clusters.
import type { Kysely } from 'kysely';
import { newId } from '../ids.js';
import type { ClustersTable, Registry } from './schema.js';

type NewCluster = Pick<
  ClustersTable,
  | 'name'
  | 'host'
  | 'port'
  | 'provisioner_user'
  | 'provisioner_password'
  | 'tls'
  | 'tls_ca'
  | 'connection_budget'
  | 'connection_reserve'
>;

/** The id of the cluster at a place. */
export async function findClusterIdAt(db: Kysely<Registry>, host: string, port: number): Promise<string | undefined> {
  const cluster = await db
    .selectFrom('clusters')
    .select('id')
    .where('host', '=', host)
    .where('port', '=', port)
    .executeTakeFirst();
  return cluster?.id;
}

/**
 * Registers a cluster; one at the same place stays as it is.
 *
 * @param cluster made for the id that it gets, which its ciphertext is bound to
 */
export async function insertCluster(db: Kysely<Registry>, cluster: (id: string) => NewCluster): Promise<void> {
  const id = newId();
  await db
    .insertInto('clusters')
    .values({ id, ...cluster(id), region: null })
    .onConflict((conflict) => conflict.columns(['host', 'port']).doNothing())
    .execute();
}
