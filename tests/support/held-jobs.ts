// Keeps the jobs of services from running while a test looks at what they would change.
import { sql } from 'kysely';
import { inject } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import { connectAs } from './app.js';
import { connectTo, type TestService } from './service.js';

/**
 * Holds the locks of housekeeping jobs, so that no process runs them. Waits for those that run.
 *
 * @param handle a connection of its own to the registry, which is closed at the end
 * @returns lets the jobs run again
 */
export async function holdJobs(
  registry: string,
  jobs: readonly string[],
  handle = connectAs<Registry>(registry),
): Promise<() => Promise<void>> {
  let release = (): void => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  let lock = (): void => undefined;
  const locked = new Promise<void>((resolve) => (lock = resolve));
  const held = handle.db.connection().execute(async (db) => {
    for (const job of jobs) await sql`select pg_advisory_lock(hashtextextended(${`tenantry ${job}`}, 0))`.execute(db);
    lock();
    await released;
    await sql`select pg_advisory_unlock_all()`.execute(db);
  });
  await Promise.race([locked, held]);
  return async () => {
    release();
    await held;
    await handle.close(0);
  };
}

/** Holds every job of a service, whose own acts then are the only ones that change tenants. Returns what lets them run again. */
export async function holdEveryJob(
  { app, config }: Pick<TestService, 'app' | 'config'>,
  cluster = inject('cluster'),
): Promise<() => Promise<void>> {
  const registry = config.registry.connection.database;
  const jobs = app.engine.housekeeping.stats().map(({ name }) => name);
  return holdJobs(registry, jobs, connectTo<Registry>(cluster, registry));
}
