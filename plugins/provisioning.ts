// Provisioning: makes and removes tenants, with a pool of its own to the cluster that their databases stand on.
import fp from 'fastify-plugin';
import type { Config } from '../src/config.js';
import type { Envelope } from '../src/tenancy/envelope.js';
import { openProvisioner } from '../src/tenancy/provisioner.js';
import { createProvisioning, type Provisioning, type ProvisioningDeps } from '../src/tenancy/provisioning.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly provisioning: Provisioning;
  }
}

/** Replicas that a tenant role's CONNECTION LIMIT leaves room for, at the largest pool that a tenant may have. */
const CONNECTION_LIMIT = 400;

export const provisioning = fp<{ config: Config; envelope: Envelope; afterStep?: ProvisioningDeps['afterStep'] }>(
  async (app, { config, envelope, afterStep }) => {
    const { provisioner: connection, provisionerPool } = config.tenants;
    const { reserve } = app.clusters.at(connection);
    const provisioner = openProvisioner(connection, provisionerPool, {
      admit: (closeIdle) => reserve.join('provisioning', closeIdle),
      replicaId: app.replicaId,
    });
    app.addHook('onClose', () => provisioner.close());
    app.decorate(
      'provisioning',
      createProvisioning({
        registry: app.registry,
        cluster: provisioner.cluster,
        inDatabase: provisioner.inDatabase,
        place: { host: connection.host, port: connection.port, provisioner: connection.user },
        envelope,
        connectionLimit: CONNECTION_LIMIT,
        beforeDrop: async (tenantId) => {
          await app.events.publish({ kind: 'tenant', tenantId });
          await app.tenantPools.retire(tenantId);
        },
        onError: (err, context) => {
          app.log.error({ err, ...context }, 'a provisioning step failed');
        },
        ...(afterStep && { afterStep }),
      }),
    );
  },
  { name: 'provisioning', fastify: '5.x', dependencies: ['registry', 'tenant-pool'] },
);
