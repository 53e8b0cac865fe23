// Turns the settings into a complete config for the app: secrets, the embedded PostgreSQL if no server is configured, the schema,
// and the first operator.
import type { Kysely } from 'kysely';
import type { Logger } from 'pino';
import { listAllClusters } from '../../db/registry/cluster-queries.js';
import { insertAudit } from '../../db/registry/registry-audit.js';
import { countOperators, insertOperator } from '../../db/registry/operator-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { ConnectionSettings } from '../../db/driver/client.js';
import { checkCluster } from '../../db/server/server-admin.js';
import { parseTokenKeys } from '../auth/keyring.js';
import { weaknessOf } from '../auth/common-passwords.js';
import { createPasswords, OPERATORS } from '../auth/passwords.js';
import { completeConfig, ConfigError, parseKeyring, type Config, type Settings } from '../config/index.js';
import { enterEmbedded, type Entering } from './embedded-connections.js';
import type { EmbeddedCluster } from '../embedded/embedded-cluster.js';
import { hasSecrets, localSecrets, type LocalSecrets } from './local-secrets.js';
import type { OperatorSignIn } from './operator-sign-in.js';
import { checkRegistry, refuseTooNew, withRegistry } from './registry-at-start.js';
import { serverProblem } from './server-problem.js';
import { StartProblem } from './start-problem.js';
import { databasesAtOnce } from '../clusters/reserve-share.js';
import type { OtherCluster } from '../rollouts/fleet-servers.js';
import type { RolloutRun } from '../rollouts/roll-tenants.js';
import { migrateAll, type MigrationProgress, type MigrationReport } from '../rollouts/migrate-fleet.js';
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
  /** The operator's sign-in, if this start made one up (operator-sign-in.ts). */
  readonly newOperator: OperatorSignIn | undefined;
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

/**
 * Does everything that must be done before the app can be built.
 *
 * @param onEmbedded called with the embedded PostgreSQL as soon as it runs, so that it can be stopped if a later step fails
 * @param onStep called before each part that may take seconds, with what it does
 * @throws ConfigError if the registry is not migrated, needs a newer build, or cannot be reached; StartProblem if the embedded
 *   PostgreSQL does not start
 */
export async function prepare(
  settings: Settings,
  log: Logger,
  onEmbedded: Entering['onEmbedded'],
  onStep: (step: string) => void = () => undefined,
): Promise<Prepared> {
  const { config, registryOwner, embedded, secrets } = await connect(settings, log, { onEmbedded, onStep });
  if (embedded) {
    onStep('bringing the registry up to date');
    await asOwner(config, registryOwner, refuseTooNew);
    const { registry, tenant } = logProgress(log);
    const progress: MigrationProgress = {
      registry(migrations) {
        registry?.(migrations);
        onStep("bringing the template and the tenants' databases up to date");
      },
      ...(tenant && { tenant }),
    };
    // No other process serves with this PostgreSQL: no replica of an older build is left to finish its rollout.
    await migrate(config, registryOwner, log, progress, { replace: true });
  } else {
    onStep('checking the registry');
    const rewritable = await checkRegistry(config);
    if (rewritable)
      createSecurityEvents({ log }).record('weak-setup', { reason: 'audit-rewritable' }, undefined, rewritable);
  }
  return { config, embedded, newOperator: await ensureOperator(config, settings, secrets, onStep) };
}

/**
 * The configuration for a command that works beside the service, or while it is stopped. Changes nothing. The embedded PostgreSQL is
 * started, unless a service runs it.
 *
 * @param onEmbedded called with the embedded PostgreSQL, if this started it
 * @throws ConfigError as `prepare`; StartProblem also if no service has started with this DATA_DIR yet
 */
export async function prepareCommand(
  settings: Settings,
  log: Logger,
  onEmbedded: Entering['onEmbedded'],
): Promise<Config> {
  const { dataDir, registry, production } = settings;
  if (!registry.connection && !production && !hasSecrets(dataDir))
    throw new StartProblem(
      `No service has started with this DATA_DIR (${dataDir}): start the service first, or set DATA_DIR or DATABASE_URL.`,
    );
  const { config } = await connect(settings, log, { onEmbedded, join: true });
  await checkRegistry(config);
  return config;
}

/**
 * Brings the registry, the template and every tenant's database up to date, for `npm run migrate`.
 *
 * @throws ConfigError before anything is changed, if the registry needs a newer build
 */
export async function prepareAndMigrate(
  settings: Settings,
  log: Logger,
  onEmbedded: Entering['onEmbedded'],
  progress: MigrationProgress = {},
  run: RolloutRun = {},
): Promise<MigrationReport> {
  const { config, registryOwner } = await connect(settings, log, { onEmbedded });
  await asOwner(config, registryOwner, refuseTooNew);
  return migrate(config, registryOwner, log, progress, { ...run, compares: true });
}

async function connect(settings: Settings, log: Logger, entering: Entering): Promise<Connected> {
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
  const { embedded, registryOwner, ...connections } = await enterEmbedded(settings, secrets, log, entering);
  return { config: completeConfig(settings, { ...given, ...connections }), registryOwner, embedded, secrets };
}

async function migrate(
  config: Config,
  registryOwner: ConnectionSettings,
  log: Logger,
  progress: MigrationProgress,
  { compares, ...run }: RolloutRun & { readonly compares?: boolean },
): Promise<MigrationReport> {
  const { provisioner: connection, provisionerPool, clusterBudget } = config.tenants;
  const security = createSecurityEvents({ log });
  const provisioner = openProvisioner(connection, provisionerPool);
  const others: OpenedCluster[] = [];
  try {
    const check = await checkCluster(provisioner.cluster).catch((error: unknown) => {
      throw serverProblem(
        { what: 'the server of TENANT_DATABASE_URL', variable: 'TENANT_DATABASE_URL', connection },
        error,
      );
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
    const report = await asOwner(config, registryOwner, (registry) =>
      migrateAll(
        {
          registry,
          registryService,
          auditKeepDays: config.auditKeepDays,
          ...provisioner,
          provisioner: connection.user,
          atOnce: databasesAtOnce(clusterBudget.reserve, provisionerPool.max),
          place: { host: connection.host, port: connection.port },
          onOutcome: (operation, outcome) => {
            logOutcome(log, operation, outcome);
          },
          others: async (migrated) => {
            const found = await otherClusters(migrated, config, log);
            others.push(...found);
            return found;
          },
          run,
          compares,
        },
        progress,
      ),
    );
    for (const { cluster, error } of report.clustersFailed)
      log.error({ cluster, err: error }, 'could not migrate a cluster');
    for (const { tenant, error } of report.failed)
      log.error({ tenantId: tenant.id, err: error }, 'could not migrate a tenant database');
    if (report.blocked !== undefined) log.warn({ reason: report.blocked }, 'no tenant was migrated');
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

function asOwner<T>(
  { registry }: Config,
  connection: ConnectionSettings,
  work: (registry: Kysely<Registry>) => Promise<T>,
): Promise<T> {
  const variable = connection === registry.connection ? 'DATABASE_URL' : 'MIGRATION_DATABASE_URL';
  return withRegistry({ ...registry, connection }, work, variable);
}

type OpenedCluster = OtherCluster & { readonly close: () => Promise<void> };

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
      const atOnce = databasesAtOnce(row.connectionReserve, provisionerPool.max);
      return [{ place: row, server: { ...opened, role: connection.user, atOnce }, close: () => opened.close() }];
    } catch (err) {
      createSecurityEvents({ log }).record('password-unreadable', { err, clusterId: row.id });
      const error = new PlainError('the password of its provisioner does not decrypt', { cause: err });
      return [{ place: row, error, close: () => Promise.resolve() }];
    }
  });
}

/** Makes the first operator if there is none. Returns the sign-in if the password was made up here. */
async function ensureOperator(
  config: Config,
  settings: Settings,
  secrets: LocalSecrets | undefined,
  onStep: (step: string) => void,
): Promise<Prepared['newOperator']> {
  const email = settings.firstOperator?.email ?? (secrets && DEFAULT_OPERATOR);
  const password = settings.firstOperator?.password ?? secrets?.operatorPassword;
  if (email === undefined || password === undefined) return undefined;
  const made = await withRegistry(config.registry, async (registry) => {
    if ((await countOperators(registry)) > 0) return false;
    onStep('creating the first operator');
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
