// The pools to the registry: every one of them refuses a standby and a registry that takes no writes, and is retired when the
// registry moves.
import type { Registry } from '../db/central/schema.js';
import { createDatabase, type ConnectionSettings, type DatabaseHandle, type PoolLimits } from '../db/client.js';
import type { Destinations } from '../db/destinations.js';
import type { PoolOptions } from '../db/pool.js';
import { proveWritable } from '../db/proof.js';

/** Connects to nothing until the first query. */
export function openRegistry(
  connection: ConnectionSettings,
  limits: PoolLimits,
  options: Pick<PoolOptions, 'applicationName' | 'preparedStatements' | 'onConnectionLost'>,
  destinations?: Destinations,
): DatabaseHandle<Registry> {
  return createDatabase<Registry>(connection, limits, { ...options, prove: proveWritable, destinations });
}
