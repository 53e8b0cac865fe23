// @fastify/redis over the engine's client, if Redis answers when the service starts. The start does not wait for it.
import fastifyRedis, { type FastifyRedis } from '@fastify/redis';
import fp from 'fastify-plugin';

export const redis = fp(
  async (app) => {
    const client = app.engine.sharedStore?.client;
    if (!client) return;
    // The plugin waits for a client that is not ready, for as long as the start may take, and then fails the start. It is called
    // and not registered, so that nothing happens to the client between this look and its own.
    if (client.status !== 'ready') app.decorate('redis', client as FastifyRedis);
    else
      await new Promise<void>((resolve, reject) => {
        fastifyRedis(app, { client }, (error) => {
          if (error) reject(error);
          else resolve();
        });
      });
  },
  { name: 'redis', fastify: '5.x', dependencies: ['engine'] },
);
