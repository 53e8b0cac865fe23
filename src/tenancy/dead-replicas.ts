// What a replica that died has left open on a cluster: its slots are free when nothing of it is there any more.
import { createDatabase } from '../../db/client.js';
import { countSessions, MAINTENANCE_DATABASE } from '../../db/cluster.js';
import type { Destinations } from '../../db/destinations.js';
import { provePrimary } from '../../db/proof.js';
import type { ClusterDirectory } from './cluster-directory.js';
import type { Place } from './provisioners.js';

/** Looking must not wait for a slot: the replica may have died with the last one. */
const LOOK = { max: 1, acquireTimeout: 1_500, timeout: 1_500, idleTimeoutMillis: 1_000 };

/**
 * Connections that a replica, alive or not, has open to a cluster.
 *
 * @param cluster `host:port`, as its lease says
 * @throws Error where no such cluster is known, and nothing is sent: whoever can write a lease could otherwise have the
 *   provisioner's password sent wherever it likes. DatabaseFault where the cluster does not answer
 */
export async function connectionsOf(
  directory: Pick<ClusterDirectory, 'peek'>,
  cluster: string,
  replicaId: string,
  destinations?: Destinations,
): Promise<number> {
  const known = directory.peek(placeOf(cluster));
  if (!known) throw new Error(`the lease of a dead replica names ${cluster}, which is no cluster`);
  const look = createDatabase<unknown>({ ...known.connection(), database: MAINTENANCE_DATABASE }, LOOK, {
    applicationName: 'tenantry lease check',
    preparedStatements: false,
    // A standby knows only its own sessions: those of the dead replica on the primary would not count.
    prove: provePrimary,
    destinations,
  });
  return countSessions(look.db, replicaId).finally(() => look.close(0));
}

/** The place that a cluster's `host:port` names; the host may be an IPv6 address. */
export function placeOf(cluster: string): Place {
  const colon = cluster.lastIndexOf(':');
  return { host: cluster.slice(0, colon), port: Number(cluster.slice(colon + 1)) };
}
