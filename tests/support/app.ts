// The service for tests: tests/support/service.ts, on the shared server of the run.
import { inject, onTestFinished } from 'vitest';
import type { ConnectionSettings, DatabaseHandle } from '../../db/driver/client.js';
import type { Config } from '../../src/config/index.js';
import {
  configFor,
  connectTo,
  createRegistryIn,
  startServiceIn,
  type ServiceOptions,
  type TestService,
} from './service.js';

export * from './service.js';

/** Settings as from the environment; `env` wins. */
export function testConfig(registryDatabase: string, env?: Readonly<Record<string, string>>): Config {
  return configFor(inject('cluster'), registryDatabase, env);
}

/** A connection as the superuser, to read or break what the service cannot. Close it. */
export function connectAs<DB>(database: string, as?: Partial<ConnectionSettings>): DatabaseHandle<DB> {
  return connectTo(inject('cluster'), database, as);
}

/**
 * Connections to `postgres`, which no test drops or renames. They are kept, because opening one takes longer than most statements.
 * Each closes after a second without use.
 */
let maintenance: DatabaseHandle<unknown> | undefined;

/** Runs work as the superuser, on a connection that is closed afterwards; one to `postgres` stays open for the next work. */
export async function asSuperuser<T>(
  database: string,
  work: (db: DatabaseHandle<unknown>['db']) => Promise<T>,
): Promise<T> {
  if (database === 'postgres')
    return work((maintenance ??= connectTo<unknown>(inject('cluster'), database, {}, 20)).db);
  const handle = connectAs<unknown>(database);
  try {
    return await work(handle.db);
  } finally {
    await handle.close(0);
  }
}

/** Makes a registry, copied from the migrated one. Returns the database's name. */
export async function createRegistry(): Promise<string> {
  return createRegistryIn(inject('cluster'));
}

/** Builds the app on its own registry. Close it in afterAll. */
export async function startService(options?: ServiceOptions): Promise<TestService> {
  return startServiceIn(inject('cluster'), options);
}

/** A service that closes at the end of the calling test. */
export async function startServiceForTest(options?: ServiceOptions): Promise<TestService> {
  const service = await startService(options);
  onTestFinished(() => service.close());
  return service;
}
