// Once a run: the server, its roles, a migrated registry to copy for each test file, and the tenant template.
import type { TestProject } from 'vitest/node';
import { createDatabase, type ConnectionSettings } from '../../db/client.js';
import { bootstrapCluster } from '../../db/cluster.js';
import { scramVerifier } from '../../db/scram.js';
import type { Registry } from '../../db/central/schema.js';
import { migrateAll } from '../../src/tenancy/migrate.js';
import { openProvisioner } from '../../src/tenancy/provisioner.js';
import { startPostgres } from './servers.js';

/** How a test reaches the run's server; see `tests/support/app.ts`. */
export interface TestCluster {
  readonly superuser: ConnectionSettings;
  /** The role that owns registries. */
  readonly registryOwner: { readonly user: string; readonly password: string };
  readonly provisioner: ConnectionSettings;
  /** The migrated registry that each test file copies. */
  readonly registryTemplate: string;
  readonly logFile: string | undefined;
}

declare module 'vitest' {
  interface ProvidedContext {
    readonly cluster: TestCluster;
  }
}

const limits = { max: 2, acquireTimeout: 10_000, timeout: 60_000, idleTimeoutMillis: 1_000 };

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  const server = await startPostgres();
  const at = (user: string, password: string, database: string): ConnectionSettings => ({
    host: server.host,
    port: server.port,
    database,
    user,
    password,
    tls: false,
  });
  const cluster: TestCluster = {
    superuser: at(server.superuser, server.superuserPassword, 'postgres'),
    registryOwner: { user: 'registry_owner', password: 'owner-of-the-registries' },
    provisioner: at('provisioner', 'canary-provisioner-password', 'postgres'),
    registryTemplate: 'registry_template',
    logFile: server.logFile,
  };
  try {
    await prepare(cluster);
  } catch (error) {
    await server.stop();
    throw error;
  }
  project.provide('cluster', cluster);
  return () => server.stop();
}

async function prepare({ superuser, registryOwner, provisioner, registryTemplate }: TestCluster): Promise<void> {
  const options = { applicationName: 'tests', preparedStatements: false };
  const admin = createDatabase<unknown>(superuser, limits, options);
  const registry = createDatabase<Registry>(
    { ...superuser, ...registryOwner, database: registryTemplate },
    limits,
    options,
  );
  const opened = openProvisioner(provisioner, limits);
  try {
    await bootstrapCluster(admin.db, {
      registryOwner: { name: registryOwner.user, verifier: await scramVerifier(registryOwner.password, 4_096) },
      provisioner: { name: provisioner.user, verifier: await scramVerifier(provisioner.password, 4_096) },
      registryDatabase: registryTemplate,
    });
    await migrateAll({ registry: registry.db, ...opened, provisioner: provisioner.user });
  } finally {
    await Promise.all([opened.close(), registry.close(0), admin.close(0)]);
  }
}
