// Looks at the sessions on a cluster, over one connection for each server. The connection takes no slot, since the look may be
// about the slots. It is opened when it is needed, and closes soon after.
import { createDatabase, type DatabaseHandle } from '../../db/driver/client.js';
import { MAINTENANCE_DATABASE, type ClusterDb } from '../../db/server/server-admin.js';
import type { Destinations } from '../../db/driver/destinations.js';
import { provePrimary } from '../../db/driver/proof.js';
import type { ClusterDirectory } from './cluster-directory.js';
import type { Place } from './provisioners.js';

export interface ServerLooks {
  /**
   * The cluster `host:port`, entered as its provisioner. Undefined if no cluster is known there: nothing is sent to such a place.
   */
  at(cluster: string): ClusterDb | undefined;
  close(): Promise<void>;
}

/** The longest run of a look (ms), and how long (ms) its connection is kept for the next look. */
const LIMITS = { max: 1, timeout: 2_000, idleTimeoutMillis: 5_000 };

/**
 * @param connectTimeout longest wait (ms) for the connection
 * @param destinations the destinations of the process
 */
export function createServerLooks(
  directory: Pick<ClusterDirectory, 'peek'>,
  connectTimeout: number,
  destinations?: Destinations,
): ServerLooks {
  const open = new Map<string, { readonly key: string; readonly handle: DatabaseHandle<unknown> }>();
  return {
    at(cluster) {
      const known = directory.peek(placeOf(cluster));
      if (!known) return undefined;
      const connection = { ...known.connection(), database: MAINTENANCE_DATABASE };
      const key = JSON.stringify(connection);
      const before = open.get(cluster);
      if (before?.key === key) return before.handle.db;
      void before?.handle.close(0);
      const limits = { ...LIMITS, acquireTimeout: connectTimeout, connectTimeout };
      const handle = createDatabase<unknown>(connection, limits, {
        // The name carries no replica, because the connection takes no slot.
        applicationName: 'tenantry look',
        preparedStatements: false,
        // A standby knows only its own sessions. So sessions that live on the primary would count as gone.
        prove: provePrimary,
        destinations,
      });
      open.set(cluster, { key, handle });
      return handle.db;
    },

    async close() {
      await Promise.all([...open.values()].map(({ handle }) => handle.close(0)));
    },
  };
}

/** The place of a cluster's `host:port`; the host may be an IPv6 address. */
export function placeOf(cluster: string): Place {
  const colon = cluster.lastIndexOf(':');
  return { host: cluster.slice(0, colon), port: Number(cluster.slice(colon + 1)) };
}
