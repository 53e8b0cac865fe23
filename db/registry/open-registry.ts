// The pools to the registry. Each refuses a standby and a read-only registry, and its connections are retired when the registry
// moves to another server.
import type { Registry } from './registry-schema.js';
import {
  databaseOver,
  openPool,
  type ConnectionSettings,
  type DatabaseHandle,
  type PoolLimits,
} from '../driver/client.js';
import type { Destinations } from '../driver/destinations.js';
import type { PoolOptions } from '../driver/pool/pool-types.js';
import type { ConnectionPool } from '../driver/pool/pool.js';
import { proveWritable } from '../driver/proof.js';

type RegistryPoolOptions = Pick<PoolOptions, 'applicationName' | 'preparedStatements' | 'onConnectionLost'>;

/** A pool to the registry. It opens its first connection when one is requested. */
export function openRegistryPool(
  connection: ConnectionSettings,
  limits: PoolLimits,
  options: RegistryPoolOptions,
  destinations?: Destinations,
): ConnectionPool {
  return openPool(connection, limits, { ...options, prove: proveWritable, destinations });
}

/** A pool to the registry, with a Kysely over it. */
export function openRegistry(
  connection: ConnectionSettings,
  limits: PoolLimits,
  options: RegistryPoolOptions,
  destinations?: Destinations,
): DatabaseHandle<Registry> {
  const pool = openRegistryPool(connection, limits, options, destinations);
  return {
    db: databaseOver(() => pool),
    stats: () => pool.stats(),
    close: (deadlineMs) => pool.close(deadlineMs),
  };
}
