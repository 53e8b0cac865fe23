// The Kysely + pg Pool factory, and the only place that imports pg's Pool. What pg and Kysely leave open is closed here
// once: statements get names, a client in doubt never goes back to the pool, and every wait has an end.
import { createHash } from 'node:crypto';
import {
  Kysely,
  PostgresDialect,
  type PostgresCursor,
  type PostgresPoolClient,
  type PostgresQueryResult,
} from 'kysely';
import pg from 'pg';
import { connectFault, DatabaseFault, statementFault } from './errors.js';

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

/** Bounds of one pool. All times in milliseconds. */
export interface PoolLimits {
  /** Most connections open at once. */
  readonly max: number;
  /** Longest wait for a connection, its handshake included. */
  readonly acquireTimeout: number;
  /** Longest run of one statement, enforced by the server; the client gives up one second later. */
  readonly timeout: number;
  /** An unused connection closes after this time. */
  readonly idleTimeoutMillis: number;
}

export interface DatabaseOptions {
  /** Shown in pg_stat_activity. */
  readonly applicationName: string;
  /** Use named prepared statements; false for poolers that cannot track them. */
  readonly preparedStatements: boolean;
  /** Told when an idle connection is lost. */
  readonly onConnectionLost?: (fault: DatabaseFault) => void;
}

/** One Kysely over one pg Pool. */
export interface DatabaseHandle<DB> {
  readonly db: Kysely<DB>;
  /** Connections right now, and requests that wait for one. */
  stats(): { total: number; idle: number; waiting: number };
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
  options: DatabaseOptions,
): DatabaseHandle<DB> {
  const pool = new SafePool(connection, limits, options);
  const db = new Kysely<DB>({ dialect: new PostgresDialect({ pool }) });
  return { db, stats: () => pool.stats(), close: (deadlineMs) => pool.close(deadlineMs) };
}

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
    // ISO dates in UTC are what the timestamp parser below expects; the check interval ends statements whose client is gone.
    options: '-c TimeZone=UTC -c DateStyle=ISO -c client_connection_check_interval=5000',
    types: { getTypeParser: typeParser },
  };
}

/** Requests that may wait for a connection, per connection of the pool: more are refused at once instead of piling up. */
const WAITING_PER_CONNECTION = 100;

/** The client's own deadline lies this much (ms) after the server's, which therefore fires first where it can. */
const QUERY_TIMEOUT_MARGIN = 1_000;

/** Longest wait (ms) for connections that close() has cut to be given back. */
const CLOSE_MARGIN = 1_000;

/** pg's Pool as Kysely sees it, with the failure modes closed that pg and Kysely leave open between them. */
class SafePool {
  readonly #pool: pg.Pool;
  readonly #clients = new WeakMap<pg.PoolClient, SafeClient>();
  /** Connections that exist, so that close() can destroy what does not come back. */
  readonly #open = new Set<pg.PoolClient>();
  readonly #maxWaiting: number;
  readonly #prepared: boolean;
  #closing: Promise<void> | undefined;
  /** Set when close() waits no longer: a connection that is ready only now is not handed out any more. */
  #cut = false;

  constructor(connection: ConnectionSettings, limits: PoolLimits, options: DatabaseOptions) {
    this.#maxWaiting = limits.max * WAITING_PER_CONNECTION;
    this.#prepared = options.preparedStatements;
    this.#pool = new pg.Pool({
      ...clientConfig(connection),
      max: limits.max,
      connectionTimeoutMillis: limits.acquireTimeout,
      idleTimeoutMillis: limits.idleTimeoutMillis,
      statement_timeout: limits.timeout,
      query_timeout: limits.timeout + QUERY_TIMEOUT_MARGIN,
      idle_in_transaction_session_timeout: limits.timeout,
      application_name: options.applicationName,
    });
    this.#pool.on('error', (error) => options.onConnectionLost?.(connectFault(error)));
    this.#pool.on('connect', (client) => {
      this.#open.add(client);
      // A backend that dies between two queries of a transaction raises 'error' on the client, which the pool does not
      // listen to while it is checked out: without this the process would end. The next query reports the loss.
      client.on('error', () => undefined);
    });
    this.#pool.on('remove', (client) => this.#open.delete(client));
  }

  async connect(): Promise<PostgresPoolClient> {
    if (this.#pool.waitingCount >= this.#maxWaiting)
      throw new DatabaseFault('busy', 'too many requests wait for a connection');
    let client: pg.PoolClient;
    try {
      client = await this.#pool.connect();
    } catch (error) {
      throw connectFault(error);
    }
    if (this.#cut) {
      client.release(true);
      throw poolClosed();
    }
    let safe = this.#clients.get(client);
    if (!safe) {
      safe = new SafeClient(client, this.#prepared);
      this.#clients.set(client, safe);
    }
    safe.checkOut();
    return safe;
  }

  /** Kysely's destroy() comes here. */
  end(): Promise<void> {
    return this.close(0);
  }

  stats(): { total: number; idle: number; waiting: number } {
    return { total: this.#pool.totalCount, idle: this.#pool.idleCount, waiting: this.#pool.waitingCount };
  }

  close(deadlineMs: number): Promise<void> {
    this.#closing ??= this.#close(deadlineMs);
    return this.#closing;
  }

  async #close(deadlineMs: number): Promise<void> {
    const deadline = performance.now() + deadlineMs;
    // pool.end() would leave waiting requests without an answer and wait for ever for a client that never returns.
    const inUse = (): boolean => this.#pool.waitingCount > 0 || this.#pool.idleCount < this.#pool.totalCount;
    while (inUse() && performance.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 10));
    this.#cut = true;
    const ended = this.#pool.end();
    for (const client of this.#open) this.#clients.get(client)?.cut();
    // Whoever sits between two statements of a transaction gives its client back when it asks for the next one, and not
    // before: the connection is gone, and nobody waits for that.
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<void>((resolve) => (timer = setTimeout(resolve, CLOSE_MARGIN)));
    await Promise.race([ended, late]).finally(() => {
      clearTimeout(timer);
    });
  }
}

/** A checked-out pg client as Kysely sees it. */
class SafeClient implements PostgresPoolClient {
  #running = 0;
  #checkedOut = false;
  /** What went wrong when the connection's state is no longer known. */
  #doubt: Error | undefined;

  constructor(
    private readonly client: pg.PoolClient,
    private readonly prepared: boolean,
  ) {}

  checkOut(): void {
    this.#checkedOut = true;
  }

  query<R>(text: string, values: readonly unknown[]): Promise<PostgresQueryResult<R>>;
  query<R>(cursor: PostgresCursor<R>): PostgresCursor<R>;
  query<R>(
    text: string | PostgresCursor<R>,
    values: readonly unknown[] = [],
  ): Promise<PostgresQueryResult<R>> | PostgresCursor<R> {
    if (typeof text !== 'string') throw new TypeError('cursors are not supported: a page is a query of its own');
    return this.#run<R>(text, values);
  }

  async #run<R>(text: string, values: readonly unknown[]): Promise<PostgresQueryResult<R>> {
    // Behind a statement that got no answer the ROLLBACK would wait for the whole deadline a second time, and its error
    // would hide the first one.
    if (this.#doubt) throw this.#doubt;
    const name = this.prepared ? statementName(text) : undefined;
    this.#running += 1;
    try {
      // pg copies nothing and changes nothing in `values`; Kysely hands over a fresh array.
      const result = await this.client.query({ ...(name && { name }), text, values: values as unknown[] });
      // The server answers COMMIT of a failed transaction with ROLLBACK and no error: the write would be acknowledged and lost.
      if (text === 'commit' && result.command !== 'COMMIT')
        throw new DatabaseFault('unavailable', 'the transaction had failed and was rolled back');
      return result as unknown as PostgresQueryResult<R>;
    } catch (error) {
      const thrown = statementFault(error) ?? (error as Error);
      // After a timeout the answer may still arrive and would be read as the next query's; after DDL a named statement's
      // result type may not match for as long as the connection lives (0A000).
      if (!isAnswered(error) || (name && error.code === '0A000')) this.#doubt ??= thrown;
      throw thrown;
    } finally {
      this.#running -= 1;
    }
  }

  /** Back to the pool, unless a statement still runs, a transaction is still open, or the connection is in doubt. */
  release(): void {
    const clean = !this.#doubt && this.#running === 0 && this.client.getTransactionStatus() === 'I';
    this.#checkedOut = false;
    this.client.release(!clean);
  }

  /** Cuts the connection of whoever outlived the pool. */
  cut(): void {
    if (!this.#checkedOut) return;
    this.#doubt ??= poolClosed();
    (this.client as pg.PoolClient & { connection: pg.Connection }).connection.stream.destroy();
  }
}

function poolClosed(): DatabaseFault {
  return new DatabaseFault('unavailable', 'the pool was closed');
}

/** Whether the server itself answered with an error, after which the connection is usable again. */
function isAnswered(error: unknown): error is pg.DatabaseError {
  return error instanceof pg.DatabaseError && error.severity === 'ERROR';
}

/** Shapes of statement that get a name, at most, in this process: pg never frees a name on a connection. */
const MAX_NAMED_STATEMENTS = 500;
const names = new Map<string, string>();

/**
 * The prepared statement's name for a SQL text, or undefined where it stays unnamed: DDL and transaction control, and
 * everything past the bound.
 */
function statementName(text: string): string | undefined {
  const known = names.get(text);
  if (known) return known;
  if (names.size >= MAX_NAMED_STATEMENTS || !/^(?:select|insert|update|delete|with)\b/.test(text)) return undefined;
  const name = createHash('sha256').update(text).digest('base64url').slice(0, 22);
  names.set(text, name);
  return name;
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
  const match = /^(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,3}))?\+00$/.exec(text);
  if (!match) return new Date(text).toISOString();
  const [, date = '', time = '', fraction = ''] = match;
  return `${date}T${time}.${fraction.padEnd(3, '0')}Z`;
}
