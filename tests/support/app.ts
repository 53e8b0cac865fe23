// The service for tests: what tests/support/service.ts has, on the server of the run.
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

/** Settings that the environment would give; `env` wins. */
export function testConfig(registryDatabase: string, env?: Readonly<Record<string, string>>): Config {
  return configFor(inject('cluster'), registryDatabase, env);
}

/** A connection as the superuser, to look at or break what the service cannot. Close it. */
export function connectAs<DB>(database: string, as?: Partial<ConnectionSettings>): DatabaseHandle<DB> {
  return connectTo(inject('cluster'), database, as);
}

/** Runs one statement's worth of work as the superuser. */
export async function asSuperuser<T>(
  database: string,
  work: (db: DatabaseHandle<unknown>['db']) => Promise<T>,
): Promise<T> {
  const handle = connectAs<unknown>(database);
  try {
    return await work(handle.db);
  } finally {
    await handle.close(0);
  }
}

/** A registry of its own, copied from the migrated one. Returns the database's name. */
export async function createRegistry(): Promise<string> {
  return createRegistryIn(inject('cluster'));
}

/** Builds the app on a registry of its own. Close it in afterAll. */
export async function startService(options?: ServiceOptions): Promise<TestService> {
  return startServiceIn(inject('cluster'), options);
}

/** A service that ends with the test that it is called in. */
export async function startServiceForTest(options?: ServiceOptions): Promise<TestService> {
  const service = await startService(options);
  onTestFinished(() => service.close());
  return service;
}
