// The driver's connection to Redis. Every feature of the driver that waits or sends again is switched off.
import { Redis } from 'ioredis';
import type { RedisSettings } from './redis-settings.js';

/** Longest time (ms) to open a connection, TLS included, and again for the first commands on it. */
const CONNECT_TIMEOUT = 1_000;

/** Time (ms) between two attempts to connect. It is random: replicas that lost Redis together must not return together. */
const RECONNECT_AFTER = { min: 50, max: 500 };

/** After this long (ms) of silence on a connection, the system checks whether the other side is still there. */
const KEEP_ALIVE = 10_000;

/** Connects in the background, and again when the connection is lost. The caller must listen to the client's errors. */
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
    // This bounds the driver's first commands on a connection. All other commands have our own, shorter deadline.
    commandTimeout: timeout + CONNECT_TIMEOUT,
    disconnectTimeout: timeout,
    keepAlive: KEEP_ALIVE,
    // The driver keeps nothing for later, and sends nothing again. A command without an answer ends with its connection.
    enableOfflineQueue: false,
    autoResendUnfulfilledCommands: false,
    maxRetriesPerRequest: 0,
    retryStrategy: () => RECONNECT_AFTER.min + Math.random() * (RECONNECT_AFTER.max - RECONNECT_AFTER.min),
    // A probe shows more than INFO does, and the user may not be allowed to use INFO. CLIENT SETINFO needs Redis 7.2.
    enableReadyCheck: false,
    disableClientInfo: true,
  });
}
