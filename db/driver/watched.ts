// A Kysely for one write. Until the write has changed something, each connection that it gets is checked before the first
// statement: the caller can lose its rights while the write waits for a connection.
import { Kysely, PostgresDialect, type PostgresPool, type PostgresPoolClient } from 'kysely';
import type { ConnectionPool } from './pool/pool.js';
import type { Session } from './pool/held-connection.js';
import { lazyTransaction, type LazyTransaction } from './lazy-transaction.js';
import { over } from './over-session.js';
import { setRunner } from './statement.js';
import { ClientLeft, type Requester } from '../../src/lib/requester.js';

/** The checks when a write gets a connection, or fails to get one. Both may throw as well as reject. */
export interface Watch<DB> {
  /**
   * Returns if the write may go on. If it throws, the connection is given back, then the query fails with that error.
   *
   * @param held makes a Kysely over that connection: a request never waits for a second connection while it holds one
   */
  readonly got: (held: () => Kysely<DB>) => Promise<void> | undefined;
  /** May throw a better reason than the pool's error. */
  readonly missed: () => Promise<void> | undefined;
  /** Ends the wait for a connection when it leaves, as long as the write has changed nothing. A statement is never cancelled. */
  readonly requester?: Requester | undefined;
}

/** Gives the connections of one write, checked. */
interface WatchedConnections {
  readonly connect: () => Promise<Session>;
  /** Notes a statement of the write before it is sent. */
  readonly sending: (text: string) => void;
}

/** @param pool as for `databaseOver` (db/driver/client.ts) */
function watchedConnections<DB>(
  pool: () => ConnectionPool | Promise<ConnectionPool>,
  watch: Watch<DB>,
): WatchedConnections {
  // After the first change, a refusal would claim that nothing was changed, which would be false.
  let changed = false;
  return {
    sending: (text) => {
      changed ||= !text.startsWith('select ');
    },
    connect: async () => {
      let session: Session;
      try {
        session = await (await pool()).connect(undefined, changed ? undefined : watch.requester);
      } catch (error) {
        if (!changed && !(error instanceof ClientLeft)) await watch.missed();
        throw error;
      }
      if (changed) return session;
      try {
        // Without a promise there is nothing to await: that saves a turn.
        const looking = watch.got(() => over<DB>(session));
        if (looking) await looking;
        return session;
      } catch (error) {
        session.release();
        throw error;
      }
    },
  };
}

/** @param pool as for `databaseOver` (db/driver/client.ts) */
export function watchedDatabase<DB>(
  pool: () => ConnectionPool | Promise<ConnectionPool>,
  watch: Watch<DB>,
): Kysely<DB> {
  const { connect, sending: noteStatement } = watchedConnections(pool, watch);
  const db = new Kysely<DB>({
    dialect: dialectOf(async () => {
      const session = await connect();
      return clientOf(session, noteStatement, () => {
        session.release();
      });
    }),
  });
  setRunner(db, {
    read: async (text, values) => (await pool()).read(text, values),
    async run<Row>(text: string, values: readonly unknown[]) {
      const session = await connect();
      try {
        noteStatement(text);
        return (await session.run<Row>(text, values)).rows;
      } finally {
        session.release();
      }
    },
  });
  return db;
}

/**
 * A transaction for one write, on a connection that is checked in the same way.
 *
 * @param began as for `lazyTransaction`
 */
export function watchedTransaction<DB>(
  pool: () => ConnectionPool | Promise<ConnectionPool>,
  watch: Watch<DB>,
  began: (db: Kysely<DB>) => Promise<void>,
): LazyTransaction<DB> {
  const { connect } = watchedConnections(pool, watch);
  return lazyTransaction(connect, began);
}

function dialectOf(connect: PostgresPool['connect']): PostgresDialect {
  return new PostgresDialect({ pool: { connect, end: async () => undefined } });
}

function clientOf(session: Session, sending: (text: string) => void, release: () => void): PostgresPoolClient {
  return {
    query: ((text: string, values: readonly unknown[]) => {
      sending(text);
      return session.query(text, values);
    }) as PostgresPoolClient['query'],
    release,
  };
}
