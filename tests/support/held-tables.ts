// A session that keeps its locks on tables, as a dump does.
import { sql } from 'kysely';
import { asSuperuser } from './app.js';

/** A lock that is held. */
export interface HeldTable {
  /** Of the session that holds it. */
  readonly pid: number;
  /** Ends the session's transaction. */
  readonly release: () => void;
}

/** Runs work while another session holds ACCESS SHARE on a table, with a snapshot. */
export async function whileHeld<T>(database: string, table: string, work: (held: HeldTable) => Promise<T>): Promise<T> {
  let release = (): void => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  let taken = (_: number): void => undefined;
  const isTaken = new Promise<number>((resolve) => (taken = resolve));
  const session = asSuperuser(database, (db) =>
    db
      .transaction()
      .setIsolationLevel('repeatable read')
      .execute(async (trx) => {
        await sql`lock table ${sql.table(table)} in access share mode`.execute(trx);
        const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(trx);
        taken(rows[0]?.pid ?? 0);
        await released;
      }),
  );
  try {
    return await work({ pid: await Promise.race([isTaken, session.then(() => 0)]), release });
  } finally {
    release();
    await session;
  }
}
