// Standby databases of a server that goes away: a drain answers in time, operations wait for the server, and an operator can abandon
// them. What never held a tenant's data is dropped later, and everything else stays.
import { sql } from 'kysely';
import { afterAll, afterEach, beforeAll, expect, inject, it } from 'vitest';
import { findInstallationId } from '../../db/registry/installation.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findStandby, listStandby, type StandbyRecord } from '../../db/registry/standby-rows.js';
import { markText } from '../../db/server/marks.js';
import type { DatabaseHandle } from '../../db/driver/client.js';
import {
  asSuperuser,
  connectAs,
  createRegistry,
  startServiceIn,
  type Answer,
  type TestService,
} from '../support/app.js';
import { finishOperations } from '../support/operations.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { eventually } from '../support/service-process.js';

/** For work that goes on by itself. */
const BACKGROUND = { timeout: 50_000, interval: 100 };

/** The longest that a drain waits (ms), and what a busy computer adds. */
const DRAIN_BOUND = 3_000 + 15_000;

let proxy: Proxy;
let central: DatabaseHandle<Registry>;
/** Its server is behind the proxy. */
let service: TestService;
let clusterId: string;
/** The step of an operation after which the server goes away. */
let lastStep: string | undefined;

beforeAll(async () => {
  const registry = await createRegistry();
  central = connectAs<Registry>(registry);
  const cluster = inject('cluster');
  proxy = await startProxy(cluster.provisioner);
  const { host, port } = proxy;
  service = await startServiceIn(
    { ...cluster, provisioner: { ...cluster.provisioner, host, port } },
    {
      registry,
      env: { RECONCILE_EVERY_MS: '3600000' },
      overrides: {
        afterOperationStep: (kind: string, step: string) => {
          if (`${kind} ${step}` === lastStep) takeAway('refuse');
        },
        operationTimes: { drainDeadline: 3_000 },
      },
    },
  );
  const { body } = await service.send<{ data: { id: string }[] }>('GET', '/clusters', { token: service.operatorToken });
  clusterId = body.data[0]?.id ?? expect.fail('there is a cluster');
});
afterEach(() => {
  lastStep = undefined;
  bringBack();
});
afterAll(async () => {
  await service.close();
  await Promise.all([central.close(0), proxy.close()]);
});

function takeAway(mode: 'refuse' | 'hang'): void {
  proxy.mode = mode;
  proxy.cut();
}

function bringBack(): void {
  proxy.mode = 'pass';
  proxy.cut();
}

async function want(count: number): Promise<void> {
  await central.db.updateTable('clusters').set({ standby_target: count, accepting: true }).execute();
  await service.app.engine.housekeeping.runNow('standby databases');
}

/** Standby databases that are ready. */
async function keep(count: number): Promise<readonly StandbyRecord[]> {
  await want(count);
  const ready = (): Promise<readonly StandbyRecord[]> => listStandby(central.db, { ready: true });
  await eventually(`${count} are ready`, async () => (await ready()).length === count, BACKGROUND.timeout);
  return ready();
}

/** How many databases and roles of a name the server has. */
async function onServer(name: string): Promise<number> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql`select from pg_database where datname = ${name} union all select from pg_roles where rolname = ${name}`.execute(
      db,
    ),
  );
  return rows.length;
}

interface Operation {
  readonly id: string;
  readonly state: string;
  readonly step: string | null;
}

async function operationOf(kind: 'standby' | 'withdraw', subject: string): Promise<Operation | undefined> {
  return central.db
    .selectFrom('operations')
    .select(['id', 'state', 'step'])
    .where('kind', '=', kind)
    .where('subject', '=', subject)
    .executeTakeFirst();
}

/** Resolves when the operation waits for the server. */
async function waiting(kind: 'standby' | 'withdraw', subject: string, step: string): Promise<string> {
  await expect
    .poll(async () => operationOf(kind, subject), BACKGROUND)
    .toMatchObject({ state: 'waiting', step: expect.stringContaining(step) as string });
  return (await operationOf(kind, subject))?.id ?? '';
}

const post = <T>(path: string): Promise<Answer<T>> => service.send<T>('POST', path, { token: service.operatorToken });

/** Looks at every page of the server for databases without a row. */
async function dropOrphans(): Promise<void> {
  for (let page = 0; page < 3; page += 1) await service.app.engine.housekeeping.runNow('reconciler');
}

it('abandoning the making of a standby database removes its row only; the half-made database is dropped later', async () => {
  lastStep = 'standby database';
  await want(1);
  const [standby] = await listStandby(central.db);
  if (!standby) throw new Error('no standby database was begun');
  const id = await waiting('standby', standby.id, 'fill');
  // No other one is begun.
  await central.db.updateTable('clusters').set({ standby_target: 0 }).execute();

  const abandoned = await post<Operation>(`/operations/${id}/abandon`);
  expect(abandoned.status, abandoned.text).toBe(200);
  expect(await operationOf('standby', standby.id)).toMatchObject({ state: 'abandoned' });
  expect(await findStandby(central.db, standby.id)).toBeUndefined();
  expect(await onServer(standby.dbName)).toBe(2);

  lastStep = undefined;
  bringBack();
  await eventually(
    'it is dropped',
    async () => {
      await dropOrphans();
      return (await onServer(standby.dbName)) === 0;
    },
    BACKGROUND.timeout,
  );
}, 120_000);

it('abandoning the drop of a standby database drops nothing; later it is dropped, unless its mark says that it is a tenant’s', async () => {
  const [empty, used] = await keep(2);
  if (!empty || !used) throw new Error('two standby databases are ready');
  takeAway('refuse');
  await want(0);
  const ids = await Promise.all([empty, used].map(({ id }) => waiting('withdraw', id, '')));
  for (const id of ids) expect((await post(`/operations/${id}/abandon`)).status).toBe(200);
  for (const { id, dbName } of [empty, used]) {
    expect(await operationOf('withdraw', id)).toMatchObject({ state: 'abandoned' });
    expect(await findStandby(central.db, id)).toBeUndefined();
    expect(await onServer(dbName)).toBe(2);
  }

  // As after a claim that a restored registry does not know.
  const installation = await findInstallationId(central.db);
  const mark = markText({ installation, id: used.id, state: 'tenant', claim: used.id, generation: 1 });
  await asSuperuser('postgres', (db) =>
    sql`comment on database ${sql.id(used.dbName)} is ${sql.lit(mark)}`.execute(db),
  );
  bringBack();
  await eventually(
    'it is dropped',
    async () => {
      await dropOrphans();
      return (await onServer(empty.dbName)) === 0;
    },
    BACKGROUND.timeout,
  );
  expect(await onServer(used.dbName)).toBe(2);
  await asSuperuser('postgres', async (db) => {
    await sql`drop database ${sql.id(used.dbName)}`.execute(db);
    await sql`drop role ${sql.id(used.dbName)}`.execute(db);
  });
}, 120_000);

it.each(['refuse', 'hang'] as const)(
  'a drain answers in time while the server is away (%s), and drops the standby databases when it is back',
  async (mode) => {
    const standbys = await keep(3);
    takeAway(mode);
    const began = performance.now();
    const drained = await post<{ standbyDatabases: number }>(`/clusters/${clusterId}/drain`);
    expect(performance.now() - began).toBeLessThan(DRAIN_BOUND);
    expect(drained.status, drained.text).toBe(200);
    // Of no use to tenants any more, and not gone yet.
    expect(drained.body).toMatchObject({ standbyDatabases: 3 });
    expect(await listStandby(central.db, { ready: true })).toEqual([]);
    for (const { dbName } of standbys) expect(await onServer(dbName)).toBe(2);

    bringBack();
    await eventually('they are dropped', async () => (await listStandby(central.db)).length === 0, BACKGROUND.timeout);
    for (const { id, dbName } of standbys) {
      expect(await onServer(dbName)).toBe(0);
      expect(await operationOf('withdraw', id)).toMatchObject({ state: 'done' });
    }
    await finishOperations(service.app.engine);
  },
  120_000,
);
