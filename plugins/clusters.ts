// Clusters: which PostgreSQL servers there are, and how many connections this replica may have to each, leased from the
// registry, so that all replicas together stay within a server's budget.
import fp from 'fastify-plugin';
import { randomBytes } from 'node:crypto';
import { endIdleSessions, findSessions } from '../db/server-sessions.js';
import type { Config } from '../src/config.js';
import { openRegistry } from '../src/registry.js';
import { createClusterDirectory, type ClusterDirectory } from '../src/tenancy/cluster-directory.js';
import { createClusters, type Clusters } from '../src/tenancy/clusters.js';
import { connectionsOf } from '../src/tenancy/dead-replicas.js';
import { createEffectiveBudgets } from '../src/tenancy/effective-budget.js';
import { createEnvelope } from '../src/tenancy/envelope.js';
import { createServerLooks, placeOf } from '../src/tenancy/server-looks.js';
import { createSlotLeases } from '../src/tenancy/slot-leases.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly clusters: Clusters;
    readonly clusterDirectory: ClusterDirectory;
    /** Of this start of the process; its connections to clusters carry it at the end of their application_name. */
    readonly replicaId: string;
  }
}

const RENEW = { max: 2, timeout: 1_500, idleTimeoutMillis: 60_000 };

export const clusters = fp<{ config: Config }>(
  async (app, { config }) => {
    const { provisioner, clusterBudget } = config.tenants;
    const { connectTimeout } = config.tenants.pool;
    const replicaId = randomBytes(6).toString('hex');
    const directory = createClusterDirectory({
      registry: app.registry,
      events: app.events,
      envelope: createEnvelope(config.encryptionKeys, 'clusters.provisioner_password'),
      default: { connection: provisioner, budget: clusterBudget },
      onError: (err) => {
        app.log.warn({ err }, 'could not read the clusters from the registry');
      },
    });
    // Its own, so that leases are renewed while requests use all the others, and hold none of those up while it hangs.
    const { preparedStatements } = config.tenants;
    const registry = openRegistry(
      config.registry.connection,
      { ...RENEW, acquireTimeout: connectTimeout, connectTimeout },
      { applicationName: 'tenantry leases', preparedStatements },
      app.destinations,
    );
    // Tenants from before there were clusters may stand on a server that is none: it has the default one's budget.
    const budgetOf = (cluster: string): typeof clusterBudget =>
      directory.peek(placeOf(cluster))?.budget ?? clusterBudget;
    const effective = createEffectiveBudgets(budgetOf, (change) => {
      if (change.room === undefined) app.log.info(change, 'a cluster has its full connection budget again');
      else app.log.warn(change, 'a cluster allows fewer connections than its budget: the budget is lowered for now');
    });
    const looks = createServerLooks(directory, connectTimeout, app.destinations);
    const leases = createSlotLeases({
      registry: registry.db,
      replicaId,
      budget: (cluster) => effective.of(cluster, budgetOf(cluster)),
      openConnections: (cluster, replica) => connectionsOf(looks, cluster, replica),
      onError: (err, context) => {
        app.log.warn({ err, ...context }, 'could not renew or release leases of connection slots');
      },
    });
    const made = createClusters(
      budgetOf,
      (cluster, kind) => effective.source(cluster, kind, leases.source(cluster, kind)),
      (cluster) => ({
        sessions: async () => {
          const server = looks.at(cluster);
          return server && findSessions(server, replicaId);
        },
        endIdle: async (sessions) => {
          const server = looks.at(cluster);
          if (server) await endIdleSessions(server, sessions);
        },
      }),
      (err, context) => {
        app.log.warn({ err, ...context }, 'could not ask a server about cut connections: their slots stay in use');
      },
    );
    app.decorate('clusters', made);
    app.decorate('clusterDirectory', directory);
    app.decorate('replicaId', replicaId);
    app.addHook('onClose', async () => {
      made.close();
      effective.close();
      await leases.close();
      await looks.close();
      await registry.close(1_000);
    });
  },
  { name: 'clusters', fastify: '5.x', dependencies: ['registry', 'events'] },
);
