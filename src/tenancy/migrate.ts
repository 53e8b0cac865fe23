// Bringing the registry, the template and every tenant's database to the newest schema, in that order.
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
import { inTenantLock } from './tenant-lock.js';
import { dropOutdatedTemplates, ensureTemplate, type InDatabase } from './template.js';

export interface MigrationReport {
  /** Names of the registry migrations that ran. */
  readonly registry: readonly string[];
  readonly templateMade: boolean;
  readonly tenantsMigrated: number;
  readonly tenantsCurrent: number;
  /** Runtime roles from before there were bounds for them, which have them now. */
  readonly rolesBounded: number;
  readonly failed: readonly { readonly tenant: TenantRecord; readonly error: unknown }[];
}

/**
 * Migrates everything that is behind. A tenant that fails does not stop the others: it is reported, and the next run takes
 * it up again.
 *
 * @param deps.registry entered as its owner
 * @param deps.registryService the role that the service enters the registry with, where it is another than the owner
 * @param progress called before each tenant's database, with how many come in all
 * @throws where the registry or the template cannot be migrated
 */
export async function migrateAll(
  deps: {
    registry: Kysely<Registry>;
    registryService?: string | undefined;
    cluster: ClusterDb;
    inDatabase: InDatabase;
    provisioner: string;
  },
  progress: (done: number, all: number, tenant: TenantRecord) => void = () => undefined,
): Promise<MigrationReport> {
  const { registry, registryService, cluster, inDatabase, provisioner } = deps;
  const ran = await migrateToLatest(registry, registryMigrations);
  if (registryService !== undefined) await grantServiceRights(registry, registryService);
  const templateMade = await ensureTemplate(cluster, inDatabase, tenantMigrations, provisioner);

  /** Its state is looked at within its lock: it may have been resumed, or purged, since it was listed. */
  async function migrateClosed({ id, dbName }: TenantRecord, migrate: () => Promise<void>): Promise<void> {
    const now = await findTenant(registry, id);
    const database = now && databaseIs[now.status];
    if (database === 'open') await migrate();
    else if (database === 'closed') await whileOpenToOwner(cluster, dbName, migrate);
  }

  const version = latestVersion(tenantMigrations);
  const all = await listProvisionedTenants(registry);
  const behind = all.filter((tenant) => tenant.schemaVersion < version);
  const failed: { tenant: TenantRecord; error: unknown }[] = [];
  for (const [index, tenant] of behind.entries()) {
    progress(index, behind.length, tenant);
    try {
      const migrate = (): Promise<void> =>
        inDatabase(tenant.dbName, async (db) => {
          await migrateToLatest(db, tenantMigrations);
          await grantRuntimeRights(db, tenant.dbUser);
        });
      // One that is suspended or deleted is migrated too, or it could not be resumed under this build.
      if (databaseIs[tenant.status] === 'open') await migrate();
      else await inTenantLock(registry, tenant.id, () => migrateClosed(tenant, migrate));
      await updateTenant(registry, tenant.id, { schemaVersion: version }, ['active', 'suspended', 'deleted']);
    } catch (error) {
      failed.push({ tenant, error });
    }
  }
  const rolesBounded = await boundRuntimeRoles(
    cluster,
    all.map((tenant) => tenant.dbUser),
  );
  if (failed.length === 0) await dropOutdatedTemplates(cluster, tenantMigrations, provisioner);
  return {
    registry: ran,
    templateMade,
    tenantsMigrated: behind.length - failed.length,
    tenantsCurrent: all.length - behind.length,
    rolesBounded,
    failed,
  };
}

/** The registry's migrations that this build needs and the registry has not run. */
export function pendingRegistryMigrations(registry: Kysely<Registry>): Promise<readonly string[]> {
  return pendingMigrations(registry, registryMigrations);
}
