// What operators do with tenants and clusters: make, adopt, change, remove, rotate passwords, register servers.
import type { Logger } from 'pino';
import type { Config } from '../config/index.js';
import { createAdoption, type Adoption } from '../tenancy/adoption.js';
import { allowedHosts } from '../tenancy/cluster-hosts.js';
import { createClusterRegistration, type ClusterRegistration } from '../tenancy/cluster-registration.js';
import { createConnectionLimits, type ConnectionLimits } from '../tenancy/connection-limits.js';
import { ensureDefaultCluster } from '../tenancy/default-cluster.js';
import { createDoors, type Doors } from '../tenancy/doors.js';
import { createEnvelope } from '../tenancy/envelope.js';
import type { Housekeeping } from '../tenancy/housekeeping.js';
import { STANDARD_CONNECTIONS } from '../tenancy/limits.js';
import { createTenantLocks } from '../tenancy/locks.js';
import { createMaking } from '../tenancy/making.js';
import { choosePlace } from '../tenancy/placement.js';
import { createPrecedence } from '../tenancy/precedence.js';
import { createProvisioners, type Provisioners } from '../tenancy/provisioners.js';
import { createProvisioning, type Provisioning, type ProvisioningDeps } from '../tenancy/provisioning.js';
import { createReconciler, type Reconciler } from '../tenancy/reconciler.js';
import { createReencryption, type Reencryption } from '../tenancy/reencryption.js';
import { createRemoval, type Removal } from '../tenancy/removal.js';
import { createReports } from '../tenancy/reports.js';
import { createRequestHash, type RequestHash } from '../tenancy/request-hash.js';
import { createRotation, type Rotation, type RotationDeps } from '../tenancy/rotation.js';
import { createStandbyDatabases, type StandbyDatabases } from '../tenancy/standby.js';
import { createTransitions, type Transitions } from '../tenancy/transitions.js';
import type { Closing } from './closing.js';
import type { DataPlane } from './data-plane.js';
import { LOCK_HOLDERS } from './registry-connections.js';
import type { Replica } from './replica.js';

export interface Operations {
  readonly provisioners: Provisioners;
  readonly provisioning: Provisioning;
  readonly adoption: Adoption;
  readonly removal: Removal;
  readonly standby: StandbyDatabases;
  readonly reconciler: Reconciler;
  readonly clusterRegistration: ClusterRegistration;
  readonly doors: Doors;
  /** Suspends, resumes, deletes, restores and purges. */
  readonly lifecycle: Transitions;
  readonly rotation: Rotation;
  readonly reencryption: Reencryption;
  readonly connectionLimits: ConnectionLimits;
  readonly requestHash: RequestHash;
  /** Registers the cluster of TENANT_DATABASE_URL if it is not. Returns its id. */
  readonly ensureDefaultCluster: () => Promise<string>;
}

/** Called after each step of a piece of work, for tests. An error that one throws counts as the step's. */
export interface StepHooks {
  readonly afterProvisioningStep?: ProvisioningDeps['afterStep'];
  readonly afterRotationStep?: RotationDeps['afterStep'];
}

export function createOperations(
  replica: Replica,
  dataPlane: DataPlane,
  housekeeping: Housekeeping,
  config: Config,
  log: Logger,
  closing: Closing,
  { afterProvisioningStep, afterRotationStep }: StepHooks,
): Operations {
  const { registry, registryConnections, events, installation, destinations, replicaId } = replica;
  const { clusters, clusterDirectory, breakers, tenantPools, envelope } = dataPlane;
  const { provisioner: connection, provisionerPool, clusterBudget } = config.tenants;
  const clusterEnvelope = createEnvelope(config.encryptionKeys, 'clusters.provisioner_password');
  const failed =
    (text: string) =>
    (err: unknown, context: object): void => {
      log.error({ err, ...context }, text);
    };
  const publish = (tenantId: string): Promise<void> => events.publish({ kind: 'tenant', tenantId });

  closing.add('locks', () => registryConnections.close('locks'));
  const provisioners = createProvisioners({
    connectionTo: async (place) => (await clusterDirectory.find(place))?.connection(),
    limits: provisionerPool,
    clusters,
    replicaId,
    destinations,
  });
  closing.add('provisioners', () => provisioners.close());
  const makingLocks = createTenantLocks(registryConnections.locks, LOCK_HOLDERS.making);
  const changeLocks = createTenantLocks(registryConnections.locks, LOCK_HOLDERS.changes);
  const onError = failed('a provisioning step failed');
  const report = createReports(onError);

  const removal = createRemoval({
    registry,
    provisioners,
    locks: makingLocks,
    installation,
    report,
    beforeDrop: async (tenantId) => {
      await publish(tenantId);
      await tenantPools.retire(tenantId);
    },
    onError,
  });
  const making = createMaking({ registry, provisioners, installation, removal, report });
  const shared = { registry, provisioners, locks: makingLocks, installation, onError };
  const filled = { ...shared, envelope, connectionLimit: STANDARD_CONNECTIONS, precedence: createPrecedence() };
  const standby = createStandbyDatabases(filled);
  const refill = (): void => void housekeeping.runNow(REFILLING);
  const reconciler = createReconciler({ ...shared, making, removal, standby });
  const ensureDefault = (): Promise<string> =>
    ensureDefaultCluster(registry, clusterEnvelope, connection, clusterBudget);
  const clusterRegistration = createClusterRegistration({
    registry,
    directory: clusterDirectory,
    provisioners,
    locks: makingLocks,
    standby,
    installation,
    envelope: clusterEnvelope,
    limits: provisionerPool,
    destinations,
    isAllowed: allowedHosts(config.tenants.clusterHosts, connection.host),
    ensureDefault,
    onChange: async (clusterId) => {
      await events.publish({ kind: 'cluster', clusterId });
      refill();
    },
  });
  const provisioning = createProvisioning({
    ...filled,
    choosePlace: async (wish) => {
      await ensureDefault();
      return choosePlace(registry, wish, ({ host, port }) => {
        const breaker = breakers.state('cluster', `${host}:${port}`);
        return breaker !== undefined && breaker.state !== 'closed';
      });
    },
    making,
    reconciler,
    onClaim: refill,
    ...(afterProvisioningStep && { afterStep: afterProvisioningStep }),
  });

  const changing = {
    registry,
    locks: changeLocks,
    publish,
    onError: failed("could not apply a tenant's status to its database"),
  };
  const doors = createDoors({ ...changing, provisioners, installation, report });
  const lifecycle = createTransitions({ ...changing, doors, removal, grace: config.tenants.deletionGrace });
  closing.add('lifecycle', () => lifecycle.close());
  return {
    provisioners,
    provisioning,
    adoption: createAdoption({ ...shared, making, envelope, connectionLimit: STANDARD_CONNECTIONS }),
    removal,
    standby,
    reconciler,
    clusterRegistration,
    doors,
    lifecycle,
    rotation: createRotation({
      registry,
      locks: changeLocks,
      provisioners,
      envelope,
      tell: publish,
      rotateAfter: config.tenants.rotatePasswordsAfter,
      onError: failed("could not change the password of a tenant's database role"),
      ...(afterRotationStep && { afterStep: afterRotationStep }),
    }),
    reencryption: createReencryption({
      registry,
      keys: config.encryptionKeys,
      log: {
        done: (context, text) => {
          log.info(context, text);
        },
        warn: (context, text) => {
          log.warn(context, text);
        },
      },
    }),
    connectionLimits: createConnectionLimits({
      registry,
      provisioners,
      defaults: config.tenants.limits,
      onError: (err, context) => {
        log.warn({ err, ...context }, "could not apply the connection limits of tenants' database roles");
      },
    }),
    requestHash: createRequestHash(config.encryptionKeys),
    ensureDefaultCluster: ensureDefault,
  };
}

/** The job that makes standby databases. */
export const REFILLING = 'standby databases';
