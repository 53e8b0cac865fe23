// The operations `standby` and `withdraw` when something goes wrong: an answer is lost, or a worker vanishes.
import { sql } from 'kysely';
import { randomUUID } from 'node:crypto';
import { expect, it, onTestFinished } from 'vitest';
import { insertOperation } from '../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { insertStandby, listStandby, setStandbyTarget } from '../../db/registry/standby-rows.js';
import { newDatabaseName, newTenantId } from '../../src/tenants/tenant-ids.js';
import { asSuperuser, connectAs } from '../support/app.js';
import {
  describeLoss,
  loseOneByOne,
  startReplicas,
  type Loss,
  type Replicas,
  type Target,
} from '../support/lost-answers.js';
import { finishOperations } from '../support/operations.js';

const JOB = 'standby databases';

/** For work that goes on by itself: an operation without a worker is taken up within 30 s. */
const TAKEN_UP = { timeout: 30_000, interval: 100 };

async function setTarget(replicas: Replicas, target: number): Promise<void> {
  const { registry } = replicas.there.app.engine;
  const [cluster] = await registry.selectFrom('clusters').select('id').execute();
  await setStandbyTarget(registry, cluster?.id ?? '', target);
}

/** The other replica finishes what is left. */
async function finish({ there }: Replicas): Promise<void> {
  await there.app.engine.housekeeping.runNow(JOB);
  await finishOperations(there.app.engine);
}

/** The names of the standby databases in the registry, and of all databases and roles of standby databases on the server. */
async function found({ there }: Replicas): Promise<{ rows: string[]; onServer: string[] }> {
  const rows = await listStandby(there.app.engine.registry);
  for (const { ready } of rows) expect(ready).toBe(true);
  const mark = `%${await installationOf(there)}%standby%`;
  const { rows: all } = await asSuperuser('postgres', (db) =>
    sql<{ name: string }>`
      select datname as name from pg_database where shobj_description(oid, 'pg_database') like ${mark}
      union select rolname from pg_roles where shobj_description(oid, 'pg_authid') like ${mark}
      order by 1`.execute(db),
  );
  return { rows: rows.map(({ dbName }) => dbName).sort(), onServer: all.map(({ name }) => name) };
}

async function installationOf({ app }: Replicas['there']): Promise<string> {
  const { rows } = await sql<{ id: string }>`select id from installation`.execute(app.engine.registry);
  return rows[0]?.id ?? '';
}

it(
  'whichever answer is lost while a standby database is made or dropped, exactly the wanted ones are left',
  { timeout: 300_000 },
  async () => {
    const replicas = await startReplicas();
    const { here } = replicas;

    const reachWithLoss = async (wanted: number, target: Target, nth: number): Promise<Loss> => {
      await setTarget(replicas, wanted);
      const loss = replicas.loseAnswer(target, nth);
      await here.app.engine.housekeeping.runNow(JOB);
      await here.app.engine.runner.takeUp.now();
      await finish(replicas);
      replicas.loseAnswer(target, 0);
      const { rows, onServer } = await found(replicas);
      const what = describeLoss(
        `${wanted === 1 ? 'standby' : 'withdraw'} ${target} ${nth}`,
        loss.happened ? await loss.statement : 'none',
      );
      expect(rows, what).toHaveLength(wanted);
      expect(onServer, what).toEqual(rows);
      return loss;
    };
    const losses = await loseOneByOne([1, 0], reachWithLoss);
    // Otherwise nothing was tested.
    expect(losses).toBeGreaterThan(8);
  },
);

// At the same time: each waits until the operation is due again.
it('a standby or a withdraw whose worker vanished is taken up within 30 s', { timeout: 120_000 }, async () => {
  await Promise.all([takenUp('standby'), takenUp('withdraw')]);
});

async function takenUp(kind: 'standby' | 'withdraw'): Promise<void> {
  const replicas = await startReplicas();
  const { engine } = replicas.there.app;
  await setTarget(replicas, 1);
  await finish(replicas);
  const central = connectAs<Registry>(replicas.registry);
  onTestFinished(() => central.close(0));
  const [ready] = await listStandby(engine.registry);
  if (!ready) throw new Error('there is no standby database');
  // The operation of a worker that vanished at once: it has the lock of no session.
  await central.db.updateTable('standby_databases').set({ ready: false }).execute();
  await setTarget(replicas, kind === 'standby' ? 1 : 0);
  await insertOperation(central.db, { kind, subject: ready.id, clusterId: ready.clusterId, worker: randomUUID() });
  await engine.serve();
  await expect
    .poll(async () => (await listStandby(engine.registry)).map((row) => [row.id, row.ready]), TAKEN_UP)
    .toEqual(kind === 'standby' ? [[ready.id, true]] : []);
}

it('a standby database of another schema is made by replicas of its build alone, and goes when an older build is gone', async () => {
  const replicas = await startReplicas();
  const { engine } = replicas.here.app;
  const { registry } = engine;
  const operation = (): Promise<{ state: string; attempts: number } | undefined> =>
    registry.selectFrom('operations').select(['state', 'attempts']).where('kind', '=', 'standby').executeTakeFirst();
  const becomes = async (version: string): Promise<void> => {
    await registry.updateTable('standby_databases').set({ schema_version: version }).execute();
    await registry
      .updateTable('operations')
      .set({ details: JSON.stringify({ version }) })
      .where('kind', '=', 'standby')
      .execute();
  };
  const [cluster] = await registry.selectFrom('clusters').selectAll().execute();
  if (!cluster) throw new Error('there is no cluster');
  const name = newDatabaseName();
  await registry.transaction().execute(async (trx) => {
    const id = newTenantId();
    const own = { dbName: name, dbUser: name, dbPassword: 'never opened', schemaVersion: '9999_newer' };
    await insertStandby(trx, { id, clusterId: cluster.id, ...own }, cluster);
    const details = { version: '9999_newer' };
    await insertOperation(trx, { kind: 'standby', subject: id, clusterId: cluster.id, details });
  });
  const untouched = { state: 'waiting', attempts: 1 };
  await engine.runner.takeUp.now();
  expect(await operation()).toEqual(untouched);

  await sql`
    insert into replicas (id, version, node, host, started_at, seen_at, slots_used, schema_version)
    values (${randomUUID()}, '0', '20', 'older', now(), now(), '{}', '0001_older')`.execute(registry);
  await becomes('0001_older');
  await engine.runner.takeUp.now();
  expect(await operation()).toEqual(untouched);

  await registry.deleteFrom('replicas').where('host', '=', 'older').execute();
  await engine.runner.takeUp.now();
  expect(await operation()).toMatchObject({ state: 'undone' });
  expect(await found(replicas)).toEqual({ rows: [], onServer: [] });
});
