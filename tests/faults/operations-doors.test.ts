// The operations `open`, `close` and `rotate` when something goes wrong: answers are lost, a server is away, a worker vanishes, or
// several replicas and acts meet.
import { sql } from 'kysely';
import { randomBytes } from 'node:crypto';
import { afterAll, beforeAll, beforeEach, describe, expect, inject, it, onTestFinished } from 'vitest';
import { insertOperation } from '../../db/registry/operations/operation-rows.js';
import type { OperationState } from '../../db/registry/operations/operations-table.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, findTenantBySlug } from '../../db/registry/tenant-queries.js';
import { tenantLockName } from '../../db/registry/tenant-lock-keys.js';
import type { DatabaseHandle } from '../../db/driver/client.js';
import {
  ADMIN,
  asSuperuser,
  connectAs,
  createRegistry,
  startServiceIn,
  type Answer,
  type Problem,
  type TestService,
} from '../support/app.js';
import type { TestCluster } from '../support/cluster.js';
import { createLegacyDatabase, invoicesIn } from '../support/evidence.js';
import {
  act,
  describeLoss,
  loseOneByOne,
  startReplicas,
  targets,
  type Act,
  type Loss,
  type Target,
} from '../support/lost-answers.js';
import { finishOperations } from '../support/operations.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { startSecondCluster, type SecondCluster } from '../support/second-cluster.js';
import { enter, passwordOf, rowOf } from '../support/tenants.js';

/** For work that goes on by itself. */
const BACKGROUND = { timeout: 50_000, interval: 100 };

let registry: string;
let behind: TestCluster;
let proxy: Proxy;
let second: SecondCluster;
let central: DatabaseHandle<Registry>;
/** Tenants are on a server behind the proxy, unless they are made on the second server. */
let here: TestService;
let there: TestService;
let defaultId: string;
let secondId: string;

beforeAll(async () => {
  registry = await createRegistry();
  central = connectAs<Registry>(registry);
  const cluster = inject('cluster');
  proxy = await startProxy(cluster.provisioner);
  second = await startSecondCluster('doors');
  const { host, port } = proxy;
  behind = { ...cluster, provisioner: { ...cluster.provisioner, host, port } };
  const env = { DB_PASSWORD_ROTATE_AFTER_MS: '3600000' };
  // While a server is away, a pause grows to half a minute. What happens after it is the same after a second.
  const overrides = { operationTimes: { longestPause: 1_000, closeDeadline: 3_000, openDeadline: 4_000 } };
  here = await startServiceIn(behind, { registry, env, overrides });
  there = await startServiceIn(behind, { registry, env, overrides, operator: false });
  const registered = await here.send<{ id: string }>('POST', '/clusters', {
    token: here.operatorToken,
    body: second.body,
  });
  expect(registered.status, registered.text).toBe(201);
  secondId = registered.body.id;
  const { body } = await here.send<{ data: { id: string }[] }>('GET', '/clusters', { token: here.operatorToken });
  defaultId = body.data.find(({ id }) => id !== secondId)?.id ?? expect.fail('there are two clusters');
});
afterAll(async () => {
  proxy.mode = 'pass';
  await Promise.all([here.close(), there.close()]);
  await Promise.all([central.close(0), proxy.close(), second.stop()]);
});
beforeEach(() => {
  proxy.mode = 'pass';
});

function takeAway(mode: 'refuse' | 'hang' = 'refuse'): void {
  proxy.mode = mode;
  proxy.cut();
}

function bringBack(): void {
  proxy.mode = 'pass';
  proxy.cut();
}

let made = 0;

/** Makes a tenant without signing anybody in. @returns its id */
async function make(clusterId = defaultId): Promise<string> {
  const slug = `doors-${(made += 1)}`;
  const body = { name: slug, slug, admin: ADMIN, clusterId };
  const answer = await here.send<{ id: string }>('POST', '/tenants', { token: here.operatorToken, body });
  expect(answer.status, answer.text).toBe(201);
  return answer.body.id;
}

async function isOpen(id: string): Promise<boolean | undefined> {
  const { dbName, clusterId } = await rowOf(here, { id });
  const query = (db: Parameters<Parameters<typeof asSuperuser>[1]>[0]) =>
    sql<{ open: boolean }>`select datallowconn as open from pg_database where datname = ${dbName}`.execute(db);
  const { rows } = await (clusterId === secondId
    ? second.asSuperuser('postgres', query)
    : asSuperuser('postgres', query));
  return rows[0]?.open;
}

async function stateOf(id: string): Promise<{ status: string; open: boolean | undefined }> {
  return { status: (await rowOf(here, { id })).status, open: await isOpen(id) };
}

async function operationsOf(id: string): Promise<{ kind: string; state: OperationState }[]> {
  return central.db
    .selectFrom('operations')
    .select(['kind', 'state'])
    .where('subject', '=', id)
    .orderBy('created_at')
    .execute();
}

async function unfinishedOf(id: string): Promise<string[]> {
  return (await operationsOf(id)).filter(({ state }) => !['done', 'undone'].includes(state)).map(({ kind }) => kind);
}

/** The unfinished operations of a tenant, with what their last attempts met. */
async function leftOf(id: string): Promise<unknown[]> {
  return central.db
    .selectFrom('operations')
    .select(['kind', 'state', 'attempts', 'step', 'error'])
    .where('subject', '=', id)
    .where('ended_at', 'is', null)
    .execute();
}

function rotate({ send, operatorToken: token }: TestService, id: string): Promise<Answer<Problem>> {
  return send<Problem>('POST', `/tenants/${id}/rotate-password`, { token });
}

/** Whether the server has the password of the row, and no other one is stored. */
async function isRotated(service: TestService, id: string): Promise<boolean> {
  const row = await rowOf(service, { id });
  if (row.nextDbPassword !== null) return false;
  const handle = enter({ row, password: passwordOf(service, row) });
  return sql`select 1`
    .execute(handle.db)
    .then(() => true)
    .catch(() => false)
    .finally(() => handle.close(0));
}

describe('while a server is away', () => {
  it.each(['refuse', 'hang'] as const)(
    'ten suspended tenants (%s) delay no suspend on another server, and are closed when it is back',
    async (mode) => {
      const away = await Promise.all(Array.from({ length: 10 }, () => make()));
      const other = await make(secondId);
      takeAway(mode);
      const answers = Promise.all(away.map((id) => act(here, 'suspend', id)));
      const elsewhere = await act(here, 'suspend', other);
      expect(elsewhere.status, elsewhere.text).toBe(200);
      expect(await stateOf(other)).toEqual({ status: 'suspended', open: false });
      expect(await operationsOf(other)).toContainEqual({ kind: 'close', state: 'done' });
      for (const { status, body } of await answers) expect([status, body.code]).toEqual([503, 'operation-unfinished']);
      // Also when the others are waiting for their next attempt.
      expect((await act(here, 'resume', other)).status).toBe(200);
      expect((await act(there, 'suspend', other)).status).toBe(200);
      bringBack();
      for (const id of away) await expect.poll(() => unfinishedOf(id), BACKGROUND).toEqual([]);
      for (const id of away) expect(await stateOf(id)).toEqual({ status: 'suspended', open: false });
    },
    120_000,
  );

  it('a close that waits closes nothing if the tenant is resumed before it', async () => {
    const id = await make();
    takeAway();
    expect((await act(here, 'suspend', id)).status).toBe(503);
    await expect.poll(() => operationsOf(id), BACKGROUND).toContainEqual({ kind: 'close', state: 'waiting' });
    // No worker takes it before the resumption. One that tries it at this moment would soon try again.
    const putOff = central.db
      .updateTable('operations')
      .set({ not_before: sql<string>`now() + interval '1 hour'` })
      .where('subject', '=', id)
      .where('state', '=', 'waiting')
      .returning('id');
    await expect.poll(() => putOff.execute(), BACKGROUND).toHaveLength(1);
    bringBack();
    await expect.poll(async () => (await act(there, 'resume', id)).status, BACKGROUND).toBe(200);
    expect(await unfinishedOf(id)).toEqual(['close']);
    await finishOperations(here.app.engine);
    expect(await leftOf(id)).toEqual([]);
    expect(await stateOf(id)).toEqual({ status: 'active', open: true });
  });

  it('a resumption that begins while a close waits ends with the database open, whichever is first', async () => {
    const id = await make();
    takeAway();
    expect((await act(here, 'suspend', id)).status).toBe(503);
    const resumed = act(there, 'resume', id);
    await expect.poll(() => unfinishedOf(id), BACKGROUND).toContain('open');
    bringBack();
    expect([200, 503]).toContain((await resumed).status);
    await expect.poll(() => unfinishedOf(id), BACKGROUND).toEqual([]);
    expect(await stateOf(id)).toEqual({ status: 'active', open: true });
  });

  it.each([
    ['suspend', 'suspended'],
    ['delete', 'deleted'],
  ] as const)(
    'a later %s undoes a resumption that has not succeeded yet',
    async (later, status) => {
      const id = await make();
      expect((await act(here, 'suspend', id)).status).toBe(200);
      takeAway();
      expect((await act(here, 'resume', id)).body.code).toBe('operation-unfinished');
      expect((await act(there, later, id)).body.code).toBe('operation-unfinished');
      bringBack();
      await expect.poll(() => unfinishedOf(id), BACKGROUND).toEqual([]);
      expect(await stateOf(id)).toEqual({ status, open: false });
      expect(await operationsOf(id)).toContainEqual({ kind: 'open', state: 'undone' });
    },
    120_000,
  );

  it('due rotations there hold up no rotation elsewhere, and are finished when it is back', async () => {
    const away = [await make(), await make(), await make()];
    const other = await make(secondId);
    const before = await rowOf(here, { id: other });
    const old = new Date(Date.now() - 2 * 3_600_000).toISOString();
    // The tenants of the server that is away come first.
    for (const [index, id] of [...away, other].entries())
      await central.db
        .updateTable('tenants')
        .set({ password_rotated_at: new Date(Date.parse(old) + index).toISOString() })
        .where('id', '=', id)
        .execute();
    takeAway('hang');
    await here.app.engine.housekeeping.runNow('rotation');
    await expect
      .poll(() => rowOf(here, { id: other }), BACKGROUND)
      .toMatchObject({ nextDbPassword: null, dbPassword: expect.not.stringMatching(before.dbPassword) as unknown });
    for (const id of away) expect((await rowOf(here, { id })).nextDbPassword).not.toBeNull();
    // Tenants with an unfinished rotation are left out.
    await there.app.engine.housekeeping.runNow('rotation');
    for (const id of away) expect(await operationsOf(id)).toHaveLength(2);
    bringBack();
    for (const id of away) await expect.poll(() => isRotated(here, id), BACKGROUND).toBe(true);
  }, 120_000);
});

describe('while a server with ten due purges is stopped', () => {
  it('a purge and a rotation elsewhere are done within five seconds, and the ten when it is back', async () => {
    const away = await Promise.all(Array.from({ length: 10 }, () => make()));
    const [purged, rotated] = [await make(secondId), await make(secondId)];
    for (const id of [...away, purged]) expect((await act(here, 'delete', id)).status).toBe(204);
    // The tenants of the stopped server come first.
    for (const [index, id] of [...away, purged].entries())
      await sql`update tenants set deleted_at = now() - interval '400 days' + ${index} * interval '1 second'
        where id = ${id}`.execute(central.db);
    await sql`update tenants set password_rotated_at = now() - interval '2 hours' where id = ${rotated}`.execute(
      central.db,
    );
    const before = await rowOf(here, { id: rotated });
    takeAway('hang');
    for (const job of ['lifecycle purge', 'rotation']) await here.app.engine.housekeeping.runNow(job);
    const elsewhere = async (): Promise<unknown> => {
      const { dbPassword, nextDbPassword } = await rowOf(here, { id: rotated });
      const isNew = nextDbPassword === null && dbPassword !== before.dbPassword;
      return { purged: (await findTenant(central.db, purged)) === undefined, rotated: isNew };
    };
    await expect.poll(elsewhere, { timeout: 30_000, interval: 100 }).toEqual({ purged: true, rotated: true });
    for (const id of away) expect(await unfinishedOf(id)).toEqual(['remove']);
    bringBack();
    for (const id of away)
      await expect.poll(async () => (await findTenant(central.db, id)) === undefined, BACKGROUND).toBe(true);
  }, 120_000);
});

describe('while more operations wait for a server than it may have at once', () => {
  /** A replica whose first five operations end when `release` is called: they have every turn on the server. */
  async function startBusy(): Promise<{ busy: TestService; release: () => void }> {
    let release: () => void = () => undefined;
    const released = new Promise<void>((resolve) => (release = resolve));
    const busy = await startServiceIn(behind, {
      registry,
      operator: false,
      overrides: { afterOperationStep: () => released, operationTimes: { turnPatience: 200 } },
    });
    onTestFinished(async () => {
      release();
      await busy.close();
    });
    return { busy, release };
  }

  it('a request without a turn names its operation, and the service ends the operation', async () => {
    const ids = await Promise.all(Array.from({ length: 11 }, () => make()));
    const [suspended = '', resumed = '', deleted = '', restored = '', purged = '', rotated = '', ...holders] = ids;
    const database = `legacy_${randomBytes(6).toString('hex')}`;
    await createLegacyDatabase(database, behind.provisioner.user);
    expect((await act(here, 'suspend', resumed)).status).toBe(200);
    for (const id of [restored, purged]) expect((await act(here, 'delete', id)).status).toBe(204);

    const { busy, release } = await startBusy();
    const held = Promise.all(holders.map((id) => act(busy, 'suspend', id)));
    await expect
      .poll(async () => (await Promise.all(holders.map(isOpen))).filter((open) => open === false), BACKGROUND)
      .toHaveLength(5);
    const send = (slug: string, more: object): Promise<Answer<Problem>> => {
      const body = { name: slug, slug, admin: ADMIN, clusterId: defaultId, ...more };
      return busy.send<Problem>('POST', '/tenants', { token: here.operatorToken, body });
    };
    const adopt = { clusterId: defaultId, database };
    const answers = {
      create: send('busy-created', {}),
      adopt: send('busy-adopted', { adopt, clusterId: undefined }),
      close: act(busy, 'suspend', suspended),
      open: act(busy, 'resume', resumed),
      'close, deleted': act(busy, 'delete', deleted),
      'open, restored': act(busy, 'restore', restored),
      remove: act(busy, 'purge', purged),
      rotate: rotate(busy, rotated),
    };
    for (const [what, answer] of Object.entries(answers)) {
      const { status, body, text } = await answer;
      expect([what, status, body.code], text).toEqual([what, 503, 'operation-unfinished']);
      const { operationId } = body as Problem & { readonly operationId?: string };
      const operation = await central.db
        .selectFrom('operations')
        .select('kind')
        .where('id', '=', operationId ?? null)
        .executeTakeFirst();
      expect(operation, text).toEqual({ kind: what.split(',')[0] });
    }

    release();
    await held;
    const left = (): Promise<unknown[]> =>
      central.db.selectFrom('operations').select(['kind', 'subject']).where('ended_at', 'is', null).execute();
    await expect.poll(left, BACKGROUND).toEqual([]);
    expect(await stateOf(suspended)).toEqual({ status: 'suspended', open: false });
    expect(await stateOf(deleted)).toEqual({ status: 'deleted', open: false });
    expect(await stateOf(restored)).toEqual({ status: 'active', open: true });
    expect(await findTenant(central.db, purged)).toBeUndefined();
    expect(await isRotated(here, rotated)).toBe(true);
    // Only their requests knew the first admin, or the changes of the row.
    expect(await stateOf(resumed)).toEqual({ status: 'suspended', open: false });
    for (const slug of ['busy-created', 'busy-adopted'])
      expect(await findTenantBySlug(central.db, slug)).toBeUndefined();
    expect(await invoicesIn(database)).toEqual([1, 2]);
  }, 120_000);
});

it('the close of a worker that vanished is taken up', async () => {
  const id = await make();
  const { clusterId } = await rowOf(here, { id });
  // The worker dies after its transaction: its lock and its session are gone, and its operation says that it runs.
  await central.db.updateTable('tenants').set({ status: 'suspended' }).where('id', '=', id).execute();
  const values = { kind: 'close', subject: id, tenantId: id, clusterId, worker: 'vanished' };
  await central.db.connection().execute(async (db) => {
    await sql`select pg_advisory_lock(hashtextextended(${tenantLockName(id)}, 0))`.execute(db);
    expect(await insertOperation(db, values)).toMatchObject({ state: 'running', worker: 'vanished' });
    const { rows } = await sql<{ pid: number }>`select pg_backend_pid() as pid`.execute(db);
    expect(await isOpen(id)).toBe(true);
    await asSuperuser('postgres', (other) => sql`select pg_terminate_backend(${rows[0]?.pid}, 5000)`.execute(other));
  });
  await expect.poll(() => unfinishedOf(id), { timeout: 30_000 }).toEqual([]);
  expect(await stateOf(id)).toEqual({ status: 'suspended', open: false });
});

it('two replicas that suspend and resume one tenant fifty times leave what its row says', async () => {
  const id = await make();
  const results = new Map<number, number>();
  const turn = async (service: TestService, name: Act): Promise<void> => {
    const { status, text } = await act(service, name, id);
    expect([200, 409, 503], text).toContain(status);
    results.set(status, (results.get(status) ?? 0) + 1);
  };
  for (let time = 0; time < 25; time += 1)
    await Promise.all([turn(time % 2 === 0 ? here : there, 'suspend'), turn(time % 2 === 0 ? there : here, 'resume')]);
  expect(results.get(200)).toBeGreaterThan(25);
  await expect.poll(() => unfinishedOf(id), BACKGROUND).toEqual([]);
  const { status, open } = await stateOf(id);
  expect(open).toBe(status === 'active');
  expect((await act(here, 'resume', id)).status).toBe(200);
  expect(await stateOf(id)).toEqual({ status: 'active', open: true });
}, 120_000);

it('an operation that a person has abandoned is not recorded again until the row changes', async () => {
  const id = await make();
  expect((await act(here, 'suspend', id)).status).toBe(200);
  const { dbName } = await rowOf(here, { id });
  const reopen = (): Promise<unknown> =>
    asSuperuser('postgres', (db) => sql`alter database ${sql.id(dbName)} allow_connections true`.execute(db));
  await reopen();
  const abandoned = { state: 'abandoned', ended_at: sql<string>`now()` } as const;
  await central.db
    .updateTable('operations')
    .set(abandoned)
    .where('subject', '=', id)
    .where('kind', '=', 'close')
    .execute();
  await here.app.engine.housekeeping.runNow('lifecycle settle');
  expect(await unfinishedOf(id)).toEqual(['close']);
  await finishOperations(here.app.engine);
  expect(await isOpen(id)).toBe(true);
  const { operatorToken: token } = here;
  expect((await here.send('PATCH', `/tenants/${id}`, { token, body: { name: 'Changed' } })).status).toBe(200);
  await here.app.engine.housekeeping.runNow('lifecycle settle');
  await finishOperations(here.app.engine);
  expect(await isOpen(id)).toBe(false);
});

describe('if an answer is lost, and nobody asks again,', () => {
  it('suspend, resume, delete and restore end in a state on which the row and the database agree', async () => {
    const replicas = await startReplicas();
    const { here: losing, there: sound } = replicas;
    const { id } = await sound.createTenant();
    const closedIn = { suspend: true, resume: false, delete: true, restore: false } as const;
    const names = Object.keys(closedIn) as (keyof typeof closedIn)[];
    const harm: string[] = [];

    const lose = async (name: keyof typeof closedIn, target: Target, nth: number): Promise<Loss> => {
      const loss = replicas.loseAnswer(target, nth);
      const { status: answered } = await act(losing, name, id);
      replicas.loseAnswer(target, 0);
      const what = `${name}, ${describeLoss(`${target} ${nth}`, loss.happened ? await loss.statement : 'none')}`;
      await finishOperations(sound.app.engine);
      const row = await rowOf(sound, { id });
      const { rows } = await asSuperuser('postgres', (db) =>
        sql<{ open: boolean }>`select datallowconn as open from pg_database where datname = ${row.dbName}`.execute(db),
      );
      if (rows[0]?.open !== (row.status === 'active')) harm.push(`${what}: ${row.status}, open ${rows[0]?.open}`);
      if (answered < 300 && (row.status === 'active') === closedIn[name]) harm.push(`${what}: answered and not done`);
      if (row.restoring) harm.push(`${what}: is still being restored`);
      const left = await sound.app.engine.registry
        .selectFrom('operations')
        .select('kind')
        .where('ended_at', 'is', null)
        .execute();
      if (left.length > 0) harm.push(`${what}: left unfinished ${left.map(({ kind }) => kind).join()}`);
      await act(sound, name, id);
      return loss;
    };
    const losses = await loseOneByOne(names, lose);
    expect(losses).toBeGreaterThan(16);
    expect(harm).toEqual([]);
  }, 240_000);

  it('a rotation ends with the password of the registry on the server', async () => {
    const replicas = await startReplicas();
    const { here: losing, there: sound } = replicas;
    const { id } = await sound.createTenant();
    const harm: string[] = [];
    let losses = 0;
    for (const target of targets)
      for (let nth = 1, happened = true; happened; nth += 1) {
        expect(nth).toBeLessThan(60);
        const loss = replicas.loseAnswer(target, nth);
        await rotate(losing, id);
        replicas.loseAnswer(target, 0);
        ({ happened } = loss);
        if (happened) losses += 1;
        const what = describeLoss(`${target} ${nth}`, happened ? await loss.statement : 'none');
        await finishOperations(sound.app.engine);
        if (!(await isRotated(sound, id))) harm.push(what);
      }
    expect(losses).toBeGreaterThan(8);
    expect(harm).toEqual([]);
  }, 120_000);
});
