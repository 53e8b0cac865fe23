// Suspending and deleting busy tenants: on two replicas, by several requests at once, and while their server is away.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from 'vitest';
import { findTenant, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { databaseIs } from '../../src/tenants/tenant-states.js';
import {
  asSuperuser,
  createRegistry,
  startService,
  startServiceIn,
  type Answer,
  type Problem,
  type TestService,
  type TestTenant,
} from '../support/app.js';
import { finishOperations } from '../support/operations.js';
import { rowOf } from '../support/tenants.js';
import { startProxy, type Proxy } from '../support/proxy.js';

/** "Within a second", plus a margin for the machine. */
const PROMISE = { timeout: 1_500, interval: 20 };

/** For work that goes on by itself after its server is back. */
const BACKGROUND = { timeout: 40_000, interval: 100 };

let registry: string;
let here: TestService;
/** Another replica. */
let there: TestService;
beforeAll(async () => {
  registry = await createRegistry();
  here = await startService({ registry });
  there = await startService({ registry });
});
afterAll(() => Promise.all([here.close(), there.close()]));

type Path = 'suspend' | 'resume' | 'restore' | 'purge' | 'delete';

function act({ send, operatorToken: token }: TestService, path: Path, id: string): Promise<Answer<Problem>> {
  return path === 'delete'
    ? send<Problem>('DELETE', `/tenants/${id}`, { token })
    : send<Problem>('POST', `/tenants/${id}/${path}`, { token });
}

function list({ send }: TestService, { adminToken: token }: TestTenant): Promise<Answer<Problem>> {
  return send<Problem>('GET', '/products', { token });
}

async function sessionsIn(database: string): Promise<number> {
  const { rows } = await asSuperuser('postgres', (db) =>
    // An autovacuum worker in the database is no client's session.
    sql<{ count: number }>`
      select count(*)::int as count from pg_stat_activity
      where datname = ${database} and backend_type = 'client backend'`.execute(db),
  );
  return rows[0]?.count ?? -1;
}

async function isOpen({ dbName }: TenantRecord): Promise<boolean | undefined> {
  const { rows } = await asSuperuser('postgres', (db) =>
    sql<{ open: boolean }>`select datallowconn as open from pg_database where datname = ${dbName}`.execute(db),
  );
  return rows[0]?.open;
}

describe('a tenant that another replica serves', () => {
  it.each([
    ['suspend', 'tenant-suspended', 'resume'],
    ['delete', 'forbidden', 'restore'],
  ] as const)('is refused there within a second of its %s, and has no session left', async (away, code, back) => {
    const tenant = await here.createTenant();
    const { dbName } = await rowOf(here, tenant);
    for (const replica of [here, there]) expect((await list(replica, tenant)).status).toBe(200);
    expect(await sessionsIn(dbName)).toBeGreaterThan(1);

    expect([200, 204]).toContain((await act(here, away, tenant.id)).status);
    // PostgreSQL ended them before the answer, also those of the other replica.
    expect(await sessionsIn(dbName)).toBe(0);
    await expect.poll(async () => (await list(there, tenant)).body.code, PROMISE).toBe(code);
    expect((await list(here, tenant)).body.code).toBe(code);
    // Further requests open no session.
    expect(await sessionsIn(dbName)).toBe(0);

    expect((await act(here, back, tenant.id)).status).toBe(200);
    expect((await list(here, tenant)).status).toBe(200);
    await expect.poll(async () => (await list(there, tenant)).status, PROMISE).toBe(200);
  });

  it('is refused there even if that replica receives no change, and its neighbours are served', async () => {
    const [tenant, neighbour] = [await here.createTenant(), await here.createTenant()];
    for (const each of [tenant, neighbour]) expect((await list(there, each)).status).toBe(200);
    // Closed by hand, without a row or an event: the worst answer that PostgreSQL can give.
    const row = await rowOf(here, tenant);
    await asSuperuser('postgres', async (db) => {
      await sql`alter database ${sql.id(row.dbName)} allow_connections false`.execute(db);
      await sql`select pg_terminate_backend(pid) from pg_stat_activity where datname = ${row.dbName}`.execute(db);
    });
    const statuses: number[] = [];
    for (let time = 0; time < 20; time += 1) {
      statuses.push((await list(there, tenant)).status);
      expect((await list(there, neighbour)).status).toBe(200);
    }
    expect(new Set(statuses)).toEqual(new Set([503]));
    expect(there.app.engine.breakers.state('cluster', `${row.dbHost}:${row.dbPort}`)).toBeUndefined();
    await there.app.engine.housekeeping.runNow('lifecycle settle');
    await finishOperations(there.app.engine);
    await expect.poll(async () => (await list(there, tenant)).status, PROMISE).toBe(200);
  });
});

describe('a tenant that is in use', () => {
  it('can be purged while a session ends that the provisioner may not terminate', async () => {
    const tenant = await here.createTenant();
    const row = await rowOf(here, tenant);
    let purged: Promise<Answer<Problem>> | undefined;
    await asSuperuser(row.dbName, async (db) => {
      await sql`select 1`.execute(db);
      expect((await act(here, 'delete', tenant.id)).status).toBe(204);
      purged = act(here, 'purge', tenant.id);
      await sleep(500);
    });
    expect((await purged)?.status).toBe(204);
    expect(await isOpen(row)).toBeUndefined();
  });

  it('loses its running transaction when it is suspended, but nothing that was committed', async () => {
    const tenant = await here.createTenant();
    const row = await rowOf(here, tenant);
    const { adminToken: token } = tenant;
    const body = { name: 'Committed', price: '1.00' };
    expect((await here.send('POST', '/products', { token, body })).status).toBe(201);
    let begun: () => void = () => undefined;
    const under = new Promise<void>((resolve) => (begun = resolve));
    const transaction = here.app.engine.tenantPools
      .database(tenant.id)
      .transaction()
      .execute(async (trx) => {
        await sql`update products set name = 'Not committed'`.execute(trx);
        begun();
        await sql`select pg_sleep(20)`.execute(trx);
      });
    transaction.catch(() => undefined);
    await under;
    expect((await act(there, 'suspend', tenant.id)).status).toBe(200);
    expect(await sessionsIn(row.dbName)).toBe(0);
    await expect(transaction).rejects.toMatchObject({ name: 'DatabaseFault', reason: '57P01' });

    expect((await act(there, 'resume', tenant.id)).status).toBe(200);
    await expect.poll(async () => (await list(here, tenant)).status, PROMISE).toBe(200);
    const { text } = await list(here, tenant);
    expect(text).toContain('"Committed"');
    expect(text).not.toContain('Not committed');
  });

  it.each(['suspend', 'delete'] as const)('gets no 500 if its %s happens during fifty requests', async (away) => {
    const tenant = await here.createTenant();
    const { adminToken: token } = tenant;
    const body = { name: 'Lamp', price: '1.00' };
    const write = (service: TestService): Promise<Answer<Problem>> =>
      service.send<Problem>('POST', '/products', { token, body });
    for (const service of [here, there]) expect((await write(service)).status).toBe(201);
    const wave = (): Promise<Answer<Problem>>[] =>
      Array.from({ length: 25 }, (_, index) =>
        index % 2 === 0 ? [write(here), list(there, tenant)] : [list(here, tenant), write(there)],
      ).flat();
    const before = wave();
    const turned = act(here, away, tenant.id);
    const answers = await Promise.all([...before, ...wave(), turned]);
    const statuses = new Set(answers.map(({ status }) => status));
    for (const status of statuses) expect([200, 201, 204, 403, 503]).toContain(status);
    const done = await turned;
    expect(done.status, done.text).toBe(away === 'delete' ? 204 : 200);
    expect((await list(here, tenant)).status).toBe(403);
    const written = answers.filter(({ status }) => status === 201).length;

    expect((await act(here, away === 'delete' ? 'restore' : 'resume', tenant.id)).status).toBe(200);
    // At once: the ended connections do not count as failures of the tenant.
    expect((await list(here, tenant)).status).toBe(200);
    const { dbName } = await rowOf(here, tenant);
    const { rows } = await asSuperuser(dbName, (db) =>
      sql<{ count: number }>`select count(*)::int as count from products`.execute(db),
    );
    // Every acknowledged write is there, and perhaps one whose answer was lost.
    expect(rows[0]?.count).toBeGreaterThanOrEqual(written + 2);
  });

  it('gets no 500 when it is purged', async () => {
    const tenant = await here.createTenant();
    const row = await rowOf(here, tenant);
    const load = Array.from({ length: 50 }, (_, index) => list(index % 2 === 0 ? here : there, tenant));
    const acts = act(here, 'delete', tenant.id).then(() => act(here, 'purge', tenant.id));
    const statuses = (await Promise.all(load)).map(({ status }) => status);
    for (const status of statuses) expect([200, 403, 503]).toContain(status);
    expect((await acts).status).toBe(204);
    expect(await isOpen(row)).toBeUndefined();
    for (const replica of [here, there])
      await expect.poll(async () => (await list(replica, tenant)).status, PROMISE).toBe(403);
  });
});

describe('simultaneous acts', () => {
  it('end in one state, which the row, PostgreSQL and every replica agree on', { timeout: 60_000 }, async () => {
    const acts: readonly Path[] = ['suspend', 'resume', 'delete', 'restore', 'suspend', 'resume', 'delete', 'restore'];
    for (let round = 0; round < 5; round += 1) {
      const tenant = await here.createTenant();
      const answers = await Promise.all(
        acts.map((path, index) => act((index + round) % 2 === 0 ? here : there, path, tenant.id)),
      );
      for (const { status, text } of answers) expect([200, 204, 409], text).toContain(status);
      const row = await rowOf(here, tenant);
      expect(await isOpen(row)).toBe(databaseIs[row.status] === 'open');
      for (const replica of [here, there])
        await expect
          .poll(async () => (await list(replica, tenant)).status, PROMISE)
          .toBe(row.status === 'active' ? 200 : 403);
    }
  });

  it('have one outcome if one restores and one purges', async () => {
    for (let round = 0; round < 3; round += 1) {
      const tenant = await here.createTenant();
      const before = await rowOf(here, tenant);
      await act(here, 'delete', tenant.id);
      const [restored, purged] = await Promise.all([act(here, 'restore', tenant.id), act(there, 'purge', tenant.id)]);
      const after = await findTenant(here.app.engine.registry, tenant.id);
      if (restored.status === 200) {
        expect([purged.status, purged.body.code]).toEqual([409, 'tenant-state']);
        expect(after?.status).toBe('active');
        expect(await isOpen(before)).toBe(true);
      } else {
        // The two may also collide in PostgreSQL, which lets one of them through. A job finishes the other.
        expect([404, 409, 503]).toContain(restored.status);
        expect([204, 503]).toContain(purged.status);
        if (purged.status === 503) expect((await act(there, 'purge', tenant.id)).status).toBe(204);
        expect(await isOpen(before)).toBeUndefined();
        expect(await findTenant(here.app.engine.registry, tenant.id)).toBeUndefined();
      }
    }
  });
});

describe('while the tenants’ server does not answer', () => {
  let proxy: Proxy;
  let service: TestService;
  beforeAll(async () => {
    const cluster = inject('cluster');
    proxy = await startProxy(cluster.provisioner);
    const { host, port } = proxy;
    service = await startServiceIn(
      { ...cluster, provisioner: { ...cluster.provisioner, host, port } },
      {
        overrides: {
          operationTimes: { closeDeadline: 3_000, openDeadline: 4_000, removeDeadline: 3_000, longestPause: 1_000 },
        },
      },
    );
  });
  afterAll(async () => {
    await service.close();
    await proxy.close();
  });

  /** The server is away until the proxy passes again. */
  function takeAway(): void {
    proxy.mode = 'refuse';
    proxy.cut();
    onTestFinished(() => {
      proxy.mode = 'pass';
    });
  }

  it.each([
    ['suspend', 'suspended', 'tenant-suspended'],
    ['delete', 'deleted', 'forbidden'],
  ] as const)(
    'a %s changes the row, says what remains, and completes it in the background',
    async (away, status, code) => {
      const tenant = await service.createTenant();
      expect((await list(service, tenant)).status).toBe(200);
      takeAway();
      const answer = await act(service, away, tenant.id);
      expect([answer.status, answer.body.code]).toEqual([503, 'operation-unfinished']);
      expect(answer.text).toContain(`The tenant is ${status} and no longer served.`);
      expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0);
      const row = await rowOf(service, tenant);
      expect([row.status, await isOpen(row)]).toEqual([status, true]);
      expect((await list(service, tenant)).body.code).toBe(code);

      proxy.mode = 'pass';
      await expect.poll(() => isOpen(row), BACKGROUND).toBe(false);
    },
  );

  it('a resumption changes nothing, and goes on when the server is back', async () => {
    const tenant = await service.createTenant();
    expect((await act(service, 'suspend', tenant.id)).status).toBe(200);
    takeAway();
    const answer = await act(service, 'resume', tenant.id);
    expect([answer.status, answer.body.code]).toEqual([503, 'operation-unfinished']);
    expect((await rowOf(service, tenant)).status).toBe('suspended');
    expect((await list(service, tenant)).body.code).toBe('tenant-suspended');
    proxy.mode = 'pass';
    await expect.poll(async () => (await rowOf(service, tenant)).status, BACKGROUND).toBe('active');
    expect((await act(service, 'resume', tenant.id)).status).toBe(200);
    expect((await list(service, tenant)).status).toBe(200);
  });

  it(
    'a purge says which operation continues, sees the evidence before it drops, and ends when the server answers',
    { timeout: 70_000 },
    async () => {
      const tenant = await service.createTenant();
      expect((await act(service, 'delete', tenant.id)).status).toBe(204);
      const row = await rowOf(service, tenant);
      takeAway();
      const answer = await act(service, 'purge', tenant.id);
      expect([answer.status, answer.body.code]).toEqual([503, 'operation-unfinished']);
      expect(Number(answer.headers['retry-after'])).toBeGreaterThan(0);
      expect((await rowOf(service, tenant)).status).toBe('deleting');
      expect(await isOpen(row)).toBe(false);

      proxy.mode = 'pass';
      const { registry } = service.app.engine;
      await expect.poll(() => findTenant(registry, tenant.id), { timeout: 45_000, interval: 100 }).toBeUndefined();
      expect(await isOpen(row)).toBeUndefined();
    },
  );

  it('a server that hangs delays an act until the deadline only', async () => {
    const tenant = await service.createTenant();
    proxy.mode = 'hang';
    onTestFinished(() => {
      proxy.mode = 'pass';
      proxy.cut();
    });
    const answer = await act(service, 'suspend', tenant.id);
    expect([answer.status, answer.body.code]).toEqual([503, 'operation-unfinished']);
    expect((await list(service, tenant)).body.code).toBe('tenant-suspended');
  });
});
