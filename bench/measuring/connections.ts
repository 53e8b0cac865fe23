// How many connections a PostgreSQL server opened while something was measured, and how many were open at most. The server itself
// counts them, so the figures do not depend on the service.
import { sql } from 'kysely';
import { open, stat } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cluster } from '../stage/cluster.js';

export interface ConnectionCounts {
  /** Connections to tenant databases, opened within the measured time. */
  readonly opened: number;
  /** Maximum of simultaneous connections of tenants' roles, from the start of the watch to its end. */
  readonly most: number;
}

/** Call them at the start and at the end of the measured time. */
export interface Edges {
  readonly onBegin: () => void;
  readonly onEnd: () => void;
}

/** Pause (ms) between two samples: with the query itself, samples are less than 50 ms apart. */
const PAUSE = 30;

/** PostgreSQL writes its log a moment after the connection is made. */
const LOG_DELAY = 200;

/**
 * Watches a cluster's connections while `work` runs. The connections of the benchmark, the registry and the provisioner do not
 * count: the provisioner's belong to the reserve. A connection counts when it has reached a database; during its handshake it is
 * in no database yet.
 *
 * @param cluster started with `log_connections`: only its log counts every opened connection
 */
export async function watchConnections<T>(
  cluster: Cluster,
  work: (edges: Edges) => Promise<T>,
): Promise<{ readonly result: T; readonly counts: ConnectionCounts }> {
  const over = new AbortController();
  const sampling = sampleMost(cluster, over.signal);
  // The result is read after the work, which an early failure must not cut short.
  sampling.catch(() => undefined);
  let from: Promise<number> | undefined;
  let to: Promise<number> | undefined;
  const logEnd = async (): Promise<number> => (await stat(cluster.logFile)).size;
  let result: T;
  try {
    result = await work({
      onBegin: () => {
        from = logEnd();
      },
      onEnd: () => {
        to = logEnd();
      },
    });
  } finally {
    over.abort();
  }
  const most = await sampling;
  if (!from || !to) throw new Error('nothing was measured while connections were watched');
  await sleep(LOG_DELAY);
  return { result, counts: { opened: await openedIn(cluster, await from, await to), most } };
}

async function sampleMost(cluster: Cluster, over: AbortSignal): Promise<number> {
  const look = sql<{ count: number }>`
    select count(*)::int as count from pg_stat_activity
    where backend_type = 'client backend' and datname <> ${cluster.registry.database}
      and usename not in (${cluster.provisioner.user}, ${cluster.superuser.user})`;
  return cluster.asSuperuser(async (db) => {
    let most = 0;
    while (!over.aborted) {
      const { rows } = await look.execute(db);
      most = Math.max(most, rows[0]?.count ?? 0);
      await sleep(PAUSE);
    }
    return most;
  });
}

/** Connections to tenant databases that are in the log between two byte offsets. */
async function openedIn(
  { logFile, provisioner, registry, superuser }: Cluster,
  from: number,
  to: number,
): Promise<number> {
  const others = [registry.database, superuser.database];
  const file = await open(logFile);
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(to - from), 0, to - from, from);
    const lines = buffer.toString('utf8', 0, bytesRead).matchAll(/connection authorized: user=(\S+) database=(\S+)/g);
    return [...lines].filter(([, user, database = '']) => user !== provisioner.user && !others.includes(database))
      .length;
  } finally {
    await file.close();
  }
}
