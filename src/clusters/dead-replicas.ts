// What a replica that died has left open on a cluster: its slots are free when nothing of it is there any more.
import { countSessions } from '../../db/server/server-admin.js';
import type { ServerLooks } from './server-looks.js';

/**
 * Connections that a replica, alive or not, has open to a cluster.
 *
 * @param cluster `host:port`, as its lease says
 * @throws Error where no such cluster is known, and nothing is sent: whoever can write a lease could otherwise have the
 *   provisioner's password sent wherever it likes. DatabaseFault where the cluster does not answer
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
