// A Kysely for one request that only reads. When its client leaves, the request leaves the queues, and the statement that it runs on
// a connection of its own is cancelled.
import {
  PostgresDialect,
  type CompiledQuery,
  type ConnectionProvider,
  type DatabaseConnection,
  type Kysely,
  type QueryResult,
} from 'kysely';
import type { Requester } from '../../src/lib/requester.js';
import { databaseOver } from './client.js';
import { poolClosed } from './database-fault.js';
import { ConnectionPool } from './pool/pool.js';
import type { Session } from './pool/held-connection.js';
import { RunningKysely } from './statement.js';

type PoolNow = () => ConnectionPool | Promise<ConnectionPool>;

/**
 * Made for each request. So it shares with all others what Kysely needs to build and compile queries.
 *
 * @param pool as for `databaseOver`
 */
export function databaseFor<DB>(pool: PoolNow, requester: Requester): Kysely<DB> {
  return new RequestKysely<DB>(pool, requester);
}

/** It is asked for no connection. Its driver begins and ends transactions on a connection that it is given. */
const dialect = new PostgresDialect({
  pool: { connect: () => Promise.reject(poolClosed()), end: async () => undefined },
});
const shared = { config: { dialect }, dialect, driver: dialect.createDriver() };
const executor = databaseOver(() => Promise.reject(poolClosed())).getExecutor();

class RequestKysely<DB> extends RunningKysely<DB> {
  constructor(
    private readonly pool: PoolNow,
    private readonly requester: Requester,
  ) {
    super({ ...shared, executor: executor.withConnectionProvider(new Connections(pool, requester)) });
  }

  override read<Row>(text: string, values: readonly unknown[]): Promise<Row[]> {
    const current = this.pool();
    if (current instanceof ConnectionPool) return current.read(text, values, this.requester);
    return current.then((known) => known.read(text, values, this.requester));
  }

  override run<Row>(text: string, values: readonly unknown[]): Promise<Row[]> {
    const current = this.pool();
    if (current instanceof ConnectionPool) return current.run(text, values, this.requester);
    return current.then((known) => known.run(text, values, this.requester));
  }
}

/** Gives connections to queries that are not compiled once, and to transactions. */
class Connections implements ConnectionProvider {
  constructor(
    private readonly pool: PoolNow,
    private readonly requester: Requester,
  ) {}

  async provideConnection<T>(use: (connection: DatabaseConnection) => Promise<T>): Promise<T> {
    const session = await (await this.pool()).connect(undefined, this.requester);
    try {
      return await use(new RequestConnection(session, this.requester));
    } finally {
      session.release();
    }
  }
}

class RequestConnection implements DatabaseConnection {
  constructor(
    private readonly session: Session,
    private readonly requester: Requester,
  ) {}

  async executeQuery<Row>({ sql, parameters }: CompiledQuery): Promise<QueryResult<Row>> {
    const { command, rowCount, rows } = await this.session.runFor<Row>(this.requester, sql, parameters);
    return { rows, ...(command !== 'SELECT' && { numAffectedRows: BigInt(rowCount) }) };
  }

  streamQuery(): never {
    throw new TypeError('cursors are not supported: a page is a query of its own');
  }
}
