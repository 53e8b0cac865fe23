// Work without a deadline for its statements, such as CREATE INDEX CONCURRENTLY on a large table.
import { sql, type Kysely } from 'kysely';

/**
 * After this statement, a session waits for each answer as long as the connection lives. Keepalives notice a server that is gone.
 * The comment tells it from the same statement of anybody else, after which this side keeps its own deadline.
 */
export const LIFT_DEADLINE = 'set statement_timeout = 0 -- and no deadline of the client';

/** Gives a session the deadline of its pool again. */
export const RESTORE_DEADLINE = 'reset statement_timeout -- and the deadline of the client';

/** @param connection a Kysely over one connection, from `db.connection()` */
export async function withoutDeadline<DB, T>(connection: Kysely<DB>, work: () => Promise<T>): Promise<T> {
  await sql.raw(LIFT_DEADLINE).execute(connection);
  try {
    return await work();
  } finally {
    // It fails on a connection that is lost, or in an open transaction. The pool hands out neither again.
    await sql
      .raw(RESTORE_DEADLINE)
      .execute(connection)
      .catch(() => undefined);
  }
}
