// The registry: one Kysely over the central database for the whole process.
import type { Kysely } from 'kysely';
import fp from 'fastify-plugin';
import { databaseOver } from '../db/client.js';
import type { Registry } from '../db/central/schema.js';
import type { DatabaseFault } from '../db/errors.js';
import type { ConnectionPool } from '../db/pool.js';
import type { Config } from '../src/config.js';
import { openRegistryPool } from '../src/registry.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly registry: Kysely<Registry>;
    /** The pool beneath it. */
    readonly registryPool: ConnectionPool;
  }
}

/** Longest wait (ms) for running queries when the process stops. */
const CLOSE_DEADLINE = 10_000;

export const registry = fp<{ config: Config }>(
  async (app, { config }) => {
    const options = {
      applicationName: 'tenantry registry',
      preparedStatements: config.tenants.preparedStatements,
      onConnectionLost: (fault: DatabaseFault) => {
        app.log.warn({ reason: fault.reason }, 'lost an idle connection to the registry');
      },
    };
    const pool = openRegistryPool(config.registry.connection, config.registry.pool, options, app.destinations);
    app.decorate(
      'registry',
      databaseOver<Registry>(() => pool),
    );
    app.decorate('registryPool', pool);
    app.addHook('onClose', () => pool.close(CLOSE_DEADLINE));
  },
  { name: 'registry', fastify: '5.x', dependencies: ['destinations'] },
);
