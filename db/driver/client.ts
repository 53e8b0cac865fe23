// The Kysely + pg Pool factory: where connections go, how their values are read, and a Kysely over a pool (db/driver/pool/pool.ts).
import { Kysely, PostgresDialect } from 'kysely';
import pg from 'pg';
import type { PoolLimits, PoolOptions, PoolStats } from './pool/pool-types.js';
import { ConnectionPool } from './pool/pool.js';
import { setRunner } from './statement.js';

export type { PoolLimits } from './pool/pool-types.js';

/** Where a database is and who enters it. */
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
  /** Connections right now, and requests that wait for one. */
  stats(): PoolStats;
  /**
   * Lets running work finish, at most `deadlineMs`, then closes every connection. Never rejects: what is left over when
   * the time is up is destroyed.
   */
  close(deadlineMs: number): Promise<void>;
}

/** Builds a Kysely over a pool of its own. Connects to nothing until the first query. */
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

/** A pool that connects to nothing until it is asked for a connection. */
export function openPool(connection: ConnectionSettings, limits: PoolLimits, options: PoolOptions): ConnectionPool {
  return new ConnectionPool(clientConfig(connection), limits, options);
}

/**
 * A Kysely that asks for its pool anew for each connection, so that it stays valid while the pool beneath is replaced.
 *
 * @param pool the pool of this moment; what it throws or rejects with is what the query fails with
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
 * When (ms) the operating system asks about a silent server for the first time. Node then asks each second and gives up after ten
 * attempts (libuv sets TCP_KEEPINTVL and TCP_KEEPCNT with the delay): 15 s in all.
 */
const KEEPALIVE_DELAY = 5_000;

/** Set at the start of every session; each is one that any role may set for itself. */
const SESSION_SETTINGS = Object.entries({
  // ISO dates in UTC are what `typeParser` expects.
  TimeZone: 'UTC',
  DateStyle: 'ISO',
  // ms: ends a statement whose client is gone.
  client_connection_check_interval: 5_000,
  // Seconds, and a count: a session whose host vanished without a word ends after 20 s, with its locks. The default is two hours.
  tcp_keepalives_idle: 5,
  tcp_keepalives_interval: 5,
  tcp_keepalives_count: 3,
  // ms: the same for a session that has sent something, about which keepalives do not ask.
  tcp_user_timeout: 20_000,
  // Pools close what is idle. A server that does so would fail the request that takes the connection at that moment (57P05).
  idle_session_timeout: 0,
})
  .map(([name, value]) => `-c ${name}=${value}`)
  .join(' ');

/** What every connection has in common, whatever it is for. */
export function clientConfig({ host, port, database, user, password, tls }: ConnectionSettings): pg.ClientConfig {
  return {
    host,
    port,
    database,
    user,
    // A function, so that neither a printed pool nor a printed error can hold the password.
    password: () => password,
    ssl: tls && { ...tls, rejectUnauthorized: true },
    keepAlive: true,
    keepAliveInitialDelayMillis: KEEPALIVE_DELAY,
    options: SESSION_SETTINGS,
    types: { getTypeParser: typeParser },
  };
}

/** Types per pool and not global; the binary format is never asked for. */
function typeParser(oid: Parameters<typeof pg.types.getTypeParser>[0]): (text: string) => unknown {
  if (oid === pg.types.builtins.TIMESTAMPTZ) return isoTimestamp;
  return pg.types.getTypeParser(oid) as (text: string) => unknown;
}

/**
 * PostgreSQL's `2026-01-31 09:30:00.25+00` as ISO 8601 UTC with milliseconds, `2026-01-31T09:30:00.250Z`. Rewriting the
 * text is several times cheaper than a Date; unusual input (microseconds, five-digit years, other zones) takes the Date.
 *
 * @throws RangeError for what has no such form: infinity, and years BC
 */
export function isoTimestamp(text: string): string {
  // `2026-01-31 09:30:00+00` has 22 characters, and up to four more with a fraction. A year of five digits moves the dashes.
  const usual = text.length <= 26 && text[4] === '-' && text[10] === ' ' && text.endsWith('+00');
  const missing = usual ? missingDigits[text.length - 22] : undefined;
  if (missing === undefined) return new Date(text).toISOString();
  return `${text.slice(0, 10)}T${text.slice(11, -3)}${missing}Z`;
}

/** What a fraction of none, one, two or three digits lacks, by how much longer than without one the text is. */
const missingDigits = ['.000', undefined, '00', '0', ''] as const;
