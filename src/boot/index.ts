// Turns the settings into a complete config for the app: secrets, the embedded PostgreSQL if no server is configured, the schema,
// and the first operator.
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import { listAllClusters } from '../../db/registry/cluster-queries.js';
import { canRewriteAudit } from '../../db/registry/registry-grants.js';
import { insertAudit } from '../../db/registry/registry-audit.js';
import { countOperators, insertOperator } from '../../db/registry/operator-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { LocksKept } from '../../db/shared/patient-locks.js';
import type { ConnectionSettings } from '../../db/driver/client.js';
import { checkCluster } from '../../db/server/server-admin.js';
import { registryMigrations } from '../../db/registry/migrations/index.js';
import { HistoryDiffers } from '../../db/shared/migration-history.js';
import { historyOf } from '../../db/shared/migrator.js';
import { DatabaseFault, hasSqlState } from '../../db/driver/database-fault.js';
import { parseTokenKeys } from '../auth/keyring.js';
import { weaknessOf } from '../auth/common-passwords.js';
import { createPasswords, OPERATORS } from '../auth/passwords.js';
import { completeConfig, ConfigError, parseKeyring, type Config, type Settings } from '../config/index.js';
import { enterEmbedded } from './embedded-connections.js';
import type { EmbeddedCluster } from '../embedded/embedded-cluster.js';
import { openRegistry } from '../../db/registry/open-registry.js';
import { localSecrets, type LocalSecrets } from './local-secrets.js';
import type { OtherCluster } from '../rollouts/fleet-servers.js';
import {
  migrateAll,
  pendingRegistryMigrations,
  type MigrationProgress,
  type MigrationReport,
} from '../rollouts/migrate-fleet.js';
import { logProgress } from '../rollouts/migration-log.js';
import { PlainError } from '../jobs/plain-words.js';
import { logOutcome } from '../operations/runner/operation-log.js';
import { createSecurityEvents } from '../observability/security-events.js';
import { createEnvelope } from '../secrets/envelope.js';
import { enteredAs } from '../clusters/cluster-directory.js';
import { openProvisioner } from '../clusters/provisioner-connections.js';

export interface Prepared {
  readonly config: Config;
  readonly embedded: EmbeddedCluster | undefined;
  /** The operator's sign-in, if this start made one up. Show it once, on the terminal that started the service. */
  readonly newOperator: { readonly email: string; readonly password: string } | undefined;
}

/** The complete configuration, with the embedded PostgreSQL running if it is needed. */
interface Connected {
  readonly config: Config;
  /** The registry, entered as the role that may migrate it. */
  readonly registryOwner: ConnectionSettings;
  readonly embedded: EmbeddedCluster | undefined;
  readonly secrets: LocalSecrets | undefined;
}

const DEFAULT_OPERATOR = 'operator@tenantry.local';

const INSUFFICIENT_PRIVILEGE = '42501';

/**
 * Does everything that must be done before the app can be built.
 *
 * @param onEmbedded called with the embedded PostgreSQL as soon as it runs, so that it can be stopped if a later step fails
 * @throws ConfigError if the registry is not migrated, needs a newer build, or cannot be reached
 */
export async function prepare(
  settings: Settings,
  log: Logger,
  onEmbedded: (cluster: EmbeddedCluster) => void,
): Promise<Prepared> {
  const { config, registryOwner, embedded, secrets } = await connect(settings, log, onEmbedded);
  if (embedded) {
    await withRegistry({ ...config.registry, connection: registryOwner }, refuseTooNew);
    await migrate(config, registryOwner, log, logProgress(log));
  } else await checkRegistry(config, log);
  return { config, embedded, newOperator: await ensureOperator(config, settings, secrets) };
}

/**
 * Brings the registry, the template and every tenant's database up to date, for `npm run migrate`.
 *
 * @throws ConfigError before anything is changed, if the registry needs a newer build
 */
export async function prepareAndMigrate(
  settings: Settings,
  log: Logger,
  onEmbedded: (cluster: EmbeddedCluster) => void,
  progress: MigrationProgress = {},
): Promise<MigrationReport> {
  const { config, registryOwner } = await connect(settings, log, onEmbedded);
  await withRegistry({ ...config.registry, connection: registryOwner }, refuseTooNew);
  return migrate(config, registryOwner, log, progress);
}

async function connect(
  settings: Settings,
  log: Logger,
  onEmbedded: (cluster: EmbeddedCluster) => void,
): Promise<Connected> {
  const { registry, tenants, auth, encryptionKeys } = settings;
  // In production the settings are complete; otherwise reading them would have failed.
  const secrets = settings.production ? undefined : await localSecrets(settings.dataDir);
  const given = {
    tokenKeys: auth.keys ?? parseTokenKeys(secrets?.tokenKeys ?? ''),
    encryptionKeys: encryptionKeys ?? parseKeyring(secrets?.encryptionKeys ?? ''),
  };
  if (registry.connection && tenants.provisioner) {
    const gaps = { ...given, registry: registry.connection, provisioner: tenants.provisioner };
    const registryOwner = registry.owner ?? registry.connection;
    return { config: completeConfig(settings, gaps), registryOwner, embedded: undefined, secrets };
  }
  if (!secrets) throw new ConfigError(['DATABASE_URL is not set']);
  const { embedded, registryOwner, ...connections } = await enterEmbedded(settings, secrets, log, onEmbedded);
  return { config: completeConfig(settings, { ...given, ...connections }), registryOwner, embedded, secrets };
}

async function migrate(
  config: Config,
  registryOwner: ConnectionSettings,
  log: Logger,
  progress: MigrationProgress,
): Promise<MigrationReport> {
  const { provisioner: connection, provisionerPool, clusterBudget } = config.tenants;
  const security = createSecurityEvents({ log });
  const provisioner = openProvisioner(connection, provisionerPool);
  const others: OpenedCluster[] = [];
  try {
    const check = await checkCluster(provisioner.cluster).catch((error: unknown) => {
      throw unusable('the server of TENANT_DATABASE_URL', connection, error);
    });
    if (!check.canProvision)
      throw new ConfigError([
        `the role "${check.role}" of TENANT_DATABASE_URL needs CREATEDB and CREATEROLE (deploy/bootstrap.sql)`,
      ]);
    if (check.superuser) {
      const problem = `the role "${check.role}" of TENANT_DATABASE_URL is a superuser: use one that is not (deploy/bootstrap.sql)`;
      if (config.production) throw new ConfigError([problem]);
      security.record('weak-setup', { reason: 'superuser' }, undefined, problem);
    }
    const { user } = config.registry.connection;
    const registryService = user === registryOwner.user ? undefined : user;
    const report = await withRegistry({ ...config.registry, connection: registryOwner }, (registry) =>
      migrateAll(
        {
          registry,
          registryService,
          auditKeepDays: config.auditKeepDays,
          ...provisioner,
          provisioner: connection.user,
          atOnce: databasesAtOnce(config, clusterBudget.reserve),
          place: { host: connection.host, port: connection.port },
          onOutcome: (operation, outcome) => {
            logOutcome(log, operation, outcome);
          },
          others: async (migrated) => {
            const found = await otherClusters(migrated, config, log);
            others.push(...found);
            return found;
          },
        },
        progress,
      ),
    );
    for (const { cluster, error } of report.clustersFailed)
      log.error({ cluster, err: error }, 'could not migrate a cluster');
    for (const { tenant, error } of report.failed)
      log.error({ tenantId: tenant.id, err: error }, 'could not migrate a tenant database');
    for (const database of check.openDatabases) {
      const problem =
        'every role of the server may connect to a database: run REVOKE ALL ON DATABASE … FROM PUBLIC (deploy/bootstrap.sql)';
      security.record('weak-setup', { reason: 'open-database', name: database }, undefined, problem);
    }
    return report;
  } finally {
    await Promise.all([provisioner, ...others].map((opened) => opened.close()));
  }
}

type OpenedCluster = OtherCluster & { readonly close: () => Promise<void> };

/** A half of the reserve, so that replicas continue to make tenants: each database takes a connection while it is migrated. */
function databasesAtOnce({ tenants }: Config, reserve: number): number {
  return Math.max(1, Math.min(tenants.provisionerPool.max, Math.floor(reserve / 2)));
}

/**
 * The registered clusters without the default one, with the settings to enter them. A cluster whose password does not decrypt is
 * one that has failed.
 */
async function otherClusters(registry: Kysely<Registry>, config: Config, log: Logger): Promise<OpenedCluster[]> {
  const { provisioner: own, provisionerPool } = config.tenants;
  const envelope = createEnvelope(config.encryptionKeys, 'clusters.provisioner_password');
  const rows = await listAllClusters(registry);
  return rows.flatMap((row): OpenedCluster[] => {
    if (row.host === own.host && row.port === own.port) return [];
    try {
      const connection = enteredAs(row, envelope);
      const opened = openProvisioner(connection, provisionerPool);
      const atOnce = databasesAtOnce(config, row.connectionReserve);
      return [{ place: row, server: { ...opened, role: connection.user, atOnce }, close: () => opened.close() }];
    } catch (err) {
      createSecurityEvents({ log }).record('password-unreadable', { err, clusterId: row.id });
      const error = new PlainError('the password of its provisioner does not decrypt', { cause: err });
      return [{ place: row, error, close: () => Promise.resolve() }];
    }
  });
}

/** @throws ConfigError if a migration of a newer build has changed the registry in a way that this build cannot work with */
async function refuseTooNew(registry: Kysely<Registry>): Promise<void> {
  const { needs } = await historyOf(registry, registryMigrations);
  if (needs === undefined) return;
  throw new ConfigError([
    `the registry was migrated by a newer build, and needs one that knows ${needs}. Start that build, or a newer one`,
  ]);
}

/** @throws ConfigError if the registry is not migrated, or needs a newer build, or if the migration did not give this role its rights */
async function checkRegistry(config: Config, log: Logger): Promise<void> {
  const { user } = config.registry.connection;
  const rewritable = await withRegistry(config.registry, async (registry) => {
    try {
      await refuseTooNew(registry);
      const pending = await pendingRegistryMigrations(registry);
      if (pending.length > 0)
        throw new ConfigError([
          `the registry is not migrated (${pending.join(', ')} is missing). Run: npm run migrate`,
        ]);
      return await canRewriteAudit(registry);
    } catch (error) {
      if (error instanceof HistoryDiffers)
        throw new ConfigError([`the registry was migrated by another build. ${error.differences.join(' ')}`]);
      if (!hasSqlState(error, INSUFFICIENT_PRIVILEGE)) throw error;
      throw new ConfigError([
        `the role "${user}" of DATABASE_URL has no rights in the registry. Run: npm run migrate, with MIGRATION_DATABASE_URL`,
      ]);
    }
  });
  const problem = `the role "${user}" of DATABASE_URL can change the registry's audit: connect as a role that is not the owner (docs/guide/audit.md)`;
  if (rewritable)
    createSecurityEvents({ log }).record('weak-setup', { reason: 'audit-rewritable' }, undefined, problem);
}

/** Makes the first operator if there is none. Returns the sign-in if the password was made up here. */
async function ensureOperator(
  config: Config,
  settings: Settings,
  secrets: LocalSecrets | undefined,
): Promise<Prepared['newOperator']> {
  const email = settings.firstOperator?.email ?? (secrets && DEFAULT_OPERATOR);
  const password = settings.firstOperator?.password ?? secrets?.operatorPassword;
  if (email === undefined || password === undefined) return undefined;
  const made = await withRegistry(config.registry, async (registry) => {
    if ((await countOperators(registry)) > 0) return false;
    const weakness = weaknessOf(password, [email]);
    if (weakness !== undefined) throw new ConfigError([`OPERATOR_PASSWORD ${weakness}: choose another one`]);
    const passwords = createPasswords(1);
    const passwordHash = await passwords.hash(password, OPERATORS);
    return registry.transaction().execute(async (trx) => {
      const id = await insertOperator(trx, { email, passwordHash });
      if (id === undefined) return false;
      const target = { kind: 'operator', id } as const;
      await insertAudit(trx, { actor: { kind: 'none' }, action: 'operator.created', target });
      return true;
    });
  });
  return made && settings.firstOperator?.password === undefined ? { email, password } : undefined;
}

async function withRegistry<T>(
  { connection, pool }: Config['registry'],
  work: (registry: Kysely<Registry>) => Promise<T>,
): Promise<T> {
  const handle = openRegistry(connection, pool, { applicationName: 'tenantry start', preparedStatements: false });
  try {
    return await work(handle.db);
  } catch (error) {
    throw unusable('the registry', connection, error);
  } finally {
    await handle.close(0);
  }
}

/**
 * If a server does not answer, the error becomes one line for the person at the terminal. Any other error is returned unchanged.
 */
function unusable(what: string, { host, port }: ConnectionSettings, error: unknown): unknown {
  if (error instanceof LocksKept)
    return new ConfigError([`${what} at ${host}:${port} could not be migrated: ${error.message}`]);
  if (!(error instanceof DatabaseFault)) return error;
  return new ConfigError([`${what} at ${host}:${port} cannot be used (${error.reason})`]);
}
