// Brings the whole fleet to this build's schema, in this order:
//
//     registry → templates → withdraw what older builds make tenants from → marks → tenants, until none is behind
//
// Older builds continue to serve meanwhile. Without their templates and standby databases they make no tenants of the old schema
// behind the migration's back. They can still adopt a database: such a tenant is behind, which GET /status reports.
import type { Kysely } from 'kysely';
import { keepAuditFor } from '../../db/registry/registry-audit.js';
import { grantServiceRights } from '../../db/registry/registry-grants.js';
import { findInstallationId } from '../../db/registry/installation.js';
import { createLockSession } from '../../db/registry/lock-session.js';
import { registryMigrations } from '../../db/registry/migrations/index.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { listProvisionedTenants, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { boundRuntimeRoles } from '../../db/server/server-admin.js';
import { latestVersion, migrateToLatest, newerMigrations, pendingMigrations } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import type { Place } from '../clusters/provisioners.js';
import { OPERATION_TIMES } from '../operations/runner/operation-times.js';
import { createRunner, type RunnerDeps } from '../operations/runner/runner.js';
import { templateVersion } from '../operations/template/building-template.js';
import { createTemplateMaker, templateSiteAt, type TemplateMaker } from '../operations/template/template-maker.js';
import { createTenantLocks, type TenantLocks } from '../tenants/tenant-locks.js';
import { inPlainWords, PlainError } from '../jobs/plain-words.js';
import { FleetServers, type FailedCluster, type FleetServer, type OtherCluster } from './fleet-servers.js';
import { markDatabases } from './mark-databases.js';
import { migrateTenants, type FailedTenant, type TenantProgress } from './migrate-tenants.js';
import { dropOlderTemplates, withdrawOlderStandby } from './older-stock.js';

export interface MigrationReport {
  /** Names of the registry migrations that ran. */
  readonly registry: readonly string[];
  readonly templateMade: boolean;
  /** Clusters that could not be entered, or failed later. Their tenants are not among `failed`. */
  readonly clustersFailed: readonly FailedCluster[];
  /** Tenants of failed clusters that are behind. */
  readonly tenantsOfFailedClusters: number;
  readonly tenantsMigrated: number;
  readonly tenantsCurrent: number;
  /** Tenants of an older schema that an older build is still making. */
  readonly tenantsUnfinished: number;
  /** Standby databases of older builds that cannot be claimed any more. */
  readonly standbyWithdrawn: number;
  /** Runtime roles of former builds that had no bounds, and got them now. */
  readonly rolesBounded: number;
  /** Databases of a former build, or databases without a mark from a dump, that now carry a mark. */
  readonly databasesMarked: number;
  /** Migrations of a newer build, in the registry, a template or a tenant. This build does not touch them. */
  readonly newer: readonly string[];
  /** Templates of older schema versions that stay, with the reason. */
  readonly templatesLeft: readonly { readonly name: string; readonly why: string }[];
  readonly failed: readonly FailedTenant[];
}

/** Hears of the migration while it runs. */
export interface MigrationProgress {
  /** The registry's migrations have run. */
  readonly registry?: (ran: readonly string[]) => void;
  readonly tenant?: TenantProgress;
}

export interface MigrationDeps extends Pick<FleetServer, 'cluster' | 'inDatabase'> {
  /** A connection as the registry's owner. */
  readonly registry: Kysely<Registry>;
  /** The service's role in the registry, if it is not the owner. */
  readonly registryService?: string | undefined;
  /** Days for which the registry keeps rows of its audit; 0 for ever. Not given: what is recorded stays. */
  readonly auditKeepDays?: number | undefined;
  /** The role that owns the databases of the default cluster, whose `cluster` and `inDatabase` these are. */
  readonly provisioner: string;
  /** How many databases of the default cluster are migrated at once; 1 if it is not given. */
  readonly atOnce?: number;
  /** The address of the default cluster. Without it, the operation that makes its template names no cluster. */
  readonly place?: Place | undefined;
  /** Called when an attempt at such an operation has ended. */
  readonly onOutcome?: RunnerDeps['onOutcome'] | undefined;
  /** Gives the registered clusters other than the default one; called after the registry is migrated. */
  readonly others?: (registry: Kysely<Registry>) => Promise<readonly OtherCluster[]>;
}

/** Longest wait (ms) for another worker that makes the template of a server. */
const TEMPLATE_PATIENCE = 60_000;

/**
 * Migrates everything that is not at the newest schema. A tenant or cluster that fails does not stop the others: the report names
 * it, and the next run tries again.
 *
 * @throws if the registry or the default cluster's template cannot be migrated
 */
export async function migrateAll(deps: MigrationDeps, progress: MigrationProgress = {}): Promise<MigrationReport> {
  const { registry, registryService, auditKeepDays } = deps;
  const ran = await migrateToLatest(registry, registryMigrations);
  const newer = await newerMigrations(registry, registryMigrations);
  // The grants are on all tables. Which rights the tables of a newer build need, only that build knows.
  if (registryService !== undefined && newer.length === 0) await grantServiceRights(registry, registryService);
  if (auditKeepDays !== undefined) await keepAuditFor(registry, auditKeepDays);
  progress.registry?.(ran);
  const installation = await findInstallationId(registry);
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
    const fleet = await migrateFleet(deps, { installation, locks, maker }, progress);
    return { registry: ran, ...fleet, newer: [...new Set([...newer, ...fleet.newer])].sort() };
  } finally {
    await runner.close();
    await session.close();
  }
}

interface Tools {
  readonly installation: string;
  readonly locks: TenantLocks;
  readonly maker: TemplateMaker;
}

async function migrateFleet(
  deps: MigrationDeps,
  { installation, locks, maker }: Tools,
  progress: MigrationProgress,
): Promise<Omit<MigrationReport, 'registry'>> {
  const { registry, cluster, inDatabase, provisioner: role, atOnce = 1 } = deps;
  const own = { cluster, inDatabase, role, atOnce };
  const makeTemplate = async (server: FleetServer, place: Place | undefined): Promise<boolean> =>
    maker.ensure(server, await templateSiteAt(registry, place), TEMPLATE_PATIENCE);
  const templateMade = await makeTemplate(own, deps.place).catch((error: unknown) => {
    throw new PlainError(`the template of the default cluster could not be made: ${inPlainWords(error)}`, {
      cause: error,
    });
  });
  const servers = new FleetServers(own, deps.place, (await deps.others?.(registry)) ?? []);
  const templatesMade = [templateMade, ...(await servers.onEach(makeTemplate))];

  const standbyWithdrawn = await withdrawOlderStandby(registry);
  await dropOlderTemplates(registry, servers, installation);

  const toMigrate = { registry, locks, servers, installation };
  const marks = await markDatabases(toMigrate);
  const tenants = await migrateTenants(toMigrate, progress.tenant ?? (() => undefined));

  const all = await listProvisionedTenants(registry);
  const roles = all.map((tenant) => tenant.dbUser);
  const bounded = await servers.onEach(({ cluster: on }) => boundRuntimeRoles(on, roles));
  // Again: a template that a session was using could not be dropped.
  const templates = await dropOlderTemplates(registry, servers, installation);
  // A tenant that both failed to be marked and failed to be migrated is one failure.
  const failed = new Map([...marks.failed, ...tenants.failed].map((each) => [each.tenant.id, each]));
  return {
    templateMade: templatesMade.includes(true),
    clustersFailed: servers.failed,
    tenantsOfFailedClusters: tenants.unreached,
    tenantsMigrated: tenants.migrated,
    tenantsCurrent: tenants.current,
    tenantsUnfinished: tenants.unfinished,
    standbyWithdrawn,
    rolesBounded: bounded.reduce((sum, count) => sum + count, 0),
    databasesMarked: marks.marked,
    newer: [...templates.newer, ...newerSchemas(all)],
    templatesLeft: templates.left,
    failed: [...failed.values()],
  };
}

function newerSchemas(tenants: readonly TenantRecord[]): string[] {
  const version = latestVersion(tenantMigrations);
  return tenants.map(({ schemaVersion }) => schemaVersion).filter((schema) => schema > version);
}

/** The migrations that this build needs and that have not run in the registry. */
export function pendingRegistryMigrations(registry: Kysely<Registry>): Promise<readonly string[]> {
  return pendingMigrations(registry, registryMigrations);
}
