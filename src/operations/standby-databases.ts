// Standby databases: made ahead of time, one after the other, and closed to all connections until a tenant claims them. Making a
// tenant then copies no database, and waits for no file.
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/registry/registry-schema.js';
import {
  deleteStandby,
  insertStandby,
  listStandby,
  listStandbyClusters,
  readyStandby,
  retireStandby,
  type StandbyCluster,
  type StandbyRecord,
} from '../../db/registry/standby-rows.js';
import { createRuntimeRole, createTenantDatabase } from '../../db/server/server-admin.js';
import { closeDatabase } from '../../db/server/access.js';
import { markText } from '../../db/server/marks.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { scramVerifier } from '../../db/server/scram.js';
import { grantRuntimeRights } from '../../db/tenant/tenant-grants.js';
import { writeMarker } from '../../db/tenant/marker.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { demolish } from './demolish.js';
import type { Envelope } from '../secrets/envelope.js';
import { newDatabaseName, newDatabasePassword, newTenantId, TENANT_SCRAM_ITERATIONS } from '../tenants/tenant-ids.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import type { Precedence } from './precedence.js';
import type { Place, PlacedProvisioner, Provisioners } from '../clusters/provisioners.js';
import { leftAsItIs } from './reports.js';
import { templateName } from './templates.js';

/** The fields that dropping a standby database needs. */
export type StandbyToDrop = Pick<StandbyRecord, 'id' | 'dbName' | 'dbUser'>;

export interface StandbyDatabases {
  /**
   * Brings every cluster to its target number of standby databases. Missing ones are made. Surplus, outdated and unusable ones
   * are dropped. A cluster that fails does not delay the others.
   */
  refill(signal: AbortSignal): Promise<void>;
  /** Drops a standby database. The caller holds its lock. A database that was claimed meanwhile stays. */
  drop(standby: StandbyToDrop, place: Place, provisioner: PlacedProvisioner): Promise<void>;
}

export interface StandbyDeps {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly locks: TenantLocks;
  readonly envelope: Envelope;
  readonly installation: () => Promise<string>;
  /** The most connections that the pools of one tenant may hold: the role's CONNECTION LIMIT. */
  readonly connectionLimit: number;
  /** Tenants that a client waits for are made first. */
  readonly precedence: Pick<Precedence, 'quiet'>;
  readonly onError: (error: unknown, context: { clusterId?: string; tenantId?: string; step: string }) => void;
}

export function createStandbyDatabases(deps: StandbyDeps): StandbyDatabases {
  const { registry, provisioners, locks, envelope } = deps;
  const version = latestVersion(tenantMigrations);

  async function refill(signal: AbortSignal): Promise<void> {
    for (const cluster of await listStandbyClusters(registry)) {
      if (signal.aborted) return;
      try {
        await refillCluster(cluster, signal);
      } catch (error) {
        deps.onError(error, { clusterId: cluster.id, step: 'standby' });
      }
    }
  }

  async function refillCluster(place: StandbyCluster, signal: AbortSignal): Promise<void> {
    const all = await listStandby(registry, { clusterId: place.id, ready: true });
    const good = all.filter((standby) => isOfUse(standby, place));
    // Databases of a newer schema belong to a newer build, which manages them itself.
    const bad = all.filter((standby) => !good.includes(standby) && standby.schemaVersion <= version);
    for (const standby of [...bad, ...good.slice(place.wanted)]) {
      if (signal.aborted) return;
      await retire(standby, place);
    }
    // The number is read again before each one, because tenants claim databases meanwhile. The bound ends a race with these
    // tenants.
    for (let made = 0; made < place.wanted * 2; made += 1) {
      await deps.precedence.quiet(signal);
      if (signal.aborted) return;
      const ready = await listStandby(registry, { clusterId: place.id, ready: true });
      if (ready.filter(({ schemaVersion }) => schemaVersion === version).length >= place.wanted) return;
      await make(place);
    }
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

  async function retire(standby: StandbyRecord, place: StandbyCluster): Promise<void> {
    // Retired before its lock is taken, so that no tenant can claim it: a claim takes the lock too.
    if (!(await retireStandby(registry, standby.id))) return;
    const provisioner = await provisioners.at(place);
    await locks.attempt(standby.id, () => drop(standby, place, provisioner));
  }

  async function make(place: StandbyCluster): Promise<void> {
    const { host, port } = place;
    const provisioner = await provisioners.at(place);
    const { cluster, inDatabase, role: owner } = provisioner;
    const id = newTenantId();
    const name = newDatabaseName();
    const password = newDatabasePassword();
    const standby: StandbyRecord = {
      id,
      clusterId: place.id,
      dbName: name,
      dbUser: name,
      dbPassword: envelope.seal(password, { id, host, port, user: name }),
      schemaVersion: version,
      ready: false,
    };
    const mark = standbyMark(await deps.installation(), id);
    await locks.hold(id, async () => {
      if (!(await insertStandby(registry, standby, place))) return;
      try {
        const verifier = await scramVerifier(password, TENANT_SCRAM_ITERATIONS);
        const { connectionLimit } = deps;
        await createRuntimeRole(cluster, { name, verifier, connectionLimit, login: false, mark });
        const template = templateName(tenantMigrations, owner);
        await createTenantDatabase(cluster, { name, template, runtimeRole: name, mark });
        await inDatabase(name, async (db) => {
          await grantRuntimeRights(db, name);
          await writeMarker(db, id);
        });
        await closeDatabase(cluster, name);
        if (!(await readyStandby(registry, id))) throw new Error('the row of the standby database is gone');
      } catch (error) {
        // If the database cannot be dropped now, the reconciler finds it, because it is not ready.
        await drop(standby, place, provisioner).catch((undoing: unknown) => {
          deps.onError(undoing, { tenantId: id, step: 'undo standby' });
        });
        throw error;
      }
    });
  }

  async function drop(standby: StandbyToDrop, place: Place, provisioner: PlacedProvisioner): Promise<void> {
    const { id, dbName: name, dbUser: role } = standby;
    if (!(await retireStandby(registry, id))) return;
    const installation = await deps.installation();
    const mark = standbyMark(installation, id);
    const dropping = markText({ installation, id, state: 'dropping', claim: null, generation: 0 });
    const doomed = { place, id, name, role, grounds: [mark, dropping] };
    const left = await demolish(registry, provisioner, doomed, installation);
    // This happens when the registry was restored from a backup taken before the claim.
    if (left !== undefined)
      deps.onError(leftAsItIs(`a standby database is left as it is, and only its row is removed: ${left}`), {
        tenantId: id,
        step: 'drop standby',
      });
    await deleteStandby(registry, id);
  }

  return { refill, drop };
}

/** The mark has no claim, so that a former build can claim the database too. */
export function standbyMark(installation: string, id: string): string {
  return markText({ installation, id, state: 'standby', claim: null, generation: 0 });
}
