// The engine: every room of the service, built once, in order, and closed in reverse order. It does not know HTTP. The server,
// commands, benchmarks and tests all use it.
import type { Logger } from 'pino';
import { within } from '../lib/deadline.js';
import type { Resolver } from '../../db/driver/destinations.js';
import type { Config } from '../config/index.js';
import { createMetrics, type Metrics } from '../observability/metrics.js';
import { createInstruments, type Instruments } from '../observability/instruments.js';
import { createBusyTenants, type BusyTenants } from '../observability/busy-tenants.js';
import { createTraffic, type Traffic } from '../observability/traffic.js';
import { createHousekeeping, type Housekeeping } from '../jobs/housekeeping.js';
import { createCaching, type Caching, type CachingOptions } from './caching.js';
import { createCallers, type Callers } from './callers.js';
import { Closing } from './closing.js';
import { createDataPlane, type DataPlane } from './data-plane.js';
import { showLines } from '../observability/log-lines.js';
import { createSecurityEvents, type SecurityEvents } from '../observability/security-events.js';
import { createTenantRequests, type TenantRequests } from '../operations/create/tenant-request.js';
import { namesOf, refuseWeakPassword } from '../auth/common-passwords.js';
import { OPERATORS } from '../auth/passwords.js';
import { createFleet, type Fleet } from './fleet.js';
import { createDoctorRoom } from './doctor-room.js';
import type { Doctor } from '../doctor/examination.js';
import { createSchemaDrift, type SchemaDrift } from './schema-drift.js';
import { jobsOf, whenServing } from './jobs.js';
import { createOperations, REFILLING, type Operations, type OperationOptions } from './operations.js';
import { openReplica, type Replica } from './replica.js';
import { createRollouts, type Rollouts } from './rolling-out.js';
import { createStatements, type Statements } from './statements.js';
import { jobCounts } from './metrics/job-counts.js';
import { readRooms } from './metrics/read-rooms.js';
import { registerReadings } from './metrics/index.js';

export interface Engine
  extends
    Replica,
    DataPlane,
    Callers,
    Operations,
    Rollouts,
    Fleet,
    SchemaDrift,
    Statements,
    Pick<Caching, 'readCache' | 'mustNotWrite'> {
  readonly config: Config;
  readonly log: Logger;
  /** Makes tenants as a person asks for them. */
  readonly tenantRequests: TenantRequests;
  /** Examines the installation, its servers and its tenants, and repairs what is safe to repair. */
  readonly doctor: Doctor;
  /** Counts and logs what concerns security. */
  readonly security: SecurityEvents;
  /** The jobs that keep the registry and the clusters in order. No job runs before `serve`. */
  readonly housekeeping: Housekeeping;
  readonly metrics: Metrics;
  /** What counts events. */
  readonly instruments: Instruments;
  /** The HTTP server counts here. */
  readonly traffic: Traffic;
  readonly busyTenants: BusyTenants;
  /** Begins what a serving process does by itself. A command does not call this. */
  serve(): Promise<void>;
  /** Waits until running work has reached the end of its step, and closes every connection. Never rejects. Safe to call again. */
  close(): Promise<void>;
}

export interface EngineOptions extends OperationOptions {
  /** Resolves the names of PostgreSQL servers, instead of the system. */
  readonly resolve?: Resolver;
  /** This replica's wall clock (ms), instead of the system's, for what it tells of its clock. */
  readonly wallClock?: () => number;
  readonly caching?: CachingOptions;
}

/** Longest wait (ms) until a job has reached the end of its step when the process stops. */
const JOB_DEADLINE = 10_000;

/**
 * Builds the engine. It opens connections when they are first needed. So a registry or a server that is away does not fail this
 * call, only the later calls that need it.
 *
 * @example
 *     const engine = await createEngine(config, log);
 *     try {
 *       await engine.provisioning.create(…);
 *     } finally {
 *       await engine.close();
 *     }
 */
export async function createEngine(config: Config, log: Logger, options: EngineOptions = {}): Promise<Engine> {
  const closing = new Closing((err, step) => {
    log.warn({ err, step }, 'a room did not close in order');
  });
  const metrics = createMetrics((err, context) => {
    log.warn({ err, ...context }, 'could not read a metric');
  });
  showLines(metrics, log);
  const security = createSecurityEvents({ log, metrics });
  closing.add('security events', () => {
    security.close();
  });
  const instruments = createInstruments(metrics);
  const traffic = createTraffic();
  const busyTenants = createBusyTenants(config.metrics.tenants);
  closing.add('busy tenants', () => {
    busyTenants.close();
  });
  try {
    const replica = await openReplica(config, log, closing, options.resolve);
    const dataPlane = createDataPlane(replica, config, log, security, closing);
    const callers = createCallers(replica, dataPlane, instruments, config, security, closing);
    const caching = createCaching(replica, config, log, instruments, closing, options.caching);
    const housekeeping = createHousekeeping({
      registry: replica.registry,
      locks: replica.lockSession,
      replicaId: replica.replicaId,
      onError: (err, context) => {
        log.error({ err, ...context }, 'a housekeeping job failed');
      },
      ...jobCounts(instruments),
    });
    const operations = createOperations(
      replica,
      dataPlane,
      housekeeping,
      instruments,
      config,
      log,
      security,
      closing,
      options,
    );
    const fleet = createFleet(
      { ...replica, ...dataPlane, ...operations, housekeeping },
      config,
      log,
      options.wallClock,
      caching,
    );
    // After the jobs: until they have ended, this replica still works.
    closing.add('presence', () => fleet.presence.close());
    // The jobs close first, because they work with all other rooms.
    closing.add('jobs', () =>
      within(housekeeping.close(), JOB_DEADLINE, () => new Error('a housekeeping job did not stop in time')),
    );
    const schemaDrift = createSchemaDrift({ ...replica, ...dataPlane, ...operations });
    const rollouts = createRollouts({ ...replica, ...dataPlane, ...operations, ...schemaDrift }, config, log, closing);
    const tenantRequests = createTenantRequests({
      ...operations,
      defaults: config.tenants.limits,
      hash: (password) => callers.passwords.hash(password, OPERATORS),
      refuseWeakPassword,
      namesOf,
    });
    const statements = createStatements({ ...replica, ...dataPlane, ...operations }, config);
    const rooms = {
      ...replica,
      ...dataPlane,
      ...callers,
      ...operations,
      ...rollouts,
      ...fleet,
      ...schemaDrift,
      ...statements,
    };
    registerReadings(metrics, readRooms({ ...rooms, housekeeping, traffic, busyTenants }, config));
    const serve = async (): Promise<void> => {
      await whenServing(rooms, config, log);
      for (const job of [...jobsOf(rooms, config, log), ...caching.cacheJobs]) housekeeping.add(job);
      // The job runs on one replica of the fleet. One of another build makes no standby databases of this build's schema.
      void housekeeping.runNow(REFILLING).catch(() => undefined);
      operations.runner.takeUp.begin();
      rollouts.rolling.begin();
      fleet.presence.begin();
      await caching.beginCaching(fleet.presence);
    };
    let serving: Promise<void> | undefined;
    return {
      ...rooms,
      tenantRequests,
      doctor: createDoctorRoom(rooms, config, { wallClock: options.wallClock }),
      readCache: caching.readCache,
      mustNotWrite: caching.mustNotWrite,
      config,
      log,
      security,
      housekeeping,
      metrics,
      instruments,
      traffic,
      busyTenants,
      serve: () => (serving ??= serve()),
      close: () => closing.close(),
    };
  } catch (error) {
    await closing.close();
    throw error;
  }
}
