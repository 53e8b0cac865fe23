// Counts what a dead replica has left open on a cluster. Its slots are free when none of its connections is left.
import { countSessions } from '../../db/server/server-admin.js';
import type { ServerLooks } from './server-looks.js';

/**
 * Connections to a cluster that a replica, alive or not, has open.
 *
 * @param cluster `host:port`, as in the replica's lease
 * @throws Error if the cluster is not known. Then nothing is sent: otherwise a forged lease could have the provisioner's password
 *   sent to any host. DatabaseFault if the cluster does not answer
 */
export async function connectionsOf(
  looks: Pick<ServerLooks, 'at'>,
  cluster: string,
  replicaId: string,
): Promise<number> {
  const server = looks.at(cluster);
  if (!server) throw new Error(`the lease of a dead replica names ${cluster}, which is no cluster`);
  return countSessions(server, replicaId);
}
