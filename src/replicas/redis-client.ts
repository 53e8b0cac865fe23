// The driver's connection to Redis, with everything switched off that waits or sends again.
import { Redis } from 'ioredis';
import type { RedisSettings } from './redis-settings.js';

/** Longest time (ms) for a connection to open, TLS included, and again for what is said first on it. */
const CONNECT_TIMEOUT = 1_000;

/** Between two attempts to connect (ms): replicas that lost Redis together do not come back together. */
const RECONNECT_AFTER = { min: 50, max: 500 };

/** How long (ms) a silent connection lives before the system asks whether the other side is there. */
const KEEP_ALIVE = 10_000;

/** Connects in the background, and again whenever the connection is lost. Listen to its errors. */
export function createClient({ host, port, user, password, database, tls, timeout }: RedisSettings): Redis {
  return new Redis({
    host,
    port,
    ...(user !== undefined && { username: user }),
    ...(password !== undefined && { password }),
    db: database,
    ...(tls && { tls }),
    connectionName: 'tenantry',
    connectTimeout: CONNECT_TIMEOUT,
    // Bounds what the driver says first on a connection. Everything else has a deadline of ours, which is shorter.
    commandTimeout: timeout + CONNECT_TIMEOUT,
    disconnectTimeout: timeout,
    keepAlive: KEEP_ALIVE,
    // Nothing is kept for later, and nothing is sent again: what has no answer ends with its connection.
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    retryStrategy: () => RECONNECT_AFTER.min + Math.random() * (RECONNECT_AFTER.max - RECONNECT_AFTER.min),
    // A probe says more than INFO does, which the user need not be allowed; CLIENT SETINFO is from Redis 7.2.
    enableReadyCheck: false,
    disableClientInfo: true,
  });
}
