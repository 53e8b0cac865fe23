// The factory for Kysely over a pg Pool: connection settings, the parsing of values, and a Kysely over a pool
// (db/driver/pool/pool.ts).
import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import { isoTimestamp } from './timestamps.js';
import type { PoolLimits, PoolOptions, PoolStats } from './pool/pool-types.js';
import { ConnectionPool } from './pool/pool.js';
import { STARTUP_OPTIONS } from './session-settings.js';
import { setRunner } from './statement.js';

export type { PoolLimits } from './pool/pool-types.js';

/** The address of a database, and the role that connects to it. */
export interface ConnectionSettings {
  readonly host: string;
  readonly port: number;
  readonly database: string;
  readonly user: string;
  readonly password: string;
  /** TLS with a verified certificate and host name (libpq's verify-full); false connects in clear. */
  readonly tls: { readonly ca?: string } | false;
}

/** One Kysely over one pg Pool. */
export interface DatabaseHandle<DB> {
  readonly db: Kysely<DB>;
  /** The number of connections now, and of requests that wait for a connection. */
  stats(): PoolStats;
  /**
   * Lets running work finish, for at most `deadlineMs`, then closes every connection. Connections still in use after the
   * deadline are destroyed. Never rejects.
   */
  close(deadlineMs: number): Promise<void>;
}

/** Builds a Kysely over a pool of its own, which connects when the first query comes. */
export function createDatabase<DB>(
  connection: ConnectionSettings,
  limits: PoolLimits,
  options: PoolOptions,
): DatabaseHandle<DB> {
  const pool = openPool(connection, limits, options);
  return {
    db: databaseOver(() => pool),
    stats: () => pool.stats(),
    close: (deadlineMs) => pool.close(deadlineMs),
  };
}

/** A pool that opens its first connection when one is requested. */
export function openPool(connection: ConnectionSettings, limits: PoolLimits, options: PoolOptions): ConnectionPool {
  return new ConnectionPool(clientConfig(connection), limits, options);
}

/**
 * A Kysely that asks for its pool again for each connection. It stays valid when the pool is replaced.
 *
 * @param pool returns the current pool; if it throws or rejects, the query fails with that error
 */
export function databaseOver<DB>(pool: () => ConnectionPool | Promise<ConnectionPool>): Kysely<DB> {
  const connect = async (): ReturnType<ConnectionPool['connect']> => (await pool()).connect();
  const db = new Kysely<DB>({ dialect: new PostgresDialect({ pool: { connect, end: async () => undefined } }) });
  setRunner(db, {
    read: (text, values) => {
      const current = pool();
      if (current instanceof ConnectionPool) return current.read(text, values);
      return current.then((known) => known.read(text, values));
    },
    run: (text, values) => {
      const current = pool();
      if (current instanceof ConnectionPool) return current.run(text, values);
      return current.then((known) => known.run(text, values));
    },
  });
  return db;
}

/**
 * Time (ms) after which the operating system first probes a silent server. Then Node probes each second and gives up after ten
 * attempts (libuv sets TCP_KEEPINTVL and TCP_KEEPCNT with the delay): 15 s in all.
 */
const KEEPALIVE_DELAY = 5_000;

/** The configuration that all connections share, whatever their purpose. */
export function clientConfig({ host, port, database, user, password, tls }: ConnectionSettings): pg.ClientConfig {
  return {
    host,
    port,
    database,
    user,
    // A function, so that a printed pool or a printed error cannot contain the password.
    password: () => password,
    ssl: tls && { ...tls, rejectUnauthorized: true },
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEPALIVE_DELAY,
    options: STARTUP_OPTIONS,
    types: { getTypeParser: typeParser },
  };
}

/** Parsers per pool and not global. The binary format is never requested. */
function typeParser(oid: Parameters<typeof pg.types.getTypeParser>[0]): (text: string) => unknown {
  if (oid === pg.types.builtins.TIMESTAMPTZ) return isoTimestamp;
  return pg.types.getTypeParser(oid) as (text: string) => unknown;
}
