// Notify relief: the registry's queue of notifications is freed by itself when a tenant's session holds it up.
import fp from 'fastify-plugin';
import type { Config } from '../src/config.js';
import { CROWDED } from '../db/notify-queue.js';
import { relieveNotifyQueue } from '../src/tenancy/notify-relief.js';

/** Between two looks (ms) at what the feed says of the queue. */
const EVERY = 5_000;

export const notifyRelief = fp<{ config: Config }>(
  async (app, { config }) => {
    const { host, port } = config.registry.connection;
    const run = async (): Promise<void> => {
      if (app.events.queueUsage < CROWDED) return;
      // The registry's server, if it holds tenants too. Otherwise no tenant's role can reach its queue.
      const place = { host, port };
      if (!(await app.clusterDirectory.find(place))) return;
      const { cluster } = await app.provisioners.at(place);
      const relief = await relieveNotifyQueue(cluster, await app.installation());
      if (relief)
        app.log.warn(relief, "the registry's NOTIFY queue was filling up: ended sessions of tenants' database roles");
    };
    app.addHook('onReady', async () => {
      app.housekeeping.add({ name: 'notify-relief', every: EVERY, run });
    });
  },
  { name: 'notify-relief', fastify: '5.x', dependencies: ['events', 'clusters', 'housekeeping', 'provisioning'] },
);
