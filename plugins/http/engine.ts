// Connects the engine (src/engine) to the app: it serves while the app serves, and closes after the app.
import fp from 'fastify-plugin';
import type { Engine } from '../../src/engine/index.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly engine: Engine;
  }
}

/** Register it first: the plugin that is registered first closes last. */
export const engine = fp<{ engine: Engine }>(
  async (app, { engine }) => {
    app.decorate('engine', engine);
    app.addHook('onReady', () => engine.serve());
    app.addHook('onClose', () => engine.close());
  },
  { name: 'engine', fastify: '5.x' },
);
