// Provisioning: makes and removes tenants, with pools of its own to the clusters that their databases stand on.
import fp from 'fastify-plugin';
import type { Config } from '../src/config.js';
import { createAdoption, type Adoption } from '../src/tenancy/adoption.js';
import { createClusterRegistration, type ClusterRegistration } from '../src/tenancy/cluster-registration.js';
import { allowedHosts } from '../src/tenancy/cluster-hosts.js';
import { ensureDefaultCluster } from '../src/tenancy/default-cluster.js';
import { createEnvelope, type Envelope } from '../src/tenancy/envelope.js';
import { STANDARD_CONNECTIONS } from '../src/tenancy/limits.js';
import { choosePlace } from '../src/tenancy/placement.js';
import { createProvisioners, type Provisioners } from '../src/tenancy/provisioners.js';
import { createProvisioning, type Provisioning, type ProvisioningDeps } from '../src/tenancy/provisioning.js';
import { createRemoval, type Removal } from '../src/tenancy/removal.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly provisioning: Provisioning;
    readonly adoption: Adoption;
    readonly clusterRegistration: ClusterRegistration;
    readonly provisioners: Provisioners;
    readonly removal: Removal;
  }
}

export const provisioning = fp<{ config: Config; envelope: Envelope; afterStep?: ProvisioningDeps['afterStep'] }>(
  async (app, { config, envelope, afterStep }) => {
    const { provisioner: connection, provisionerPool } = config.tenants;
    const { registry, clusters, clusterDirectory, replicaId } = app;
    const clusterEnvelope = createEnvelope(config.encryptionKeys, 'clusters.provisioner_password');
    const provisioners = createProvisioners({
      connectionTo: async (place) => (await clusterDirectory.find(place))?.connection(),
      limits: provisionerPool,
      clusters,
      replicaId,
    });
    app.decorate('provisioners', provisioners);
    app.addHook('onClose', () => provisioners.close());
    const onError: ProvisioningDeps['onError'] = (err, context) => {
      app.log.error({ err, ...context }, 'a provisioning step failed');
    };
    const removal = createRemoval({
      registry,
      provisioners,
      beforeDrop: async (tenantId) => {
        await app.events.publish({ kind: 'tenant', tenantId });
        await app.tenantPools.retire(tenantId);
      },
      onError,
    });
    app.decorate('removal', removal);
    const ensureDefault = (): Promise<string> =>
      ensureDefaultCluster(registry, clusterEnvelope, connection, config.tenants.clusterBudget);
    app.decorate(
      'clusterRegistration',
      createClusterRegistration({
        registry,
        directory: clusterDirectory,
        provisioners,
        envelope: clusterEnvelope,
        limits: provisionerPool,
        isAllowed: allowedHosts(config.tenants.clusterHosts, connection.host),
        ensureDefault,
        publish: (clusterId) => app.events.publish({ kind: 'cluster', clusterId }),
      }),
    );
    app.decorate(
      'adoption',
      createAdoption({ registry, provisioners, envelope, connectionLimit: STANDARD_CONNECTIONS, onError }),
    );
    app.decorate(
      'provisioning',
      createProvisioning({
        registry,
        provisioners,
        choosePlace: async (wish) => {
          await ensureDefault();
          return choosePlace(registry, wish, ({ host, port }) => {
            const breaker = app.breakers.state('cluster', `${host}:${port}`);
            return breaker !== undefined && breaker.state !== 'closed';
          });
        },
        envelope,
        connectionLimit: STANDARD_CONNECTIONS,
        removal,
        onError,
        ...(afterStep && { afterStep }),
      }),
    );
  },
  { name: 'provisioning', fastify: '5.x', dependencies: ['registry', 'tenant-pool'] },
);
