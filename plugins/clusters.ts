// Clusters: how many connections this replica may have to each PostgreSQL server, leased from the registry, so that all
// replicas together stay within a server's budget.
import fp from 'fastify-plugin';
import { randomBytes } from 'node:crypto';
import type { Registry } from '../db/central/schema.js';
import { createDatabase } from '../db/client.js';
import { countSessions, MAINTENANCE_DATABASE } from '../db/cluster.js';
import type { Config } from '../src/config.js';
import { createClusters, type Clusters } from '../src/tenancy/clusters.js';
import { createSlotLeases } from '../src/tenancy/slot-leases.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly clusters: Clusters;
    /** Of this start of the process; its connections to clusters carry it at the end of their application_name. */
    readonly replicaId: string;
  }
}

/** Looking for a dead replica's connections must not wait for a slot: it may have died with the last one. */
const LOOK = { max: 1, acquireTimeout: 1_500, timeout: 1_500, idleTimeoutMillis: 1_000 };

const RENEW = { max: 2, acquireTimeout: 1_500, timeout: 1_500, idleTimeoutMillis: 60_000 };

export const clusters = fp<{ config: Config }>(
  async (app, { config }) => {
    const replicaId = randomBytes(6).toString('hex');
    // Its own, so that leases are renewed while requests use all the others, and hold none of those up while it hangs.
    const registry = createDatabase<Registry>(config.registry.connection, RENEW, {
      applicationName: 'tenantry leases',
      preparedStatements: config.tenants.preparedStatements,
    });
    const leases = createSlotLeases({
      registry: registry.db,
      replicaId,
      budget: config.tenants.clusterBudget,
      openConnections: async (cluster, replica) => {
        const [host = '', port = ''] = cluster.split(/:(?=\d+$)/);
        const look = createDatabase<unknown>(
          { ...config.tenants.provisioner, host, port: Number(port), database: MAINTENANCE_DATABASE },
          LOOK,
          { applicationName: 'tenantry lease check', preparedStatements: false },
        );
        return countSessions(look.db, replica).finally(() => look.close(0));
      },
      onError: (err, context) => {
        app.log.warn({ err, ...context }, 'the leases of connection slots could not be looked after');
      },
    });
    const made = createClusters(config.tenants.clusterBudget, (cluster, kind) => leases.source(cluster, kind));
    app.decorate('clusters', made);
    app.decorate('replicaId', replicaId);
    app.addHook('onClose', async () => {
      made.close();
      await leases.close();
      await registry.close(1_000);
    });
  },
  { name: 'clusters', fastify: '5.x' },
);
