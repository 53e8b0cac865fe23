// The locks of this process in the registry, all on one connection. They are advisory locks of a session, so all of them are free
// as soon as the process is dead, or the connection is lost. The work under a lock may then go on while another process takes the
// lock: nothing may depend on the lock alone.
import { sql, type Kysely } from 'kysely';
import { DatabaseFault } from '../driver/database-fault.js';
import type { Registry } from './registry-schema.js';

export interface LockSession {
  /**
   * Runs `work` while this process holds the lock of that name, or not at all if any process, also this one, holds it.
   *
   * @returns the result of `work`; undefined if it did not run
   * @throws DatabaseFault if the registry does not answer; errors of `work`
   */
  attempt<T>(name: string, work: (held: HeldLock) => Promise<T>): Promise<{ readonly result: T } | undefined>;
  /** Gives up the connection. Locks that are held are then free, although their work may go on. Never rejects. */
  close(): Promise<void>;
}

export interface HeldLock {
  /** Whether the connection of the lock is lost, so that another process may have taken the lock. */
  readonly lost: boolean;
}

/** The connection, while it lasts. */
interface Session {
  /** One statement at a time. */
  ask<T>(statement: (db: Kysely<Registry>) => Promise<T>): Promise<T>;
  lost: boolean;
  end(): void;
}

/** Time (ms) between two looks whether the connection still answers. */
const LOOK_EVERY = 2_000;

/**
 * @param registry a pool of one connection, whose statements have a short deadline
 * @param onLost called with the error when the connection was lost while locks were held
 */
export function createLockSession(registry: Kysely<Registry>, onLost: (error: unknown) => void): LockSession {
  /** Names that this process holds or is asking for: one session may take the same lock twice. */
  const mine = new Set<string>();
  let opening: Promise<Session> | undefined;
  let timer: NodeJS.Timeout | undefined;
  let closed = false;

  function open(): Promise<Session> {
    const opened = new Promise<Session>((resolve, reject) => {
      registry
        .connection()
        .execute(async (db) => {
          // Connects now. A pool may hand out a connection that has locks of an earlier session.
          await sql`select pg_advisory_unlock_all()`.execute(db);
          let end: () => void = () => undefined;
          const ended = new Promise<void>((stop) => (end = stop));
          let last: Promise<unknown> = Promise.resolve();
          const session: Session = {
            lost: false,
            ask: (statement) => {
              const answer = last.then(() => {
                if (session.lost) throw new DatabaseFault('unavailable', 'connection lost');
                return statement(db);
              });
              last = answer.then(undefined, () => undefined);
              return answer;
            },
            end,
          };
          resolve(session);
          await ended;
          await last;
          await sql`select pg_advisory_unlock_all()`.execute(db).catch(() => undefined);
        })
        .catch((error: unknown) => {
          reject(error instanceof Error ? error : new Error('no connection for locks'));
        });
    });
    opened.catch(() => {
      if (opening === opened) opening = undefined;
    });
    return opened;
  }

  /** Asks on the connection. A failed statement ends the session: its locks count as lost. */
  async function asked<T>(session: Session, statement: (db: Kysely<Registry>) => Promise<T>): Promise<T> {
    try {
      return await session.ask(statement);
    } catch (error) {
      if (!session.lost) {
        session.lost = true;
        opening = undefined;
        session.end();
        if (mine.size > 0 && !closed) onLost(error);
      }
      throw error;
    }
  }

  /** @returns undefined if another process holds the lock */
  async function take(name: string): Promise<Session | undefined> {
    for (let again = false; ; again = true) {
      const session = await (opening ??= open());
      try {
        const { rows } = await asked(session, (db) =>
          sql<{ taken: boolean }>`select pg_try_advisory_lock(hashtextextended(${name}, 0)) as taken`.execute(db),
        );
        return rows[0]?.taken ? session : undefined;
      } catch (error) {
        // The connection may have been lost long before: a new one may work.
        if (again) throw error;
      }
    }
  }

  function watch(session: Session): void {
    if (timer) return;
    timer = setTimeout(() => {
      timer = undefined;
      if (session.lost || closed || mine.size === 0) return;
      void asked(session, (db) => sql`select 1`.execute(db)).then(
        () => {
          watch(session);
        },
        () => undefined,
      );
    }, LOOK_EVERY);
    timer.unref();
  }

  return {
    async attempt(name, work) {
      if (closed) throw new DatabaseFault('unavailable', 'the locks are closed');
      if (mine.has(name)) return undefined;
      mine.add(name);
      try {
        const session = await take(name);
        if (!session) return undefined;
        watch(session);
        try {
          return { result: await work(session) };
        } finally {
          if (!session.lost)
            await asked(session, (db) =>
              sql`select pg_advisory_unlock(hashtextextended(${name}, 0))`.execute(db),
            ).catch(() => undefined);
        }
      } finally {
        mine.delete(name);
      }
    },

    async close() {
      closed = true;
      clearTimeout(timer);
      const session = await opening?.catch(() => undefined);
      session?.end();
    },
  };
}
