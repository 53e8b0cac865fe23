// One statement for many tenants, over the rooms of a replica.
import type { Config } from '../config/index.js';
import { createFleetStatements, type FleetStatements } from '../fleet-statements/fleet-statements.js';
import { createTenantLocks } from '../tenants/tenant-locks.js';
import type { DataPlane } from './data-plane.js';
import type { Operations } from './operations.js';
import type { Replica } from './replica.js';

export interface Statements {
  readonly fleetStatements: FleetStatements;
}

export function createStatements(
  rooms: Pick<Replica, 'registry' | 'lockSession' | 'installation'> &
    Pick<DataPlane, 'clusterDirectory'> &
    Pick<Operations, 'provisioners'>,
  { tenants }: Config,
): Statements {
  const locks = createTenantLocks(rooms.lockSession);
  return { fleetStatements: createFleetStatements({ ...rooms, locks, mostConnections: tenants.provisionerPool.max }) };
}
