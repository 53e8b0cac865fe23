// Redis, where REDIS_URL names one: what this replica shares with the others. Neither the start nor a request waits for it.
import fastifyRedis, { type FastifyRedis } from '@fastify/redis';
import fp from 'fastify-plugin';
import { findInstallationId } from '../db/central/installation.js';
import { within } from '../db/deadline.js';
import type { Config } from '../src/config.js';
import { openSharedStore, type SharedStore } from '../src/replicas/redis.js';

declare module 'fastify' {
  interface FastifyInstance {
    /** Undefined without REDIS_URL: this process works for itself. */
    readonly sharedStore: SharedStore | undefined;
  }
}

/** How long (ms) the start waits for a first answer, so that a Redis that is there is used from the first request. */
const START_DEADLINE = 300;

export const redis = fp<{ config: Config['redis'] }>(
  async (app, { config }) => {
    if (!config) {
      app.decorate('sharedStore', undefined);
      return;
    }
    const { host, port } = config;
    const store = openSharedStore(config, {
      installation: () => findInstallationId(app.registry),
      onChange: (available, reason) => {
        if (available) app.log.info({ host, port }, 'Redis is available');
        else app.log.warn({ host, port, reason }, 'Redis is not available: this replica continues without it');
      },
    });
    app.decorate('sharedStore', store);
    app.addHook('onClose', () => store.close());
    app.counts.share(store);

    await within(store.settled, START_DEADLINE, () => new Error('late')).catch(() => undefined);
    // @fastify/redis waits for a client that is not ready, for as long as the start may take, and then fails the start.
    // It is called and not registered, so that nothing happens to the client between this look and its own.
    if (store.client.status !== 'ready') app.decorate('redis', store.client as FastifyRedis);
    else
      await new Promise<void>((resolve, reject) => {
        fastifyRedis(app, { client: store.client }, (error) => {
          if (error) reject(error);
          else resolve();
        });
      });
  },
  { name: 'redis', fastify: '5.x', dependencies: ['counts', 'registry', 'events'] },
);
