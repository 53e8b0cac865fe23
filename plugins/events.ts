// Events: what this replica and the others tell each other of changes, over the registry.
import fp from 'fastify-plugin';
import type { Config } from '../src/config/index.js';
import { openEvents, type Events } from '../src/events.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly events: Events;
  }
}

export const events = fp<{ config: Config['registry'] }>(
  async (app, { config }) => {
    const { connection, pool } = config;
    const opened = openEvents(connection, { connectTimeout: pool.connectTimeout, destinations: app.destinations });
    app.decorate('events', opened);
    app.addHook('onClose', () => opened.close());
  },
  { name: 'events', fastify: '5.x', dependencies: ['destinations', 'registry'] },
);
