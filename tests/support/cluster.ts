// A PostgreSQL server that is ready for services: its roles, a migrated registry that each service copies, and the tenant
// template. Started once a run, both by vitest and by `npm run fuzz`.
import { sql } from 'kysely';
import { createDatabase, type ConnectionSettings } from '../../db/driver/client.js';
import { bootstrapCluster } from '../../db/server/server-admin.js';
import { scramVerifier } from '../../db/server/scram.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { migrateAll } from '../../src/rollouts/migrate-fleet.js';
import { openProvisioner } from '../../src/clusters/provisioner-connections.js';
import { startPostgres, type TestServer } from './servers.js';

/** How to reach the server, and its prepared objects; see `tests/support/service.ts`. */
export interface TestCluster {
  readonly superuser: ConnectionSettings;
  /** The role that owns and migrates registries. */
  readonly registryOwner: { readonly user: string; readonly password: string };
  /** The role with which the service connects to registries. */
  readonly registryService: { readonly user: string; readonly password: string };
  readonly provisioner: ConnectionSettings;
  /** The migrated registry that each service copies. */
  readonly registryTemplate: string;
  readonly logFile: string | undefined;
}

/** SCRAM iterations of the tests' passwords. Each new connection computes them, and these passwords protect nothing. */
export const ITERATIONS = 1;

const limits = { max: 2, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 1_000 };

/**
 * Starts the server and prepares it. Stop it, or its processes and its folder stay.
 *
 * @param settings of PostgreSQL, besides the usual ones
 */
export async function startCluster(
  settings: Readonly<Record<string, string>> = {},
): Promise<{ cluster: TestCluster; stop: () => Promise<void> }> {
  const server = await startPostgres(settings);
  const cluster = clusterOn(server);
  try {
    await prepareCluster(cluster);
  } catch (error) {
    await server.stop();
    throw error;
  }
  return { cluster, stop: () => server.stop() };
}

/** The names and passwords of a server for tests. */
export function clusterOn(
  server: Pick<TestServer, 'host' | 'port' | 'superuser' | 'superuserPassword' | 'logFile'>,
): TestCluster {
  const at = (user: string, password: string, database: string): ConnectionSettings => ({
    host: server.host,
    port: server.port,
    database,
    user,
    password,
    tls: false,
  });
  return {
    superuser: at(server.superuser, server.superuserPassword, 'postgres'),
    registryOwner: { user: 'registry_owner', password: 'owner-of-the-registries' },
    registryService: { user: 'registry_service', password: 'canary-service-of-the-registries' },
    provisioner: at('provisioner', 'canary-provisioner-password', 'postgres'),
    registryTemplate: 'registry_template',
    logFile: server.logFile,
  };
}

/** Makes roles, registry and template on an empty server. */
export async function prepareCluster(cluster: TestCluster): Promise<void> {
  const { superuser, registryOwner, registryService, provisioner, registryTemplate } = cluster;
  const options = { applicationName: 'tests', preparedStatements: false };
  const admin = createDatabase<unknown>(superuser, limits, options);
  const registry = createDatabase<Registry>(
    { ...superuser, ...registryOwner, database: registryTemplate },
    limits,
    options,
  );
  const opened = openProvisioner(provisioner, limits);
  try {
    const verifier = sql.lit(await scramVerifier(superuser.password, ITERATIONS));
    await sql`alter role ${sql.id(superuser.user)} password ${verifier}`.execute(admin.db);
    await bootstrapCluster(admin.db, {
      registryOwner: { name: registryOwner.user, verifier: await scramVerifier(registryOwner.password, ITERATIONS) },
      registryService: {
        name: registryService.user,
        verifier: await scramVerifier(registryService.password, ITERATIONS),
      },
      provisioner: { name: provisioner.user, verifier: await scramVerifier(provisioner.password, ITERATIONS) },
      registryDatabase: registryTemplate,
    });
    const registryRoles = { registry: registry.db, registryService: registryService.user };
    await migrateAll({ ...registryRoles, ...opened, provisioner: provisioner.user });
  } finally {
    await Promise.all([opened.close(), registry.close(0), admin.close(0)]);
  }
}

/** The run's server under another name: a cluster that can be registered without starting another PostgreSQL. */
export function secondPlace({ provisioner: { host, port } }: TestCluster): { host: string; port: number } {
  return { host: host === 'localhost' ? '127.0.0.1' : 'localhost', port };
}
