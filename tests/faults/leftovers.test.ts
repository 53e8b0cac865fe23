// Standby databases and unfinished rows after a process died: another replica continues or undoes them, and rows of a former build
// get an operation.
import { sql, type Kysely } from 'kysely';
import { randomUUID } from 'node:crypto';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createLockSession } from '../../db/registry/lock-session.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findStandby, listStandby, type StandbyRecord } from '../../db/registry/standby-rows.js';
import { tenantLockName } from '../../db/registry/tenant-lock-keys.js';
import { asSuperuser, connectAs, createRegistry, startService, type TestService } from '../support/app.js';
import { eventually } from '../support/service-process.js';
import { finishOperations } from '../support/operations.js';

const STEPS = ['role', 'database', 'fill', 'close'] as const;

let name: string;
/** Ends its work at a step of the test's choice, as a process that is killed there. */
let dying: TestService;
let living: TestService;
let registry: Kysely<Registry>;
let endsAfter: string | undefined;
const never = new Promise<void>(() => undefined);

beforeAll(async () => {
  name = await createRegistry();
  const env = { RECONCILE_EVERY_MS: '3600000' };
  living = await startService({ registry: name, env });
  dying = await startService({
    registry: name,
    env,
    operator: false,
    overrides: { afterOperationStep: (_kind: string, step: string) => (step === endsAfter ? never : undefined) },
  });
  registry = living.app.engine.registry;
  await living.createTenant();
});
afterAll(async () => {
  await living.close();
});

async function onServer(database: string): Promise<number> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql`select from pg_database where datname = ${database} union all select from pg_roles where rolname = ${database}`.execute(
      db,
    ),
  );
  return rows.length;
}

/** Only the dying replica works: it holds each operation that it takes. */
async function beginOne(): Promise<StandbyRecord> {
  await registry.updateTable('clusters').set({ standby_target: 1 }).execute();
  await dying.app.engine.standby.refill(new AbortController().signal);
  const [standby] = await listStandby(registry);
  if (!standby) throw new Error('no standby database was begun');
  return standby;
}

async function operationsOf(subject: string): Promise<{ kind: string; state: string; attempts: number }[]> {
  return registry
    .selectFrom('operations')
    .select(['kind', 'state', 'attempts'])
    .where('subject', '=', subject)
    .orderBy('created_at')
    .execute();
}

it.each(STEPS)(
  'another replica finishes a standby database whose maker died after the step "%s"',
  async (step) => {
    await registry.deleteFrom('standby_databases').execute();
    await registry.updateTable('clusters').set({ standby_target: 0 }).execute();
    endsAfter = step;
    // Neither replica looks by itself between these lines: both have taken what was due.
    const standby = await beginOne();
    const row = (): Promise<StandbyRecord | undefined> => findStandby(registry, standby.id);
    // As if its process died: the lock is free, and its work does not go on.
    await expect
      .poll(
        async () => {
          if ((await operationsOf(standby.id))[0]?.state === 'done') return 'done';
          await asSuperuser('postgres', (db) =>
            sql`select pg_terminate_backend(pid) from pg_stat_activity
            where datname = ${name} and application_name like 'tenantry locks%'`.execute(db),
          );
          await finishOperations(living.app.engine);
          return (await row())?.ready === true ? 'done' : 'not yet';
        },
        { timeout: 30_000, interval: 200 },
      )
      .toBe('done');
    expect(await row()).toMatchObject({ ready: true, dbName: standby.dbName });
    expect(await onServer(standby.dbName)).toBe(2);
    expect(await operationsOf(standby.id)).toMatchObject([{ kind: 'standby', state: 'done' }]);
    endsAfter = undefined;
  },
  60_000,
);

it('records an operation for each unfinished row of a former build, and none while its worker has the lock', async () => {
  const { leftovers } = living.app.engine;
  const { signal } = new AbortController();
  const [cluster] = await registry.selectFrom('clusters').select('id').execute();
  const id = randomUUID();
  await registry
    .insertInto('standby_databases')
    .values({
      id,
      cluster_id: cluster?.id ?? '',
      db_name: 'tn_left',
      db_user: 'tn_left',
      db_password: 'v1.x.x.x.x',
      schema_version: '0001',
    })
    .execute();
  const handle = connectAs<Registry>(name);
  const former = createLockSession(handle.db, () => undefined);
  await former.attempt(tenantLockName(id), async () => {
    await leftovers.record(signal);
    expect(await operationsOf(id)).toEqual([]);
  });
  await former.close();
  await handle.close(0);
  await leftovers.record(signal);
  await leftovers.record(signal);
  expect((await operationsOf(id)).map(({ kind }) => kind)).toEqual(['withdraw']);
  await expect
    .poll(async () => {
      await finishOperations(living.app.engine);
      return findStandby(registry, id);
    })
    .toBeUndefined();
});

it('leaves a row alone whose operation was abandoned since it changed, until it changes again', async () => {
  const { leftovers } = living.app.engine;
  const { signal } = new AbortController();
  const { id } = await living.createTenant();
  await registry.updateTable('tenants').set({ next_db_password: 'v1.x.x.x.x' }).where('id', '=', id).execute();
  await leftovers.record(signal);
  const rotations = async () => (await operationsOf(id)).filter(({ kind }) => kind === 'rotate');
  expect(await rotations()).toHaveLength(1);
  await sql`update operations set state = 'abandoned', ended_at = clock_timestamp()
    where subject = ${id} and kind = 'rotate'`.execute(registry);
  await leftovers.record(signal);
  expect(await rotations()).toHaveLength(1);
  await sql`update tenants set updated_at = clock_timestamp() + interval '1 second' where id = ${id}`.execute(registry);
  // A worker may hold the lock for a moment, which leaves the row to a later look.
  await eventually('it is recorded again', async () => {
    await leftovers.record(signal);
    return (await rotations()).length === 2;
  });
  await registry.updateTable('tenants').set({ next_db_password: null }).where('id', '=', id).execute();
});
