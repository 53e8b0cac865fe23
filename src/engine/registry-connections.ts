// Every connection of this process to the registry: the purpose of each pool, its size, and why it is separate from the others.
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/registry/registry-schema.js';
import { LOCK_TIMEOUT } from '../../db/registry/slot-lease-queries.js';
import { databaseOver } from '../../db/driver/client.js';
import type { Destinations } from '../../db/driver/destinations.js';
import type { DatabaseFault } from '../../db/driver/database-fault.js';
import type { PoolStats } from '../../db/driver/pool/pool-types.js';
import type { ConnectionPool } from '../../db/driver/pool/pool.js';
import type { Config } from '../config/index.js';
import { openRegistryPool } from '../../db/registry/open-registry.js';

/*
 * | pool      | connections         | reason                                                                                  |
 * | --------- | ------------------- | --------------------------------------------------------------------------------------- |
 * | requests  | `REGISTRY_POOL_MAX` | Operators' requests, tenant rows that are not cached, and queries of jobs.              |
 * | leases    | 2                   | Leases of connection slots are renewed while requests use all other connections.        |
 * | publisher | 1                   | Changes are published while requests use all other connections. Batches follow in turn. |
 * | locks     | 1                   | All advisory locks of the process (db/registry/lock-session.ts): free when it is dead.  |
 * | status    | 2                   | Replicas show that they live, and operators see the fleet, while requests use all other  |
 * |           |                     | connections. A slow count must not delay leases or changes, so it shares no pool with    |
 * |           |                     | them. One more, so that a table that is locked does not delay the beat of the replica.   |
 * | feed      | 1                   | LISTEN needs a connection of its own (src/replicas/feed.ts).                            |
 *
 * A replica that starts has one more for a moment: the check that the registry is migrated (src/boot/index.ts).
 */
/** A change of a lease waits for LOCK_TIMEOUT at most. */
const LEASES = { max: 2, timeout: LOCK_TIMEOUT + 500, idleTimeoutMillis: 60_000 };
const STATUS = { max: 2, timeout: 1_500, idleTimeoutMillis: 15_000 };
const PUBLISHER = { max: 1, timeout: 1_000, idleTimeoutMillis: 60_000 };

const LOCKS = { max: 1, timeout: 1_500, idleTimeoutMillis: 60_000 };

/** Longest wait (ms) for running queries when the process stops. */
const CLOSE_DEADLINES = { requests: 10_000, leases: 1_000, publisher: 0, locks: 1_000, status: 0 };

type Name = keyof typeof CLOSE_DEADLINES;

export interface RegistryConnections extends Readonly<Record<Name, Kysely<Registry>>> {
  /** The pool that `requests` uses. */
  readonly requestPool: ConnectionPool;
  stats(): Readonly<Record<Name, PoolStats>>;
  close(name: Name): Promise<void>;
}

/** Opens no connection until a pool is first asked for one. */
export function openRegistryConnections(
  config: Config,
  destinations: Destinations,
  onConnectionLost: (fault: DatabaseFault) => void,
): RegistryConnections {
  const { connection, pool } = config.registry;
  const { connectTimeout } = pool;
  const { preparedStatements } = config.tenants;
  /** Work that does not get a connection within the deadline is given up: another replica or the next attempt does it. */
  const brief = { connectTimeout, acquireTimeout: connectTimeout };
  const pools: Record<Name, ConnectionPool> = {
    requests: openRegistryPool(
      connection,
      pool,
      { applicationName: 'tenantry registry', preparedStatements, onConnectionLost },
      destinations,
    ),
    leases: openRegistryPool(
      connection,
      { ...LEASES, ...brief },
      { applicationName: 'tenantry leases', preparedStatements },
      destinations,
    ),
    publisher: openRegistryPool(
      connection,
      { ...PUBLISHER, ...brief },
      { applicationName: 'tenantry publisher', preparedStatements: true },
      destinations,
    ),
    status: openRegistryPool(
      connection,
      { ...STATUS, ...brief },
      { applicationName: 'tenantry status', preparedStatements },
      destinations,
    ),
    locks: openRegistryPool(
      connection,
      { ...LOCKS, ...brief },
      { applicationName: 'tenantry locks', preparedStatements: false },
      destinations,
    ),
  };
  const over = (name: Name): Kysely<Registry> => databaseOver<Registry>(() => pools[name]);
  return {
    requestPool: pools.requests,
    requests: over('requests'),
    leases: over('leases'),
    publisher: over('publisher'),
    locks: over('locks'),
    status: over('status'),
    stats: () => ({
      requests: pools.requests.stats(),
      leases: pools.leases.stats(),
      publisher: pools.publisher.stats(),
      locks: pools.locks.stats(),
      status: pools.status.stats(),
    }),
    close: (name) => pools[name].close(CLOSE_DEADLINES[name]),
  };
}
