// Server room: a start that finds a server with fewer connections than budget and reserve says so in the log.
import fp from 'fastify-plugin';
import { listAllClusters } from '../db/central/clusters.js';
import { inspectCluster } from '../db/cluster-inspection.js';
import { roomWarning } from '../src/tenancy/server-room.js';

export const serverRoom = fp(
  async (app) => {
    async function look(): Promise<void> {
      for (const row of await listAllClusters(app.registry)) {
        const { name, host, port, budget } = app.clusterDirectory.of(row);
        // A server that does not answer is noticed elsewhere.
        const inspection = await app.provisioners
          .at({ host, port })
          .then(({ cluster }) => inspectCluster(cluster))
          .catch(() => undefined);
        const warning = inspection && roomWarning(inspection, budget);
        if (warning !== undefined) app.log.warn({ cluster: name }, warning);
      }
    }

    app.addHook('onReady', async () => {
      // Not waited for: a server that hangs must not hold up the start.
      void look().catch(() => undefined);
    });
  },
  { name: 'server-room', fastify: '5.x', dependencies: ['registry', 'clusters', 'provisioning'] },
);
