// Standby databases: made ahead of time, and closed to all connections until a tenant claims them. Making a tenant then copies no
// database, and waits for no file. Here it is decided how many there are. Operations make and drop them (src/operations/standby).
import type { Kysely } from 'kysely';
import { withdrawStandbyDatabases } from '../../../db/registry/cluster-queries.js';
import { countUnfinishedOperations } from '../../../db/registry/operations/operation-lists.js';
import { insertOperation } from '../../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { olderBuildLives } from '../../../db/registry/replica-rows.js';
import {
  insertStandby,
  listStandby,
  listStandbyClusters,
  lockStandbyCluster,
  retireStandby,
  type StandbyCluster,
  type StandbyRecord,
} from '../../../db/registry/standby-rows.js';
import { markText } from '../../../db/server/marks.js';
import { latestVersion } from '../../../db/shared/migrator.js';
import { tenantMigrations } from '../../../db/tenant/migrations/index.js';
import type { Envelope } from '../../secrets/envelope.js';
import { newDatabaseName, newDatabasePassword, newTenantId } from '../../tenants/tenant-ids.js';

export interface StandbyDatabases {
  /**
   * Brings every cluster to its target number of standby databases: records an operation for each that is missing, surplus,
   * outdated or unusable. Asks only the registry, so a server that is away delays no other.
   */
  refill(signal: AbortSignal): Promise<void>;
  /**
   * Makes all standby databases of a cluster unavailable for claims, and records operations that drop them.
   *
   * @returns their ids
   */
  withdrawAll(clusterId: string): Promise<readonly string[]>;
}

export function createStandbyDatabases(deps: {
  readonly registry: Kysely<Registry>;
  readonly envelope: Envelope;
  /** Called when operations were recorded for any worker. */
  readonly wake: () => void;
  readonly onError: (error: unknown, context: { clusterId?: string; step: string }) => void;
}): StandbyDatabases {
  const { registry, envelope } = deps;
  const version = latestVersion(tenantMigrations);

  async function refillCluster(place: StandbyCluster): Promise<void> {
    const all = await listStandby(registry, { clusterId: place.id, ready: true });
    const good = all.filter((standby) => isOfUse(standby, place));
    const bad = all.filter((standby) => !good.includes(standby));
    for (const standby of [...(await unwanted(bad)), ...good.slice(place.wanted)]) await withdraw(standby);
    if (good.length < place.wanted) await add(place);
    deps.wake();
  }

  /** Those that no live build uses. A database of another schema belongs to replicas of another build, as long as they live. */
  async function unwanted(bad: readonly StandbyRecord[]): Promise<readonly StandbyRecord[]> {
    const older = bad.filter(({ schemaVersion }) => schemaVersion < version);
    const own = bad.filter(({ schemaVersion }) => schemaVersion === version);
    return older.length > 0 && !(await olderBuildLives(registry, version)) ? [...own, ...older] : own;
  }

  /** Whether a tenant of this build could claim the database: this process can decrypt its password at this place. */
  function isOfUse({ id, schemaVersion, dbUser, dbPassword }: StandbyRecord, { host, port }: StandbyCluster): boolean {
    if (schemaVersion !== version) return false;
    try {
      envelope.open(dbPassword, { id, host, port, user: dbUser });
      return true;
    } catch {
      return false;
    }
  }

  async function withdraw({ id, clusterId }: StandbyRecord): Promise<void> {
    await registry.transaction().execute(async (trx) => {
      // A tenant may have claimed it meanwhile.
      if (await retireStandby(trx, id)) await insertOperation(trx, { kind: 'withdraw', subject: id, clusterId });
    });
  }

  /** Counts again under a lock: two replicas together never begin more than are missing. */
  async function add({ id: clusterId }: StandbyCluster): Promise<void> {
    await registry.transaction().execute(async (trx) => {
      const place = await lockStandbyCluster(trx, clusterId);
      if (!place) return;
      // In this order: one that becomes ready in between counts twice, and not at all in the other order. When it is ready, the
      // databases are counted again.
      const begun = await countUnfinishedOperations(trx, 'standby', clusterId);
      const ready = await listStandby(trx, { clusterId, ready: true });
      const usable = ready.filter((standby) => isOfUse(standby, place)).length;
      for (let missing = place.wanted - usable - begun; missing > 0; missing -= 1) {
        const standby = newStandby(place);
        await insertStandby(trx, standby, place);
        await insertOperation(trx, { kind: 'standby', subject: standby.id, clusterId, details: { version } });
      }
    });
  }

  function newStandby({ id: clusterId, host, port }: StandbyCluster): Omit<StandbyRecord, 'ready'> {
    const id = newTenantId();
    const name = newDatabaseName();
    return {
      id,
      clusterId,
      dbName: name,
      dbUser: name,
      dbPassword: envelope.seal(newDatabasePassword(), { id, host, port, user: name }),
      schemaVersion: version,
    };
  }

  return {
    async refill(signal) {
      for (const cluster of await listStandbyClusters(registry)) {
        if (signal.aborted) return;
        try {
          await refillCluster(cluster);
        } catch (error) {
          deps.onError(error, { clusterId: cluster.id, step: 'standby' });
        }
      }
    },

    async withdrawAll(clusterId) {
      const ids = await registry.transaction().execute(async (trx) => {
        const withdrawn = await withdrawStandbyDatabases(trx, clusterId);
        for (const id of withdrawn) await insertOperation(trx, { kind: 'withdraw', subject: id, clusterId });
        return withdrawn;
      });
      deps.wake();
      return ids;
    },
  };
}

/** The mark has no claim, so that a former build can claim the database too. */
export function standbyMark(installation: string, id: string): string {
  return markText({ installation, id, state: 'standby', claim: null, generation: 0 });
}
