// The provisioners of all clusters, for the code that makes, changes and removes tenants. A provisioner is opened when it is
// first needed.
import type { ConnectionSettings, PoolLimits } from '../../db/driver/client.js';
import type { Destinations } from '../../db/driver/destinations.js';
import type { Governors } from '../connections/governors.js';
import { openProvisioner, type Provisioner } from './provisioner-connections.js';

/** The address of a PostgreSQL server. */
export interface Place {
  readonly host: string;
  readonly port: number;
}

/** The provisioner of one cluster. `role` is the role that it enters as, which owns the tenants' databases there. */
export interface PlacedProvisioner extends Provisioner {
  readonly role: string;
}

export interface Provisioners {
  /** @throws Error if no cluster is known at that place; then nothing is sent there */
  at(place: Place): Promise<PlacedProvisioner>;
  close(): Promise<void>;
}

/** @param connectionTo the settings to enter the cluster at a place as its provisioner; undefined if there is no cluster */
export function createProvisioners(deps: {
  readonly connectionTo: (place: Place) => Promise<ConnectionSettings | undefined>;
  readonly limits: PoolLimits;
  readonly governors: Governors;
  readonly replicaId: string;
  readonly destinations: Destinations;
}): Provisioners {
  const { limits, governors, replicaId, destinations } = deps;
  const open = new Map<string, PlacedProvisioner>();

  return {
    async at(place) {
      const connection = await deps.connectionTo(place);
      if (!connection) throw new Error(`no cluster is known at ${place.host}:${place.port}`);
      const key = JSON.stringify(connection);
      let provisioner = open.get(key);
      if (!provisioner) {
        const { reserve } = governors.at(connection);
        const shared = {
          admit: (closeIdle: () => boolean) => reserve.join('provisioning', closeIdle),
          replicaId,
          destinations,
        };
        provisioner = { ...openProvisioner(connection, limits, shared), role: connection.user };
        open.set(key, provisioner);
      }
      return provisioner;
    },

    async close() {
      await Promise.all([...open.values()].map((provisioner) => provisioner.close()));
    },
  };
}
