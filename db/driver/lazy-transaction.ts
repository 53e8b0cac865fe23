// One transaction for everything that a request does in its database. It begins with the first query, so that a request holds no
// connection while it does something else first, such as hashing a password.
//
// Code in it may use transactions as usual: they become savepoints. After a query outside a savepoint has failed, PostgreSQL refuses
// all others.
import type { Kysely, PostgresQueryResult } from 'kysely';
import type { Session } from './pool/held-connection.js';
import { kyselyThat, over } from './over-session.js';

export interface LazyTransaction<DB> {
  readonly db: Kysely<DB>;
  /** Commits, if it has begun. @throws the error of COMMIT: without an answer, it is not known whether it was committed */
  commit(): Promise<void>;
  /** Rolls back, if it has begun and not ended. Never rejects. */
  rollback(): Promise<void>;
}

/**
 * @param connect gives a connection that is not in a transaction
 * @param began runs first in the transaction, before the query that began it. Its error is that query's error
 */
export function lazyTransaction<DB>(
  connect: () => Promise<Session>,
  began: (db: Kysely<DB>) => Promise<void>,
): LazyTransaction<DB> {
  let opened: Promise<Session> | undefined;
  let ended = false;
  /** The queries run one after the other. */
  let last: Promise<unknown> = Promise.resolve();
  let depth = 0;

  async function open(): Promise<Session> {
    const session = await connect();
    try {
      // Without prepared statements: one that no longer fits would spoil the transaction.
      await session.run('begin', [], false);
      await began(over(session));
      return session;
    } catch (error) {
      await end(session, 'rollback').catch(() => undefined);
      throw error;
    }
  }

  async function end(session: Session, command: 'commit' | 'rollback'): Promise<void> {
    try {
      await session.run(command, [], false);
    } finally {
      session.release();
    }
  }

  async function run(text: string, values: readonly unknown[]): Promise<PostgresQueryResult<unknown>> {
    if (ended) throw new Error('the transaction of the request has ended');
    const session = await (opened ??= open());
    const answer = last.then(() => session.run(nested(text), values, false));
    last = answer.catch(() => undefined);
    return answer;
  }

  /** What Kysely sends for a transaction, as a savepoint. */
  function nested(text: string): string {
    if (text === 'begin') return `savepoint s${(depth += 1)}`;
    if (text === 'commit') return `release savepoint s${depth--}`;
    if (text === 'rollback') return `rollback to savepoint s${depth--}`;
    return text;
  }

  async function finish(command: 'commit' | 'rollback'): Promise<void> {
    if (ended) return;
    ended = true;
    const session = await opened?.catch(() => undefined);
    await last;
    if (session) await end(session, command);
  }

  return {
    db: kyselyThat(run),
    commit: () => finish('commit'),
    rollback: () => finish('rollback').catch(() => undefined),
  };
}
