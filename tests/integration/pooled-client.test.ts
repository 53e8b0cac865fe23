// The pg Pool beneath a connection pool (db/driver/pool/pooled-client.ts): which clients it opens, and that it forgets closed
// clients.
import { sql } from 'kysely';
import pg from 'pg';
import { beforeAll, describe, expect, inject, it, onTestFinished, vi } from 'vitest';
import { openPool, type ConnectionSettings } from '../../db/driver/client.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import type { PoolOptions } from '../../db/driver/pool/pool-types.js';
import type { ConnectionPool } from '../../db/driver/pool/pool.js';
import { asSuperuser, createRegistry } from '../support/app.js';

const NAME = 'pooled client test';
const LIMITS = { max: 3, acquireTimeout: 5_000, timeout: 10_000, idleTimeoutMillis: 10_000 };

let connection: ConnectionSettings;

beforeAll(async () => {
  const database = await createRegistry();
  const { superuser, registryOwner } = inject('cluster');
  connection = { ...superuser, ...registryOwner, database };
});

/** A connection pool, and access to the pg Pool beneath. */
function open(options: Partial<PoolOptions> = {}): {
  pool: ConnectionPool;
  beneath: () => pg.Pool | undefined;
  opened: () => number;
} {
  const connect = vi.spyOn(pg.Pool.prototype, 'connect');
  const pool = openPool(connection, LIMITS, { applicationName: NAME, preparedStatements: true, ...options });
  onTestFinished(async () => {
    connect.mockRestore();
    await pool.close(0);
  });
  return {
    pool,
    beneath: () => connect.mock.contexts[0] as pg.Pool | undefined,
    opened: () => connect.mock.calls.length,
  };
}

async function pidOf(pool: ConnectionPool): Promise<number | undefined> {
  const [row] = await pool.run<{ pid: number }>('select pg_backend_pid() as pid', []);
  return row?.pid;
}

describe('the pg Pool beneath a connection pool', () => {
  it('opens and keeps the clients, and is not called when an idle client is used again', async () => {
    const { pool, beneath, opened } = open();
    const pids = [await pidOf(pool), await pidOf(pool), await pidOf(pool)];
    expect(new Set(pids).size).toBe(1);
    expect(opened()).toBe(1);
    expect(beneath()).toMatchObject({ totalCount: 1, idleCount: 0, waitingCount: 0 });
  });

  it('gives out a client only after its check, and forgets a client whose check failed', async () => {
    const asked: unknown[] = [];
    const wrong = new DatabaseFault('unavailable', 'wrong database');
    const { pool, beneath } = open({
      prove: async (query) => {
        asked.push(...(await query('select 1 as one')));
        if (asked.length === 1) throw wrong;
      },
    });
    await expect(pidOf(pool)).rejects.toBe(wrong);
    expect(beneath()?.totalCount).toBe(0);
    await pidOf(pool);
    expect(asked).toEqual([{ one: 1 }, { one: 1 }]);
    expect(beneath()?.totalCount).toBe(1);
  });

  it('forgets a client that was lost while idle or in use, even if it is released later', async () => {
    const { pool, beneath } = open();
    const end = (pid: unknown): Promise<unknown> =>
      asSuperuser(connection.database, (db) => sql`select pg_terminate_backend(${pid}::integer, 5000)`.execute(db));
    await end(await pidOf(pool));
    await expect.poll(() => beneath()?.totalCount).toBe(0);

    const session = await pool.connect();
    const { rows } = await session.query<{ pid: number }>('select pg_backend_pid() as pid', []);
    expect(beneath()?.totalCount).toBe(1);
    await end(rows[0]?.pid);
    await expect.poll(() => beneath()?.totalCount).toBe(0);
    await expect(session.query('select 1', [])).rejects.toBeInstanceOf(DatabaseFault);
    session.release();
    expect(pool.stats()).toMatchObject({ total: 0, idle: 0 });
    expect(await pidOf(pool)).not.toBe(rows[0]?.pid);
  });

  it('forgets a client that is released in an open transaction, and ends it with a goodbye', async () => {
    const { pool, beneath } = open();
    const session = await pool.connect();
    await session.query('begin', []);
    session.release();
    expect(beneath()?.totalCount).toBe(0);
    expect(await session.client.closed).toBe('gone');
  });

  it('opens nothing after the connection pool was closed, and holds no client', async () => {
    const { pool, beneath } = open();
    await pidOf(pool);
    const inUse = await pool.connect();
    await pool.close(0);
    expect(beneath()).toMatchObject({ totalCount: 0, ending: true, ended: true });
    await expect(pool.connect()).rejects.toMatchObject({ reason: 'the pool was closed' });
    inUse.release();
  });

  it('does not mistake a pause of its own process for a silent server', async () => {
    const { pool } = open();
    const pid = pidOf(pool);
    // Longer than a server may be silent.
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2_500);
    expect(await pid).toBeGreaterThan(0);
  });
});
