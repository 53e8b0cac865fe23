// Migrates the registry, the template of every cluster and every tenant's database to the newest schema, in this order.
import type { Kysely } from 'kysely';
import { grantServiceRights } from '../../db/registry/registry-grants.js';
import { findInstallationId } from '../../db/registry/installation.js';
import { registryMigrations } from '../../db/registry/migrations/index.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import {
  findTenant,
  listProvisionedTenants,
  updateTenant,
  type TenantRecord,
} from '../../db/registry/tenant-queries.js';
import { boundRuntimeRoles } from '../../db/server/server-admin.js';
import { whileOpenToOwner } from '../../db/server/access.js';
import { findMarks } from '../../db/server/marks.js';
import { latestVersion, migrateToLatest, newerMigrations, pendingMigrations } from '../../db/shared/migrator.js';
import { grantRuntimeRights } from '../../db/tenant/tenant-grants.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { claimInside, claimWithin, compare, complete, look } from '../operations/evidence.js';
import { databaseIs } from '../tenants/tenant-states.js';
import { createLockSession } from '../../db/registry/lock-session.js';
import { createTenantLocks, type TenantLocks } from '../tenants/tenant-locks.js';
import type { PlacedProvisioner, Place } from '../clusters/provisioners.js';
import { OPERATION_TIMES } from '../operations/runner/operation-times.js';
import { createRunner, type RunnerDeps } from '../operations/runner/runner.js';
import { dropOutdatedTemplates } from '../operations/template/outdated-templates.js';
import { templateVersion, type TemplateServer } from '../operations/template/building-template.js';
import { createTemplateMaker, templateSiteAt, type TemplateMaker } from '../operations/template/template-maker.js';

export interface MigrationReport {
  /** Names of the registry migrations that ran. */
  readonly registry: readonly string[];
  readonly templateMade: boolean;
  /** Clusters other than the default one whose template could not be made. Their tenants have failed as well. */
  readonly clustersFailed: readonly { readonly cluster: string; readonly error: unknown }[];
  readonly tenantsMigrated: number;
  readonly tenantsCurrent: number;
  /** Runtime roles of former builds that had no bounds, and got them now. */
  readonly rolesBounded: number;
  /** Databases of a former build, or databases without a mark from a dump, that now carry a mark. */
  readonly databasesMarked: number;
  /** Migrations of a newer build, in the registry, a template or a tenant. This build does not touch them. */
  readonly newer: readonly string[];
  /** Templates of older schema versions that stay, with the reason. */
  readonly templatesLeft: readonly { readonly name: string; readonly why: string }[];
  readonly failed: readonly { readonly tenant: TenantRecord; readonly error: unknown }[];
}

/**
 * Migrates everything that is not at the newest schema. A tenant or cluster that fails does not stop the others: the report names
 * it, and the next run tries again.
 *
 * @param deps.registry a connection as the registry's owner
 * @param deps.registryService the service's role in the registry, if it is not the owner
 * @param deps.cluster the default cluster, with `inDatabase` and the role `provisioner`
 * @param deps.place the address of the default cluster. Without it, the operation that makes its template names no cluster
 * @param deps.onOutcome called when an attempt at such an operation has ended
 * @param deps.others gives the registered clusters other than the default one; called after the registry is migrated
 * @param progress called before each tenant's database, with the number of databases in total
 * @throws if the registry or the default cluster's template cannot be migrated
 */
export async function migrateAll(deps: MigrationDeps, progress: Progress = () => undefined): Promise<MigrationReport> {
  const { registry, registryService } = deps;
  const ran = await migrateToLatest(registry, registryMigrations);
  if (registryService !== undefined) await grantServiceRights(registry, registryService);
  const installation = await findInstallationId(registry);
  // One tenant or operation at a time: its lock holds one connection, and the work needs one more.
  const session = createLockSession(registry, () => undefined);
  const locks = createTenantLocks(session);
  const worker = `migrate-${process.pid}`;
  const ignore = (): void => undefined;
  const { onOutcome = ignore } = deps;
  // It takes up nothing by itself: the operations of a fleet are for the replicas.
  const runner = createRunner({
    registry,
    locks,
    worker,
    schemaVersion: templateVersion,
    times: OPERATION_TIMES,
    onOutcome,
    onLookFailed: ignore,
    onError: ignore,
  });
  const maker = createTemplateMaker({
    registry,
    locks,
    runner,
    worker,
    installation: () => Promise.resolve(installation),
  });
  try {
    return await migrateFleet(deps, { ran, installation, locks, maker }, progress);
  } finally {
    await runner.close();
    await session.close();
  }
}

type Progress = (done: number, all: number, tenant: TenantRecord) => void;

interface MigrationDeps extends Pick<PlacedProvisioner, 'cluster' | 'inDatabase'> {
  readonly registry: Kysely<Registry>;
  readonly registryService?: string | undefined;
  readonly provisioner: string;
  readonly place?: Place | undefined;
  readonly onOutcome?: RunnerDeps['onOutcome'] | undefined;
  readonly others?: (registry: Kysely<Registry>) => Promise<readonly OtherCluster[]>;
}

/** Longest wait (ms) for another worker that makes the template of a server. */
const TEMPLATE_PATIENCE = 60_000;

async function migrateFleet(
  deps: MigrationDeps,
  {
    ran,
    installation,
    locks,
    maker,
  }: { ran: readonly string[]; installation: string; locks: TenantLocks; maker: TemplateMaker },
  progress: Progress,
): Promise<MigrationReport> {
  const { registry, cluster, inDatabase, provisioner } = deps;
  const own = { cluster, inDatabase, role: provisioner };
  const makeTemplate = async (server: TemplateServer, place: Place | undefined): Promise<boolean> =>
    maker.ensure(server, await templateSiteAt(registry, place), TEMPLATE_PATIENCE);
  let templateMade = await makeTemplate(own, deps.place);
  const others = (await deps.others?.(registry)) ?? [];
  const clustersFailed: { cluster: string; error: unknown }[] = [];
  for (const { place, opened, role } of others) {
    try {
      templateMade = (await makeTemplate({ ...opened, role }, place)) || templateMade;
    } catch (error) {
      clustersFailed.push({ cluster: nameOf(place), error });
    }
  }
  const reached = others.filter(({ place }) => clustersFailed.every((gone) => gone.cluster !== nameOf(place)));
  const provisionerOf = ({ dbHost: host, dbPort: port }: TenantRecord): Entered => {
    const name = nameOf({ host, port });
    // Waiting for an unreachable cluster once for each of its tenants would delay all others.
    const down = clustersFailed.find((failed) => failed.cluster === name);
    if (down) throw down.error;
    return others.find(({ place }) => nameOf(place) === name)?.opened ?? own;
  };

  const failed: { tenant: TenantRecord; error: unknown }[] = [];

  /** Reads the tenant's state within its lock: it may have been resumed, or purged, since it was listed. */
  async function migrateClosed(on: Entered, { id, dbName }: TenantRecord, migrate: () => Promise<void>): Promise<void> {
    const now = await findTenant(registry, id);
    const database = now && databaseIs[now.status];
    if (database === 'open') return migrate();
    if (!now || database !== 'closed') return;
    const seen = await look(on, now, installation);
    if (seen?.verdict === 'newer' || seen?.verdict === 'foreign')
      throw new Error(`its database carries the mark "${seen.found.text ?? ''}", and is not opened for this row`);
    await whileOpenToOwner(on.cluster, dbName, migrate);
  }

  let databasesMarked = 0;
  for (const tenant of await listUnmarked(registry, provisionerOf, installation)) {
    try {
      if (await locks.attempt(tenant.id, () => mark(registry, provisionerOf(tenant), tenant.id, installation)))
        databasesMarked += 1;
    } catch (error) {
      failed.push({ tenant, error });
    }
  }

  const version = latestVersion(tenantMigrations);
  const all = await listProvisionedTenants(registry);
  const behind = all.filter((tenant) => tenant.schemaVersion < version);
  let tenantsMigrated = 0;
  for (const [index, tenant] of behind.entries()) {
    progress(index, behind.length, tenant);
    try {
      const on = provisionerOf(tenant);
      const migrate = (): Promise<void> =>
        on.inDatabase(tenant.dbName, async (db) => {
          await migrateToLatest(db, tenantMigrations);
          await grantRuntimeRights(db, tenant.dbUser);
          await claimWithin(db, tenant);
        });
      // A suspended or deleted tenant is migrated too; otherwise this build could not resume it.
      if (databaseIs[tenant.status] === 'open') await migrate();
      else await locks.hold(tenant.id, () => migrateClosed(on, tenant, migrate));
      await updateTenant(registry, tenant.id, { schemaVersion: version }, ['active', 'suspended', 'deleted']);
      tenantsMigrated += 1;
    } catch (error) {
      failed.push({ tenant, error });
    }
  }
  let rolesBounded = 0;
  for (const on of [cluster, ...reached.map(({ opened }) => opened.cluster)]) {
    rolesBounded += await boundRuntimeRoles(
      on,
      all.map((tenant) => tenant.dbUser),
    );
  }
  const newer = new Set(await newerMigrations(registry, registryMigrations));
  for (const { schemaVersion } of all) if (schemaVersion > version) newer.add(schemaVersion);
  const templatesLeft: { name: string; why: string }[] = [];
  for (const on of [own, ...reached.map(({ opened, role }) => ({ ...opened, role }))]) {
    // If a tenant failed, the old templates stay: nothing of the old schema is dropped before all tenants have the new one.
    const found = await dropOutdatedTemplates(registry, on, tenantMigrations, installation, failed.length === 0);
    for (const each of found.newer) newer.add(each);
    templatesLeft.push(...found.left);
  }
  return {
    registry: ran,
    templateMade,
    clustersFailed,
    tenantsMigrated,
    tenantsCurrent: all.length - behind.length,
    rolesBounded,
    databasesMarked,
    newer: [...newer].sort(),
    templatesLeft,
    failed,
  };
}

type Entered = Pick<PlacedProvisioner, 'cluster' | 'inDatabase'>;

/** Databases in one query. */
const PAGE = 1_000;

/** The tenants whose database carries no mark, or a mark of a former build. Tenants of an unreachable cluster are left out. */
async function listUnmarked(
  registry: Kysely<Registry>,
  provisionerOf: (tenant: TenantRecord) => Entered,
  installation: string,
): Promise<TenantRecord[]> {
  const at = new Map<Entered, TenantRecord[]>();
  for (const tenant of await listProvisionedTenants(registry)) {
    try {
      const on = provisionerOf(tenant);
      at.set(on, [...(at.get(on) ?? []), tenant]);
    } catch {
      // This error is reported when the cluster's tenants are migrated.
    }
  }
  const unmarked: TenantRecord[] = [];
  for (const [{ cluster }, tenants] of at)
    for (let from = 0; from < tenants.length; from += PAGE) {
      const page = new Map(tenants.slice(from, from + PAGE).map((tenant) => [tenant.dbName, tenant]));
      for (const found of await findMarks(cluster, [...page.keys()])) {
        const tenant = page.get(found.name);
        if (tenant && ['former', 'unmarked'].includes(compare(tenant, found, installation))) unmarked.push(tenant);
      }
    }
  return unmarked;
}

/** Runs under the tenant's lock. @throws Error if the database does not prove to be the tenant's */
async function mark(registry: Kysely<Registry>, on: Entered, id: string, installation: string): Promise<void> {
  const tenant = await findTenant(registry, id);
  const seen = tenant && (await look(on, tenant, installation));
  if (!tenant || !seen || !['former', 'unmarked'].includes(seen.verdict)) return;
  const completed = await complete(registry, on, tenant, seen, installation);
  if (!completed) throw new Error('its database carries neither its mark nor its marker');
  if (!seen.found.open)
    await whileOpenToOwner(on.cluster, completed.dbName, () => claimInside(on.inDatabase, completed));
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

/** The migrations that this build needs and that have not run in the registry. */
export function pendingRegistryMigrations(registry: Kysely<Registry>): Promise<readonly string[]> {
  return pendingMigrations(registry, registryMigrations);
}
