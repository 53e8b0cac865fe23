// What this process shares with the other replicas: the registry, the feed of changes, and Redis if it is configured.
import type { Logger } from 'pino';
import { randomBytes } from 'node:crypto';
import type { Kysely } from 'kysely';
import { findInstallationId } from '../../db/registry/installation.js';
import { createLockSession, type LockSession } from '../../db/registry/lock-session.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { createDestinations, type Connected, type Destinations, type Resolver } from '../../db/driver/destinations.js';
import type { ConnectionPool } from '../../db/driver/pool/pool.js';
import { within } from '../lib/deadline.js';
import type { Config } from '../config/index.js';
import { openEvents, type Events } from '../replicas/events.js';
import { Counts } from '../replicas/counts.js';
import { openSharedStore, type OpenedStore } from '../replicas/shared-store.js';
import type { Closing } from './closing.js';
import { openRegistryConnections, type RegistryConnections } from './registry-connections.js';

export interface Replica {
  /** The id of this start of the process. Its connections to clusters carry the id at the end of their application_name. */
  readonly replicaId: string;
  /** Retires connections that are old, or that lead to the wrong server after a failover. */
  readonly destinations: Destinations;
  /** Calls `listener` with each new connection to PostgreSQL that accepts writes. */
  readonly onConnected: (listener: (connected: Connected) => void) => void;
  readonly registry: Kysely<Registry>;
  /** The pool that `registry` uses. */
  readonly registryPool: ConnectionPool;
  readonly registryConnections: RegistryConnections;
  /** The installation's id, which is stored in its databases. */
  readonly installation: () => Promise<string>;
  /** What limits are counted in: this process alone, or the shared store for all replicas together. */
  readonly counts: Counts;
  readonly events: Events;
  /** The locks of this process: jobs, and subjects of operations. */
  readonly lockSession: LockSession;
  /** Undefined without REDIS_URL. */
  readonly sharedStore: OpenedStore | undefined;
}

/** How long (ms) the start waits for Redis, so that a running Redis is used from the first request on. */
const REDIS_DEADLINE = 300;

/** @param resolve resolves the names of PostgreSQL servers, instead of the system */
export async function openReplica(
  config: Config,
  log: Logger,
  closing: Closing,
  resolve: Resolver | undefined,
): Promise<Replica> {
  const counts = new Counts();
  closing.add('counts', () => {
    counts.close();
  });
  const connectionListeners: ((connected: Connected) => void)[] = [];
  const destinations = createDestinations({
    maxAge: config.connectionMaxAge,
    resolve,
    onRetire: (retirement) => {
      log.warn(retirement, 'retired the connections to a server that moved or takes no writes');
    },
    onConnected: (connected) => {
      for (const listener of connectionListeners) listener(connected);
    },
  });
  closing.add('destinations', () => {
    destinations.close();
  });
  const connections = openRegistryConnections(config, destinations, ({ reason }) => {
    log.warn({ reason }, 'lost an idle connection to the registry');
  });
  closing.add('registry', () => connections.close('requests'));
  closing.add('publisher', () => connections.close('publisher'));
  closing.add('status', () => connections.close('status'));
  const lockSession = createLockSession(connections.locks, (err) => {
    log.warn({ err }, 'lost the connection of the locks: other replicas may take over what this replica works on');
  });
  closing.add('locks', async () => {
    await lockSession.close();
    await connections.close('locks');
  });
  const { connection, pool } = config.registry;
  const { connectTimeout } = pool;
  const events = openEvents(connection, connections.publisher, { connectTimeout, destinations });
  closing.add('events', () => {
    events.close();
  });
  events.subscribe((change) => {
    log.debug(change, 'heard of a change');
  });
  let known: string | undefined;
  const installation = async (): Promise<string> => (known ??= await findInstallationId(connections.requests));
  return {
    replicaId: randomBytes(6).toString('hex'),
    destinations,
    onConnected: (listener) => {
      connectionListeners.push(listener);
    },
    registry: connections.requests,
    registryPool: connections.requestPool,
    registryConnections: connections,
    installation,
    counts,
    events,
    lockSession,
    sharedStore: await openStore(config.redis, installation, counts, log, closing),
  };
}

/** After REDIS_DEADLINE the start continues without Redis, and no request waits for Redis. */
async function openStore(
  config: Config['redis'],
  installation: () => Promise<string>,
  counts: Counts,
  log: Logger,
  closing: Closing,
): Promise<OpenedStore | undefined> {
  if (!config) return undefined;
  const { host, port } = config;
  const store = openSharedStore(config, {
    installation,
    onChange: (available, reason) => {
      if (available) log.info({ host, port }, 'Redis is available');
      else log.warn({ host, port, reason }, 'Redis is not available: this replica continues without it');
    },
  });
  closing.add('Redis', () => store.close());
  counts.share(store);
  await within(store.settled, REDIS_DEADLINE, () => new Error('late')).catch(() => undefined);
  return store;
}
