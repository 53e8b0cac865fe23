// What operators do with tenants and clusters: make, adopt, change, remove, rotate passwords, register servers.
import type { Logger } from 'pino';
import { findCluster } from '../../db/registry/cluster-queries.js';
import type { Config } from '../config/index.js';
import { createAdoption, type Adoption } from '../operations/adopt/adoption.js';
import { allowedHosts } from '../clusters/cluster-hosts.js';
import { createClusterRegistration, type ClusterRegistration } from '../operations/register-cluster.js';
import { createConnectionLimits, type ConnectionLimits } from '../operations/role-limits.js';
import { createDefaultCluster, type DefaultCluster } from '../clusters/default-cluster.js';
import { createDoorActs } from '../operations/doors/door-acts.js';
import { createDoorDrift, type DoorDrift } from '../operations/doors/door-drift.js';
import { createDoorOperations } from '../operations/doors/door-operations.js';
import { createDoors, type Doors } from '../operations/doors/open-close.js';
import { createEnvelope } from '../secrets/envelope.js';
import type { Housekeeping } from '../jobs/housekeeping.js';
import { STANDARD_CONNECTIONS } from '../tenants/tenant-limits.js';
import { createTenantLocks } from '../tenants/tenant-locks.js';
import { choosePlace } from '../clusters/placement.js';
import { createPrecedence, whenQuiet } from '../operations/create/precedence.js';
import { createProvisioners, type Provisioners } from '../clusters/provisioners.js';
import { createProvisioning, type Provisioning } from '../operations/create/create-tenant.js';
import { createKeyedActs, type KeyedActs } from '../operations/keyed-acts.js';
import { createLeftovers, type Leftovers } from '../operations/leftovers.js';
import { makingStandby } from '../operations/standby/making-standby.js';
import { withdrawingStandby } from '../operations/standby/withdrawing-standby.js';
import { createOrphans, type Orphans } from '../operations/orphans.js';
import { createReencryption, type Reencryption } from '../operations/reencryption.js';
import { createRemoval, type Removal } from '../operations/remove/removal.js';
import { createReports, isLeftAsItIs, type Reports } from '../operations/reports.js';
import { createRequestHash, type RequestHash } from '../operations/create/request-hash.js';
import { createRotation, type Rotation } from '../operations/password-rotation.js';
import { createStandbyDatabases, type StandbyDatabases } from '../operations/standby/standby-databases.js';
import { buildingTemplate, templateVersion } from '../operations/template/building-template.js';
import { createTemplateMaker } from '../operations/template/template-maker.js';
import { createTransitions, type Transitions } from '../operations/doors/transitions.js';
import type { SecurityFields } from '../observability/security-catalogue.js';
import type { SecurityEvents } from '../observability/security-events.js';
import type { Closing } from './closing.js';
import type { DataPlane } from './data-plane.js';
import type { Instruments } from '../observability/instruments.js';
import { creationCounts } from './metrics/creation-counts.js';
import { operationCounts } from './metrics/operation-counts.js';
import { observedRunner } from './observed-runner.js';
import { OPERATION_TIMES, type OperationTimes } from '../operations/runner/operation-times.js';
import { createRunner, type Runner, type RunnerDeps } from '../operations/runner/runner.js';
import { createSteering, type Steering } from '../operations/runner/steering.js';
import type { Replica } from './replica.js';

export interface Operations {
  /** Finishes or undoes everything of more than one step. */
  readonly runner: Runner;
  /** What operators do with operations: retry and abandon. */
  readonly steering: Steering;
  readonly provisioners: Provisioners;
  readonly provisioning: Provisioning;
  readonly adoption: Adoption;
  readonly removal: Removal;
  readonly standby: StandbyDatabases;
  readonly orphans: Orphans;
  /** Finds unfinished rows that have no operation. */
  readonly leftovers: Leftovers;
  /** Databases that are left as they are until a person acts. */
  readonly reports: Reports;
  readonly clusterRegistration: ClusterRegistration;
  /** Finds databases that do not agree with their tenants' rows. */
  readonly doorDrift: DoorDrift;
  /** Applies a tenant's row to its database. */
  readonly doors: Doors;
  /** Suspends, resumes, deletes, restores and purges. */
  readonly lifecycle: Transitions;
  readonly rotation: Rotation;
  readonly reencryption: Reencryption;
  readonly connectionLimits: ConnectionLimits;
  readonly requestHash: RequestHash;
  /** Acts with an Idempotency-Key. */
  readonly keyedActs: KeyedActs;
  /** The cluster of TENANT_DATABASE_URL. */
  readonly defaultCluster: DefaultCluster;
}

/** For tests. */
export interface OperationOptions {
  /** Called after each step of an operation. If it throws, the error counts as the step's error. */
  readonly afterOperationStep?: RunnerDeps['afterStep'];
  /** Shorter waits, so that a test need not wait for the real ones. */
  readonly operationTimes?: Partial<OperationTimes>;
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
  { afterOperationStep, operationTimes }: OperationOptions,
): Operations {
  const times = { ...OPERATION_TIMES, ...operationTimes };
  const { registry, lockSession, events, installation, destinations, replicaId } = replica;
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
  const onError = (err: unknown, context: SecurityFields): void => {
    if (isLeftAsItIs(err)) record('evidence-refused', { ...context, err });
    else log.error({ err, ...context }, 'a provisioning step failed');
  };
  const reports = createReports(onError);
  const report = reports.left;
  const locks = createTenantLocks(lockSession);
  const counts = operationCounts(instruments);
  const runner = createRunner({
    registry,
    locks,
    worker: replicaId,
    schemaVersion: templateVersion,
    times,
    afterStep: afterOperationStep,
    ...observedRunner({ counts, creations: creationCounts(instruments), log, record, reports }),
  });
  // Before the provisioners: closing waits for running steps, which come to their end with them.
  closing.add('operations', () => runner.close());

  const beforeDrop = async (tenantId: string): Promise<void> => {
    await publish(tenantId);
    await tenantPools.retire(tenantId);
  };
  const removal = createRemoval({
    registry,
    provisioners,
    locks,
    installation,
    report,
    record,
    beforeDrop,
    runner,
    worker: replicaId,
    times,
  });
  const shared = { registry, provisioners, locks, installation, record, onError };
  const filled = { ...shared, envelope, connectionLimit: STANDARD_CONNECTIONS, precedence: createPrecedence() };
  const wake = (): void => {
    runner.takeUp.wake();
  };
  const stopping = new AbortController();
  closing.add('standby databases', () => {
    stopping.abort();
  });
  // A command has no jobs: a replica that serves makes them.
  const refill = (): void => void housekeeping.runNow(REFILLING).catch(() => undefined);
  runner.add(makingStandby({ ...filled, onReady: refill, stopping: stopping.signal }));
  runner.add(withdrawingStandby(filled));
  runner.add(
    buildingTemplate({
      registry,
      installation,
      enter: async ({ subject }) => {
        const place = await findCluster(registry, subject);
        return place && provisioners.at(place);
      },
    }),
  );
  const standby = createStandbyDatabases({ registry, envelope, wake, onError });
  const leftovers = createLeftovers({ registry, locks, wake });
  const orphans = createOrphans({ ...shared, reports });
  const defaultCluster = createDefaultCluster({
    registry,
    envelope: clusterEnvelope,
    connection,
    budget: clusterBudget,
  });
  const clusterRegistration = createClusterRegistration({
    registry,
    directory: clusterDirectory,
    standby,
    runner,
    templates: createTemplateMaker({ registry, locks, runner, installation, worker: replicaId }),
    envelope: clusterEnvelope,
    limits: provisionerPool,
    destinations,
    times,
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
    runner,
    replicaId,
    times,
    report,
    beforeDrop,
    onClaim: whenQuiet(filled.precedence, stopping.signal, refill),
  });

  const changing = {
    registry,
    locks,
    publish,
    record,
    onError: failed("could not apply a tenant's status to its database"),
  };
  const doors = createDoors({ ...changing, provisioners, installation, report });
  const doorOperations = createDoorOperations({ ...changing, runner, worker: replicaId, doors });
  const lifecycle = createTransitions({
    ...changing,
    doors,
    doorOperations,
    doorActs: createDoorActs({ ...changing, operations: doorOperations, times }),
    removal,
    grace: config.tenants.deletionGrace,
    onRecorded: wake,
  });
  closing.add('lifecycle', () => lifecycle.close());
  return {
    runner,
    steering: createSteering({ registry, runner, publish, onAbandoned: counts.abandoned }),
    provisioners,
    provisioning,
    adoption: createAdoption({ ...filled, runner, replicaId, report }),
    removal,
    standby,
    orphans,
    leftovers,
    reports,
    clusterRegistration,
    doors,
    doorDrift: createDoorDrift({ ...changing, provisioners, installation, doors, report, wake }),
    lifecycle,
    rotation: createRotation({
      registry,
      locks,
      runner,
      worker: replicaId,
      provisioners,
      envelope,
      tell: publish,
      record,
      rotateAfter: config.tenants.rotatePasswordsAfter,
      onError: failed("could not change the password of a tenant's database role"),
    }),
    reencryption: createReencryption({
      registry,
      runner,
      installation,
      replicaId,
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
    keyedActs: createKeyedActs({
      registry,
      locks: lockSession,
      runner,
      publish: (change) => events.publish(change),
      refreshClusters: () => clusterDirectory.refresh(),
      times,
    }),
    defaultCluster,
  };
}

/** The job that makes standby databases. */
export const REFILLING = 'standby databases';
