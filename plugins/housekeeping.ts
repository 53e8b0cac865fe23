// Housekeeping: the jobs that keep registry and clusters in order by themselves, with connections of their own to the registry.
import fp from 'fastify-plugin';
import { within } from '../db/deadline.js';
import type { Config } from '../src/config.js';
import { openRegistry } from '../src/registry.js';
import { createHousekeeping, type Housekeeping } from '../src/tenancy/housekeeping.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly housekeeping: Housekeeping;
  }
}

/** One for the lock of each job that runs. */
const CONNECTIONS = 4;

/** Longest wait (ms) for a job to come to the end of its step when the process stops. */
const CLOSE_DEADLINE = 10_000;

export const housekeeping = fp<{ config: Config }>(
  async (app, { config }) => {
    const { connection, pool } = config.registry;
    const registry = openRegistry(
      connection,
      { ...pool, max: CONNECTIONS, idleTimeoutMillis: 5_000 },
      { applicationName: 'tenantry housekeeping', preparedStatements: false },
      app.destinations,
    );
    const made = createHousekeeping({
      registry: registry.db,
      onError: (err, context) => {
        app.log.error({ err, ...context }, 'a housekeeping job failed');
      },
    });
    app.decorate('housekeeping', made);
    app.addHook('onClose', async () => {
      const late = (): Error => new Error('a housekeeping job did not stop in time');
      await within(made.close(), CLOSE_DEADLINE, late).catch((err: unknown) => {
        app.log.warn({ err }, 'a housekeeping job was cut off by the stop of the service');
      });
      await registry.close(0);
    });
  },
  { name: 'housekeeping', fastify: '5.x', dependencies: ['registry'] },
);
