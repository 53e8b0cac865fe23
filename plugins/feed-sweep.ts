// Feed sweep: the registry's table of changes stays small.
import fp from 'fastify-plugin';
import { createFeedSweep, SWEEP_EVERY } from '../src/replicas/feed-sweep.js';

export const feedSweep = fp(
  async (app) => {
    const run = createFeedSweep(app.registry);
    app.addHook('onReady', async () => {
      app.housekeeping.add({ name: 'feed-sweep', every: SWEEP_EVERY, run });
    });
  },
  { name: 'feed-sweep', fastify: '5.x', dependencies: ['registry', 'events', 'housekeeping'] },
);
