// db/server/notify-queue.ts: which sessions are ended if the queue of notifications stays full.
import { sql } from 'kysely';
import { randomBytes, randomUUID } from 'node:crypto';
import { expect, inject, it, onTestFinished } from 'vitest';
import { createDatabase, openPool } from '../../db/driver/client.js';
import { endSuspects } from '../../db/server/notify-queue.js';
import { asSuperuser } from '../support/app.js';

const LIMITS = { max: 1, acquireTimeout: 5_000, timeout: 5_000, idleTimeoutMillis: 60_000 };

it('the relief of the queue ends sessions of this installation’s tenants only, not of other roles that the provisioner is a member of', async () => {
  const { superuser, provisioner } = inject('cluster');
  const installation = randomUUID();
  const cluster = createDatabase<unknown>(provisioner, LIMITS, {
    applicationName: 'tenantry provisioner',
    preparedStatements: false,
  });
  onTestFinished(() => cluster.close(0));

  /** The process of an idle session of a new role. */
  async function enter(comment: string | null): Promise<number> {
    const user = `relief_${randomBytes(4).toString('hex')}`;
    const password = randomBytes(8).toString('hex');
    await asSuperuser('postgres', async (db) => {
      await sql`create role ${sql.id(user)} login password ${sql.lit(password)}`.execute(db);
      await sql`comment on role ${sql.id(user)} is ${sql.lit(comment)}`.execute(db);
      await sql`grant ${sql.id(user)} to ${sql.id(provisioner.user)}`.execute(db);
      await sql`grant connect on database postgres to ${sql.id(user)}`.execute(db);
    });
    const pool = openPool({ ...superuser, user, password }, LIMITS, {
      applicationName: 'psql',
      preparedStatements: false,
    });
    onTestFinished(async () => {
      await pool.close(0);
      await asSuperuser('postgres', async (db) => {
        await sql`revoke connect on database postgres from ${sql.id(user)}`.execute(db);
        await sql`drop role ${sql.id(user)}`.execute(db);
      });
    });
    const [row] = await pool.run<{ pid: number }>('select pg_backend_pid() as pid', []);
    return row?.pid ?? 0;
  }

  const colleague = await enter(null);
  const elsewhere = await enter(`tenantry ${randomUUID()} ${randomUUID()} tenant`);
  const tenant = await enter(`tenantry ${installation} ${randomUUID()} tenant`);
  for (const which of ['strangers', 'transactions', 'idle'] as const)
    await endSuspects(cluster.db, which, installation);

  const alive = (): Promise<number[]> =>
    asSuperuser('postgres', async (db) => {
      const { rows } = await sql<{ pid: number }>`
        select pid from pg_stat_activity where pid = any(${[colleague, elsewhere, tenant]})`.execute(db);
      return rows.map(({ pid }) => pid).sort();
    });
  await expect.poll(alive).toEqual([colleague, elsewhere].sort());
});
