// What readings ask, besides the rooms themselves: numbers that are put together from several rooms.
import { latestVersion } from '../../../db/shared/migrator.js';
import { tenantMigrations } from '../../../db/tenant/migrations/index.js';
import type { Config } from '../../config/index.js';
import { perTurn } from '../../lib/per-turn.js';
import { createFleetNumbers } from './fleet-numbers.js';
import { totalsByCluster } from './pool-totals.js';
import type { ReadRooms } from './reading-types.js';

export function readRooms(rooms: Omit<ReadRooms, 'fleetNumbers' | 'poolTotals'>, { tenants }: Config): ReadRooms {
  const { registryConnections, tenantPools, governors } = rooms;
  return {
    ...rooms,
    fleetNumbers: createFleetNumbers(
      registryConnections.status,
      latestVersion(tenantMigrations),
      tenants.deletionGrace,
    ),
    poolTotals: perTurn(() =>
      totalsByCluster(
        tenantPools.inspectAll(),
        governors.stats().map(({ cluster }) => cluster),
      ),
    ),
  };
}
