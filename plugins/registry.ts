// The registry: one Kysely over the central database for the whole process.
import type { Kysely } from 'kysely';
import fp from 'fastify-plugin';
import type { Registry } from '../db/central/schema.js';
import type { DatabaseFault } from '../db/errors.js';
import type { Config } from '../src/config.js';
import { openRegistry } from '../src/registry.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly registry: Kysely<Registry>;
  }
}

/** Longest wait (ms) for running queries when the process stops. */
const CLOSE_DEADLINE = 10_000;

export const registry = fp<{ config: Config }>(
  async (app, { config }) => {
    const { connection, pool } = config.registry;
    const onConnectionLost = (fault: DatabaseFault): void => {
      app.log.warn({ reason: fault.reason }, 'an idle connection to the registry was lost');
    };
    const { preparedStatements } = config.tenants;
    const options = { applicationName: 'tenantry registry', preparedStatements, onConnectionLost };
    const handle = openRegistry(connection, pool, options, app.destinations);
    app.decorate('registry', handle.db);
    app.addHook('onClose', () => handle.close(CLOSE_DEADLINE));
  },
  { name: 'registry', fastify: '5.x', dependencies: ['destinations'] },
);
