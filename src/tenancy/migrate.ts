// Bringing the registry, the template of every cluster and every tenant's database to the newest schema, in that order.
import type { Kysely } from 'kysely';
import { grantServiceRights } from '../../db/central/grants.js';
import { registryMigrations } from '../../db/central/migrations/index.js';
import type { Registry } from '../../db/central/schema.js';
import { findTenant, listProvisionedTenants, updateTenant, type TenantRecord } from '../../db/central/tenants.js';
import { boundRuntimeRoles, whileOpenToOwner, type ClusterDb } from '../../db/cluster.js';
import { latestVersion, migrateToLatest, pendingMigrations } from '../../db/migrator.js';
import { grantRuntimeRights } from '../../db/tenant/grants.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { databaseIs } from './lifecycle.js';
import { createTenantLocks } from './locks.js';
import type { PlacedProvisioner, Place } from './provisioners.js';
import { dropOutdatedTemplates, ensureTemplate } from './template.js';

export interface MigrationReport {
  /** Names of the registry migrations that ran. */
  readonly registry: readonly string[];
  readonly templateMade: boolean;
  /** Clusters beside the default one whose template could not be made: their tenants have failed as well. */
  readonly clustersFailed: readonly { readonly cluster: string; readonly error: unknown }[];
  readonly tenantsMigrated: number;
  readonly tenantsCurrent: number;
  /** Runtime roles from before there were bounds for them, which have them now. */
  readonly rolesBounded: number;
  readonly failed: readonly { readonly tenant: TenantRecord; readonly error: unknown }[];
}

/**
 * Migrates everything that is behind. A tenant or a cluster that fails does not stop the others: it is reported, and the next
 * run takes it up again.
 *
 * @param deps.registry entered as its owner
 * @param deps.registryService the role that the service enters the registry with, where it is another than the owner
 * @param deps.cluster the default cluster, with `inDatabase` and the role `provisioner`
 * @param deps.others the registered clusters beside it, asked for when the registry is migrated
 * @param progress called before each tenant's database, with how many come in all
 * @throws where the registry or the default cluster's template cannot be migrated
 */
export async function migrateAll(
  deps: Pick<PlacedProvisioner, 'cluster' | 'inDatabase'> & {
    registry: Kysely<Registry>;
    registryService?: string | undefined;
    provisioner: string;
    others?: (registry: Kysely<Registry>) => Promise<readonly OtherCluster[]>;
  },
  progress: (done: number, all: number, tenant: TenantRecord) => void = () => undefined,
): Promise<MigrationReport> {
  const { registry, registryService, cluster, inDatabase, provisioner } = deps;
  const ran = await migrateToLatest(registry, registryMigrations);
  if (registryService !== undefined) await grantServiceRights(registry, registryService);
  let templateMade = await ensureTemplate(cluster, inDatabase, tenantMigrations, provisioner);
  const others = (await deps.others?.(registry)) ?? [];
  const clustersFailed: { cluster: string; error: unknown }[] = [];
  for (const { place, opened, role } of others) {
    try {
      templateMade = (await ensureTemplate(opened.cluster, opened.inDatabase, tenantMigrations, role)) || templateMade;
    } catch (error) {
      clustersFailed.push({ cluster: nameOf(place), error });
    }
  }

  /** Its state is looked at within its lock: it may have been resumed, or purged, since it was listed. */
  async function migrateClosed(
    on: ClusterDb,
    { id, dbName }: TenantRecord,
    migrate: () => Promise<void>,
  ): Promise<void> {
    const now = await findTenant(registry, id);
    const database = now && databaseIs[now.status];
    if (database === 'open') await migrate();
    else if (database === 'closed') await whileOpenToOwner(on, dbName, migrate);
  }

  // One tenant at a time: its lock holds one connection, and the work needs one more.
  const locks = createTenantLocks(registry);
  const version = latestVersion(tenantMigrations);
  const all = await listProvisionedTenants(registry);
  const behind = all.filter((tenant) => tenant.schemaVersion < version);
  const failed: { tenant: TenantRecord; error: unknown }[] = [];
  for (const [index, tenant] of behind.entries()) {
    progress(index, behind.length, tenant);
    const name = nameOf({ host: tenant.dbHost, port: tenant.dbPort });
    try {
      // Waiting for it once more for each of its tenants would hold up all others.
      const down = clustersFailed.find(({ cluster }) => cluster === name);
      if (down) throw down.error;
      const other = others.find(({ place }) => nameOf(place) === name);
      const migrate = (): Promise<void> =>
        (other?.opened.inDatabase ?? inDatabase)(tenant.dbName, async (db) => {
          await migrateToLatest(db, tenantMigrations);
          await grantRuntimeRights(db, tenant.dbUser);
        });
      // One that is suspended or deleted is migrated too, or it could not be resumed under this build.
      if (databaseIs[tenant.status] === 'open') await migrate();
      else await locks.hold(tenant.id, () => migrateClosed(other?.opened.cluster ?? cluster, tenant, migrate));
      await updateTenant(registry, tenant.id, { schemaVersion: version }, ['active', 'suspended', 'deleted']);
    } catch (error) {
      failed.push({ tenant, error });
    }
  }
  const reached = others.filter(({ place }) => clustersFailed.every((gone) => gone.cluster !== nameOf(place)));
  let rolesBounded = 0;
  for (const on of [cluster, ...reached.map(({ opened }) => opened.cluster)]) {
    rolesBounded += await boundRuntimeRoles(
      on,
      all.map((tenant) => tenant.dbUser),
    );
  }
  if (failed.length === 0) {
    await dropOutdatedTemplates(cluster, tenantMigrations, provisioner);
    for (const { opened, role } of reached) await dropOutdatedTemplates(opened.cluster, tenantMigrations, role);
  }
  return {
    registry: ran,
    templateMade,
    clustersFailed,
    tenantsMigrated: behind.length - failed.length,
    tenantsCurrent: all.length - behind.length,
    rolesBounded,
    failed,
  };
}

/** A registered cluster, with the role that owns the databases there. */
export interface OtherCluster {
  readonly place: Place;
  readonly opened: Pick<PlacedProvisioner, 'cluster' | 'inDatabase'>;
  readonly role: string;
}

function nameOf({ host, port }: Place): string {
  return `${host}:${port}`;
}

/** The registry's migrations that this build needs and the registry has not run. */
export function pendingRegistryMigrations(registry: Kysely<Registry>): Promise<readonly string[]> {
  return pendingMigrations(registry, registryMigrations);
}
