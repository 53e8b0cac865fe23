// Destinations: retires the connections of this process that lead to the wrong server after a failover, or are old.
import fp from 'fastify-plugin';
import { createDestinations, type Destinations, type Resolver } from '../db/destinations.js';
import type { Config } from '../src/config/index.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly destinations: Destinations;
  }
}

export const destinations = fp<{ config: Config; resolve?: Resolver | undefined }>(
  async (app, { config, resolve }) => {
    const made = createDestinations({
      maxAge: config.connectionMaxAge,
      resolve,
      onRetire: (retirement) => {
        app.log.warn(retirement, 'retired the connections to a server that moved or takes no writes');
      },
    });
    app.decorate('destinations', made);
    app.addHook('onClose', async () => {
      made.close();
    });
  },
  { name: 'destinations', fastify: '5.x' },
);
