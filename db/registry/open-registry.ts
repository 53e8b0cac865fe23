// The pools to the registry: every one of them refuses a standby and a registry that takes no writes, and is retired when the
// registry moves.
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

/** Connects to nothing until it is asked for a connection. */
export function openRegistryPool(
  connection: ConnectionSettings,
  limits: PoolLimits,
  options: RegistryPoolOptions,
  destinations?: Destinations,
): ConnectionPool {
  return openPool(connection, limits, { ...options, prove: proveWritable, destinations });
}

/** The same with a Kysely over it. */
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
