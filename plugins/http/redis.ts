// @fastify/redis over the engine's client, if Redis answers when the service starts. The start does not wait for Redis.
import fastifyRedis, { type FastifyRedis } from '@fastify/redis';
import fp from 'fastify-plugin';

export const redis = fp(
  async (app) => {
    const client = app.engine.sharedStore?.client;
    if (!client) return;
    // The plugin waits for a client that is not ready until the start times out, and then fails the start. It is called directly
    // and not registered, so that the client cannot change between this check and the plugin's own.
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
