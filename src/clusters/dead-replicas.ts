// Counts what dead replicas have left open on a cluster. Their slots are free when none of their connections is left.
import { countSessions } from '../../db/server/server-admin.js';
import type { ServerLooks } from './server-looks.js';

/**
 * Connections to a cluster that each of these replicas, alive or not, has open. One look for all of them.
 *
 * @param cluster `host:port`, as in the replica's lease
 * @throws Error if the cluster is not known. Then nothing is sent: otherwise a forged lease could have the provisioner's password
 *   sent to any host. DatabaseFault if the cluster does not answer
 */
export async function connectionsOf(
  looks: Pick<ServerLooks, 'at'>,
  cluster: string,
  replicaIds: readonly string[],
): Promise<ReadonlyMap<string, number>> {
  const server = looks.at(cluster);
  if (!server) throw new Error(`a lease of a dead replica names ${cluster}, which is no cluster`);
  return countSessions(server, replicaIds);
}
