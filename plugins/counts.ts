// What limits are counted in: this process, and all replicas together as soon as plugins/redis.ts shares it.
import fp from 'fastify-plugin';
import { Counts } from '../src/replicas/counts.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly counts: Counts;
  }
}

export const counts = fp(
  async (app) => {
    const counts = new Counts();
    app.decorate('counts', counts);
    app.addHook('onClose', async () => {
      counts.close();
    });
  },
  { name: 'counts', fastify: '5.x' },
);
