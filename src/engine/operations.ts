// What operators do with tenants and clusters: make, adopt, change, remove, rotate passwords, register servers.
import type { Logger } from 'pino';
import type { Config } from '../config/index.js';
import { createAdoption, type Adoption } from '../operations/adoption.js';
import { allowedHosts } from '../clusters/cluster-hosts.js';
import { createClusterRegistration, type ClusterRegistration } from '../operations/register-cluster.js';
import { createConnectionLimits, type ConnectionLimits } from '../operations/role-limits.js';
import { createDefaultCluster, type DefaultCluster } from '../clusters/default-cluster.js';
import { createDoors, type Doors } from '../operations/open-close.js';
import { createEnvelope } from '../secrets/envelope.js';
import type { Housekeeping } from '../jobs/housekeeping.js';
import { STANDARD_CONNECTIONS } from '../tenants/tenant-limits.js';
import { createTenantLocks } from '../tenants/tenant-locks.js';
import { createMaking } from '../operations/making.js';
import { choosePlace } from '../clusters/placement.js';
import { createPrecedence } from '../operations/precedence.js';
import { createProvisioners, type Provisioners } from '../clusters/provisioners.js';
import { createProvisioning, type Provisioning, type ProvisioningDeps } from '../operations/create-tenant.js';
import { createReconciler, type Reconciler } from '../operations/reconciler.js';
import { createReencryption, type Reencryption } from '../operations/reencryption.js';
import { createRemoval, type Removal } from '../operations/removal.js';
import { createReports, isLeftAsItIs, type Reports } from '../operations/reports.js';
import { createRequestHash, type RequestHash } from '../operations/request-hash.js';
import { createRotation, type Rotation, type RotationDeps } from '../operations/password-rotation.js';
import { createStandbyDatabases, type StandbyDatabases } from '../operations/standby-databases.js';
import { createTransitions, type Transitions } from '../operations/transitions.js';
import type { SecurityFields } from '../observability/security-catalogue.js';
import type { SecurityEvents } from '../observability/security-events.js';
import type { Closing } from './closing.js';
import type { DataPlane } from './data-plane.js';
import type { Instruments } from '../observability/instruments.js';
import { countAdoptions, creationCounts } from './metrics/creation-counts.js';
import { LOCK_HOLDERS } from './registry-connections.js';
import type { Replica } from './replica.js';

export interface Operations {
  readonly provisioners: Provisioners;
  readonly provisioning: Provisioning;
  readonly adoption: Adoption;
  readonly removal: Removal;
  readonly standby: StandbyDatabases;
  readonly reconciler: Reconciler;
  /** Databases that are left as they are until a person acts. */
  readonly reports: Reports;
  readonly clusterRegistration: ClusterRegistration;
  readonly doors: Doors;
  /** Suspends, resumes, deletes, restores and purges. */
  readonly lifecycle: Transitions;
  readonly rotation: Rotation;
  readonly reencryption: Reencryption;
  readonly connectionLimits: ConnectionLimits;
  readonly requestHash: RequestHash;
  /** The cluster of TENANT_DATABASE_URL. */
  readonly defaultCluster: DefaultCluster;
}

/** Called after each step of a piece of work, for tests. If a hook throws, the error counts as the step's error. */
export interface StepHooks {
  readonly afterProvisioningStep?: ProvisioningDeps['afterStep'];
  readonly afterRotationStep?: RotationDeps['afterStep'];
}

export function createOperations(
  replica: Replica,
  dataPlane: DataPlane,
  housekeeping: Housekeeping,
  instruments: Instruments,
  config: Config,
  log: Logger,
  { record }: SecurityEvents,
  closing: Closing,
  { afterProvisioningStep, afterRotationStep }: StepHooks,
): Operations {
  const { registry, registryConnections, events, installation, destinations, replicaId } = replica;
  const { governors, clusterDirectory, breakers, tenantPools, envelope } = dataPlane;
  const { provisioner: connection, provisionerPool, clusterBudget } = config.tenants;
  const clusterEnvelope = createEnvelope(config.encryptionKeys, 'clusters.provisioner_password');
  const failed =
    (text: string) =>
    (err: unknown, context: object): void => {
      log.error({ err, ...context }, text);
    };
  const publish = (tenantId: string): Promise<void> => events.publish({ kind: 'tenant', tenantId });

  const provisioners = createProvisioners({
    connectionTo: async (place) => (await clusterDirectory.find(place))?.connection(),
    limits: provisionerPool,
    governors,
    replicaId,
    destinations,
  });
  closing.add('provisioners', () => provisioners.close());
  // Before the provisioners: closing waits for work under a lock, which comes to its end with them.
  closing.add('locks', () => registryConnections.close('locks'));
  const makingLocks = createTenantLocks(registryConnections.locks, LOCK_HOLDERS.making);
  const changeLocks = createTenantLocks(registryConnections.locks, LOCK_HOLDERS.changes);
  const onError = (err: unknown, context: SecurityFields): void => {
    if (isLeftAsItIs(err)) record('evidence-refused', { ...context, err });
    else log.error({ err, ...context }, 'a provisioning step failed');
  };
  const reports = createReports(onError);
  const report = reports.left;

  const removal = createRemoval({
    registry,
    provisioners,
    locks: makingLocks,
    installation,
    report,
    record,
    beforeDrop: async (tenantId) => {
      await publish(tenantId);
      await tenantPools.retire(tenantId);
    },
    onError,
  });
  const making = createMaking({ registry, provisioners, installation, removal, report, record });
  const shared = { registry, provisioners, locks: makingLocks, installation, record, onError };
  const filled = { ...shared, envelope, connectionLimit: STANDARD_CONNECTIONS, precedence: createPrecedence() };
  const standby = createStandbyDatabases(filled);
  // A command has no jobs: a replica that serves makes them.
  const refill = (): void => void housekeeping.runNow(REFILLING).catch(() => undefined);
  const reconciler = createReconciler({ ...shared, making, removal, standby, reports });
  const defaultCluster = createDefaultCluster({
    registry,
    envelope: clusterEnvelope,
    connection,
    budget: clusterBudget,
  });
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
    ensureDefault: () => defaultCluster.ensure(),
    onChange: async (clusterId) => {
      await events.publish({ kind: 'cluster', clusterId });
      refill();
    },
  });
  const provisioning = createProvisioning({
    ...filled,
    choosePlace: async (wish) => {
      await defaultCluster.ensure();
      return choosePlace(registry, wish, ({ host, port }) => {
        const breaker = breakers.state('cluster', `${host}:${port}`);
        return breaker !== undefined && breaker.state !== 'closed';
      });
    },
    making,
    reconciler,
    onClaim: refill,
    onOutcome: creationCounts(instruments),
    ...(afterProvisioningStep && { afterStep: afterProvisioningStep }),
  });

  const changing = {
    registry,
    locks: changeLocks,
    publish,
    record,
    onError: failed("could not apply a tenant's status to its database"),
  };
  const doors = createDoors({ ...changing, provisioners, installation, report });
  const lifecycle = createTransitions({ ...changing, doors, removal, grace: config.tenants.deletionGrace });
  closing.add('lifecycle', () => lifecycle.close());
  return {
    provisioners,
    provisioning,
    adoption: countAdoptions(
      createAdoption({ ...shared, making, envelope, connectionLimit: STANDARD_CONNECTIONS }),
      instruments,
    ),
    removal,
    standby,
    reconciler,
    reports,
    clusterRegistration,
    doors,
    lifecycle,
    rotation: createRotation({
      registry,
      locks: changeLocks,
      provisioners,
      envelope,
      tell: publish,
      record,
      rotateAfter: config.tenants.rotatePasswordsAfter,
      onError: failed("could not change the password of a tenant's database role"),
      ...(afterRotationStep && { afterStep: afterRotationStep }),
    }),
    reencryption: createReencryption({
      registry,
      keys: config.encryptionKeys,
      record,
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
    defaultCluster,
  };
}

/** The job that makes standby databases. */
export const REFILLING = 'standby databases';
