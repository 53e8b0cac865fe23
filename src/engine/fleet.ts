// What this replica tells the others of itself, and what it knows of the fleet.
import type { Logger } from 'pino';
import { latestVersion } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import type { Config } from '../config/index.js';
import type { Housekeeping } from '../jobs/housekeeping.js';
import { pingRegistry } from '../../db/registry/tenant-queries.js';
import { MAX_CLOCK_SKEW } from '../auth/tokens.js';
import { createPresence, type Presence } from '../replicas/presence.js';
import { createRegistryCheck } from '../replicas/registry-check.js';
import { createReplicaClock, type ReplicaClock } from '../replicas/replica-clock.js';
import { createFleetStatus, type FleetStatusReader } from '../status/fleet-status.js';
import type { Caching } from './caching.js';
import type { DataPlane } from './data-plane.js';
import type { Operations } from './operations.js';
import type { Replica } from './replica.js';

export interface Fleet {
  readonly presence: Presence;
  readonly replicaClock: ReplicaClock;
  readonly fleetStatus: FleetStatusReader;
  /** Rejects if the registry does not answer or does not accept writes. It costs no query while the feed gets answers. */
  readonly checkRegistry: () => Promise<void>;
}

type Rooms = Replica & DataPlane & Operations & { readonly housekeeping: Housekeeping };

/** @param wallClock this replica's clock (ms), instead of the system's */
export function createFleet(
  rooms: Rooms,
  config: Config,
  log: Logger,
  wallClock: (() => number) | undefined,
  { cachePresence, mustNotWrite }: Pick<Caching, 'cachePresence' | 'mustNotWrite'>,
): Fleet {
  const { registryConnections, events, governors, housekeeping } = rooms;
  const registry = registryConnections.status;
  const replicaClock = createReplicaClock({
    registryClock: () => events.clock(),
    wallClock: wallClock ?? (() => Date.now()),
    tolerance: MAX_CLOCK_SKEW,
    onChange: (problem) => {
      presence.beat();
      if (problem === undefined) log.info('the clock of this replica agrees with that of the registry again');
      else log.error(`this replica is not ready: ${problem}. Tokens get the registry's time meanwhile`);
    },
  });
  const presence = createPresence({
    registry,
    replicaId: rooms.replicaId,
    clock: replicaClock,
    notReady: () => {
      const starved = governors.starved();
      return starved === undefined ? mustNotWrite() : `it has no connection left to ${starved}`;
    },
    slotsUsed: () =>
      Object.fromEntries(
        governors.stats().flatMap(({ cluster, used, reserve }) => [
          [`tenants ${cluster}`, used],
          [`reserve ${cluster}`, reserve.used],
        ]),
      ),
    schemaVersion: latestVersion(tenantMigrations),
    reports: () => rooms.reports.unwritten(),
    ...cachePresence,
    onError: (err) => {
      log.warn({ err }, 'could not tell the registry that this replica serves');
    },
  });
  const fleetStatus = createFleetStatus({
    registry,
    requestPool: rooms.registryPool,
    presence,
    events,
    store: rooms.sharedStore,
    breakers: rooms.breakers,
    directory: rooms.clusterDirectory,
    looks: rooms.serverLooks,
    jobs: () => housekeeping.stats(),
    keyUses: (db) => rooms.reencryption.uses(db),
    grace: config.tenants.deletionGrace,
    rotateAfter: config.tenants.rotatePasswordsAfter,
  });
  const checkRegistry = createRegistryCheck(events, () => pingRegistry(rooms.registry));
  return { presence, replicaClock, fleetStatus, checkRegistry };
}
