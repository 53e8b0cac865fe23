// Checks the registry before the service or a command uses it: it answers, it is migrated, and this role has its rights.
import type { Kysely } from 'kysely';
import { hasSqlState } from '../../db/driver/database-fault.js';
import { registryMigrations } from '../../db/registry/migrations/index.js';
import { openRegistry } from '../../db/registry/open-registry.js';
import { canRewriteAudit } from '../../db/registry/registry-grants.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { HistoryDiffers } from '../../db/shared/migration-history.js';
import { historyOf } from '../../db/shared/migrator.js';
import { ConfigError, type Config } from '../config/index.js';
import { pendingRegistryMigrations } from '../rollouts/migrate-fleet.js';
import { serverProblem } from './server-problem.js';

const INSUFFICIENT_PRIVILEGE = '42501';

/** @throws ConfigError if a migration of a newer build has changed the registry in a way that this build cannot work with */
export async function refuseTooNew(registry: Kysely<Registry>): Promise<void> {
  const { needs } = await historyOf(registry, registryMigrations);
  if (needs === undefined) return;
  throw new ConfigError([
    `the registry was migrated by a newer build, and needs one that knows ${needs}. Start that build, or a newer one`,
  ]);
}

/**
 * Returns a warning if this role can change the registry's audit, otherwise undefined.
 *
 * @throws ConfigError if the registry is not migrated, or needs a newer build, or if the migration did not give this role its rights
 */
export async function checkRegistry(config: Config): Promise<string | undefined> {
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
  const warning = `the role "${user}" of DATABASE_URL can change the registry's audit: connect as a role that is not the owner (docs/guide/audit.md)`;
  return rewritable ? warning : undefined;
}

/**
 * Opens the registry for a moment.
 *
 * @param registry.connection as the service's role or as the owner
 * @param variable where the connection comes from
 * @throws ConfigError if the registry cannot be used
 */
export async function withRegistry<T>(
  { connection, pool }: Config['registry'],
  work: (registry: Kysely<Registry>) => Promise<T>,
  variable = 'DATABASE_URL',
): Promise<T> {
  const handle = openRegistry(connection, pool, { applicationName: 'tenantry start', preparedStatements: false });
  try {
    return await work(handle.db);
  } catch (error) {
    throw serverProblem({ what: 'the registry', variable, connection }, error);
  } finally {
    await handle.close(0);
  }
}
