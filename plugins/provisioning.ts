// Provisioning: makes and removes tenants, with pools of its own to the clusters that their databases stand on.
import fp from 'fastify-plugin';
import { sweepRequestKeys } from '../db/central/idempotency-keys.js';
import { findInstallationId } from '../db/central/installation.js';
import { setStandbyTarget } from '../db/central/standby.js';
import type { Config } from '../src/config.js';
import { openRegistry } from '../src/registry.js';
import { createAdoption, type Adoption } from '../src/tenancy/adoption.js';
import { createClusterRegistration, type ClusterRegistration } from '../src/tenancy/cluster-registration.js';
import { allowedHosts } from '../src/tenancy/cluster-hosts.js';
import { ensureDefaultCluster } from '../src/tenancy/default-cluster.js';
import { createEnvelope, type Envelope } from '../src/tenancy/envelope.js';
import { STANDARD_CONNECTIONS } from '../src/tenancy/limits.js';
import { choosePlace } from '../src/tenancy/placement.js';
import { createTenantLocks } from '../src/tenancy/locks.js';
import { createMaking } from '../src/tenancy/making.js';
import { createPrecedence } from '../src/tenancy/precedence.js';
import { createProvisioners, type Provisioners } from '../src/tenancy/provisioners.js';
import { createProvisioning, type Provisioning, type ProvisioningDeps } from '../src/tenancy/provisioning.js';
import { createReconciler } from '../src/tenancy/reconciler.js';
import { createRemoval, type Removal } from '../src/tenancy/removal.js';
import { createReports, type ReportLeft } from '../src/tenancy/reports.js';
import { createRequestHash, type RequestHash } from '../src/tenancy/request-hash.js';
import { createStandbyDatabases } from '../src/tenancy/standby.js';

declare module 'fastify' {
  interface FastifyInstance {
    readonly provisioning: Provisioning;
    readonly adoption: Adoption;
    readonly clusterRegistration: ClusterRegistration;
    readonly provisioners: Provisioners;
    readonly removal: Removal;
    /** Logs that a tenant's database is left as it is. */
    readonly reportLeft: ReportLeft;
    readonly installation: () => Promise<string>;
    readonly requestHash: RequestHash;
  }
}

/** Longest wait (ms) for work under a lock when the process stops. */
const CLOSE_DEADLINE = 10_000;

/** Tenants that are made or removed at once, those that wait for a connection to a cluster included: each holds a lock. */
const AT_ONCE = 8;

const REFILLING = 'standby databases';

/** Between two looks (ms) at the standby databases that nobody asked for. */
const REFILL_EVERY = 30_000;

const SWEEP_KEYS_EVERY = 3_600_000;

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
      destinations: app.destinations,
    });
    app.decorate('provisioners', provisioners);
    app.addHook('onClose', () => provisioners.close());
    const onError = (err: unknown, context: object): void => {
      app.log.error({ err, ...context }, 'a provisioning step failed');
    };
    // Connections of their own: a lock holds one for as long as the work takes, which itself asks the registry.
    const locking = openRegistry(
      config.registry.connection,
      { ...config.registry.pool, max: AT_ONCE },
      { applicationName: 'tenantry provisioning', preparedStatements: config.tenants.preparedStatements },
      app.destinations,
    );
    app.addHook('onClose', () => locking.close(CLOSE_DEADLINE));
    const locks = createTenantLocks(locking.db);
    let installationId: string | undefined;
    const installation = async (): Promise<string> => (installationId ??= await findInstallationId(registry));
    const ensureDefault = (): Promise<string> =>
      ensureDefaultCluster(registry, clusterEnvelope, connection, config.tenants.clusterBudget);

    const report = createReports(onError);
    app.decorate('reportLeft', report);
    app.decorate('installation', installation);
    const removal = createRemoval({
      registry,
      provisioners,
      locks,
      installation,
      report,
      beforeDrop: async (tenantId) => {
        await app.events.publish({ kind: 'tenant', tenantId });
        await app.tenantPools.retire(tenantId);
      },
      onError,
    });
    const making = createMaking({ registry, provisioners, installation, removal, report });
    const shared = { registry, provisioners, locks, installation, onError };
    const filled = {
      ...shared,
      envelope,
      connectionLimit: STANDARD_CONNECTIONS,
      precedence: createPrecedence(),
    };
    const standby = createStandbyDatabases(filled);
    const refill = (): void => void app.housekeeping.runNow(REFILLING);
    const reconciler = createReconciler({ ...shared, making, removal, standby });

    // Its jobs work with the pools that close behind this.
    app.addHook('onClose', () => app.housekeeping.close());
    app.decorate('removal', removal);
    app.decorate(
      'clusterRegistration',
      createClusterRegistration({
        registry,
        directory: clusterDirectory,
        provisioners,
        locks,
        standby,
        installation,
        envelope: clusterEnvelope,
        limits: provisionerPool,
        destinations: app.destinations,
        isAllowed: allowedHosts(config.tenants.clusterHosts, connection.host),
        ensureDefault,
        onChange: async (clusterId) => {
          await app.events.publish({ kind: 'cluster', clusterId });
          refill();
        },
      }),
    );
    app.decorate('adoption', createAdoption({ ...shared, making, envelope, connectionLimit: STANDARD_CONNECTIONS }));
    app.decorate('requestHash', createRequestHash(config.encryptionKeys));
    app.decorate(
      'provisioning',
      createProvisioning({
        ...filled,
        choosePlace: async (wish) => {
          await ensureDefault();
          return choosePlace(registry, wish, ({ host, port }) => {
            const breaker = app.breakers.state('cluster', `${host}:${port}`);
            return breaker !== undefined && breaker.state !== 'closed';
          });
        },
        making,
        reconciler,
        onClaim: refill,
        ...(afterStep && { afterStep }),
      }),
    );

    app.addHook('onReady', async () => {
      // Now, and not in the job, which runs on whichever replica is first: what an operator says later about this cluster counts
      // until the next start.
      await ensureDefault()
        .then((id) => setStandbyTarget(registry, id, config.tenants.standbyDatabases))
        .catch((err: unknown) => {
          app.log.warn({ err }, 'could not set the number of standby databases');
        });
      app.housekeeping.add({
        name: 'reconciler',
        every: config.tenants.reconcileEvery,
        run: (signal) => reconciler.reconcile(signal),
      });
      app.housekeeping.add({
        name: REFILLING,
        every: REFILL_EVERY,
        run: (signal) => standby.refill(signal),
      });
      app.housekeeping.add({
        name: 'idempotency keys',
        every: SWEEP_KEYS_EVERY,
        run: () => sweepRequestKeys(registry),
      });
    });
  },
  { name: 'provisioning', fastify: '5.x', dependencies: ['registry', 'tenant-pool', 'housekeeping'] },
);
