// Provisioning: makes and removes tenants, with pools of its own to the clusters that their databases stand on.
import fp from 'fastify-plugin';
import type { Config } from '../src/config.js';
import { ensureDefaultCluster } from '../src/tenancy/default-cluster.js';
import { createEnvelope, type Envelope } from '../src/tenancy/envelope.js';
import { STANDARD_CONNECTIONS } from '../src/tenancy/limits.js';
import { createProvisioners, type Provisioners } from '../src/tenancy/provisioners.js';
import { createProvisioning, type Provisioning, type ProvisioningDeps } from '../src/tenancy/provisioning.js';
import { createRemoval, type Removal } from '../src/tenancy/removal.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly provisioners: Provisioners;
    readonly provisioning: Provisioning;
    readonly removal: Removal;
  }
}

export const provisioning = fp<{ config: Config; envelope: Envelope; afterStep?: ProvisioningDeps['afterStep'] }>(
  async (app, { config, envelope, afterStep }) => {
    const { provisioner: connection, provisionerPool } = config.tenants;
    const { registry, clusters, replicaId } = app;
    const clusterEnvelope = createEnvelope(config.encryptionKeys, 'clusters.provisioner_password');
    const provisioners = createProvisioners({
      connectionTo: ({ host, port }) =>
        Promise.resolve(host === connection.host && port === connection.port ? connection : undefined),
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
    app.decorate(
      'provisioning',
      createProvisioning({
        registry,
        provisioners,
        choosePlace: async () => {
          const { host, port } = connection;
          const { clusterBudget } = config.tenants;
          return {
            clusterId: await ensureDefaultCluster(registry, clusterEnvelope, connection, clusterBudget),
            host,
            port,
          };
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
