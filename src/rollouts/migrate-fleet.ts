// Brings the whole fleet to this build's schema, in this order:
//
//     registry → templates → withdraw what older builds make tenants from → marks → a rollout, until no tenant is behind
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
import { countBehind } from '../../db/registry/rollouts/rollout-rows.js';
import { latestVersion, migrateToLatest, newerMigrations, pendingMigrations } from '../../db/shared/migrator.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import type { Place } from '../clusters/provisioners.js';
import { OPERATION_TIMES } from '../operations/runner/operation-times.js';
import { createRunner, type RunnerDeps } from '../operations/runner/runner.js';
import { templateVersion } from '../operations/template/building-template.js';
import { createTemplateMaker } from '../operations/template/template-maker.js';
import { createTenantLocks } from '../tenants/tenant-locks.js';
import { inPlainWords, PlainError } from '../jobs/plain-words.js';
import { FleetServers, type FailedCluster, type FleetServer, type OtherCluster } from './fleet-servers.js';
import { ensureTemplate, prepareFleet, type Preparation } from './fleet-preparation.js';
import type { FailedTenant } from './mark-databases.js';
import { dropOlderTemplates } from './older-stock.js';
import { rollTenants, type RolledTenants, type RolloutRun, type TenantProgress } from './roll-tenants.js';
import { createDrift } from './drift.js';
import { createWaveCheck } from './wave-check.js';

export type { FailedTenant, TenantProgress };

export interface MigrationReport extends Omit<Preparation, 'failed'>, Omit<RolledTenants, 'failed'> {
  /** Names of the registry migrations that ran. */
  readonly registry: readonly string[];
  /** Clusters that could not be entered, or failed later. Their tenants are not among `failed`. */
  readonly clustersFailed: readonly FailedCluster[];
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
  /** How the tenants are rolled out: by default all at once, with any number of failures. */
  readonly run?: RolloutRun | undefined;
  /** Whether the schemas of each wave are compared with the template. */
  readonly compares?: boolean | undefined;
}

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
    const own = {
      cluster: deps.cluster,
      inDatabase: deps.inDatabase,
      role: deps.provisioner,
      atOnce: deps.atOnce ?? 1,
    };
    const templateMade = await ensureTemplate({ registry, maker }, own, deps.place).catch((error: unknown) => {
      throw new PlainError(`the template of the default cluster could not be made: ${inPlainWords(error)}`, {
        cause: error,
      });
    });
    const servers = new FleetServers(own, deps.place, (await deps.others?.(registry)) ?? []);
    const { failed: unmarked, ...prepared } = await prepareFleet({ registry, locks, servers, installation, maker });
    const drift = createDrift({
      registry,
      locks,
      installation: () => Promise.resolve(installation),
      enter: ({ host: dbHost, port: dbPort }) => Promise.resolve(servers.of({ dbHost, dbPort })),
      ensureTemplate: (server, place) => ensureTemplate({ registry, maker }, server, place),
    });
    const checkWave = deps.compares === true ? createWaveCheck(drift) : undefined;
    const rolled = await rollTenants(
      { registry, locks, lockSession: session, worker, servers, installation, checkWave },
      deps.run ?? {},
      progress.tenant ?? ignore,
    );
    // Again: a template that a session was using could not be dropped.
    const templates = await dropOlderTemplates(registry, servers, installation);
    const { newer: newerTenants } = await countBehind(registry, latestVersion(tenantMigrations));
    return {
      registry: ran,
      ...prepared,
      ...rolled,
      templateMade: templateMade || prepared.templateMade,
      clustersFailed: servers.failed,
      newer: [...new Set([...newer, ...templates.newer, ...newerTenants])].sort(),
      templatesLeft: templates.left,
      // A tenant that both failed to be marked and failed to be migrated is one failure.
      failed: [...new Map([...unmarked, ...rolled.failed].map((each) => [each.tenant.id, each])).values()],
    };
  } finally {
    await runner.close();
    await session.close();
  }
}

/** The migrations that this build needs and that have not run in the registry. */
export function pendingRegistryMigrations(registry: Kysely<Registry>): Promise<readonly string[]> {
  return pendingMigrations(registry, registryMigrations);
}
