// The engine (src/engine), which serves while the app does, and closes after it.
import fp from 'fastify-plugin';
import type { Engine } from '../../src/engine/index.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly engine: Engine;
  }
}

/** To be registered first: what is registered first closes last. */
export const engine = fp<{ engine: Engine }>(
  async (app, { engine }) => {
    app.decorate('engine', engine);
    app.addHook('onReady', () => engine.serve());
    app.addHook('onClose', () => engine.close());
  },
  { name: 'engine', fastify: '5.x' },
);
