// A session that keeps its locks on tables, as a dump does, and sessions that wait for a table.
import { sql, type Kysely } from 'kysely';
import { expect, inject } from 'vitest';
import type { TestCluster } from './cluster.js';
import { connectTo } from './service.js';

/** A lock that is held. */
export interface HeldTable {
  /** Of the session that holds it. */
  readonly pid: number;
  /** Ends the session's transaction. */
  readonly release: () => void;
}

/** Runs work while another session holds ACCESS SHARE on a table or view, with a snapshot. */
export async function whileHeld<T>(
  database: string,
  table: string,
  work: (held: HeldTable) => Promise<T>,
  cluster: TestCluster = inject('cluster'),
): Promise<T> {
  let release = (): void => undefined;
  const released = new Promise<void>((resolve) => (release = resolve));
  let taken = (_: number): void => undefined;
  const isTaken = new Promise<number>((resolve) => (taken = resolve));
  const holder = connectTo<unknown>(cluster, database);
  const session = holder.db
    .transaction()
    .setIsolationLevel('repeatable read')
    .execute(async (trx) => {
      await sql`lock table ${sql.table(table)} in access share mode`.execute(trx);
      const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(trx);
      taken(rows[0]?.pid ?? 0);
      await released;
    })
    .finally(() => holder.close(0));
  try {
    return await work({ pid: await Promise.race([isTaken, session.then(() => 0)]), release });
  } finally {
    release();
    await session;
  }
}

/** Waits until a session waits for its lock on a table of this database. */
export async function untilWaitedFor(db: Kysely<unknown>, table: string): Promise<void> {
  await expect
    .poll(
      async () => {
        const { rows } = await sql`
          select from pg_locks where not granted and relation = ${table}::regclass
            and database = (select oid from pg_database where datname = current_database())`.execute(db);
        return rows.length;
      },
      { timeout: 30_000, interval: 5 },
    )
    .toBeGreaterThan(0);
}
