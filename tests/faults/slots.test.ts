// A slot is free when the server's backend is gone. In every fault here the service counts at least the server's sessions, within
// the budget. Both counts agree after the fault.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { ADMIN, beginSession, startService, type Answer, type TestService } from '../support/app.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { startSecondCluster, type SecondCluster } from '../support/second-cluster.js';
import { sessionsOf, startSampler, usedSlots, type Sampler } from '../support/sessions-sampler.js';
import { startStatementProxy, type StatementProxy, type Verdict } from '../support/statement-proxy.js';

const BUDGET = 8;
const RESERVE = 2;
/** ms. */
const DEADLINE = 1_000;

interface Tenant {
  readonly id: string;
  readonly token: string;
  readonly database: string;
}

let server: SecondCluster;
/** The faults are between the service and the server: service → statements → network → server. */
let network: Proxy;
let statements: StatementProxy;
let service: TestService;
let clusterId: string;
let count = 0;

beforeAll(async () => {
  server = await startSecondCluster('slots');
  // A role's setting overrides those of the command line.
  await asSuperuser((db) => sql`alter role all set synchronous_commit to on`.execute(db));
  network = await startProxy(server.superuser);
  statements = await startStatementProxy(network);
  service = await startService({
    env: {
      POOL_MAX: '3',
      POOL_STATEMENT_TIMEOUT_MS: String(DEADLINE),
      POOL_ACQUIRE_TIMEOUT_MS: String(DEADLINE),
      CONNECT_TIMEOUT_MS: String(DEADLINE),
    },
  });
  const { host, port } = statements;
  const body = { ...server.body, host, port, connectionBudget: BUDGET, connectionReserve: RESERVE };
  const made = await service.send<{ id: string }>('POST', '/clusters', { token: service.operatorToken, body });
  expect(made.status, made.text).toBe(201);
  clusterId = made.body.id;
});

afterAll(async () => {
  await service.close();
  await statements.close();
  await network.close();
  await server.stop();
});

function asSuperuser<T>(work: Parameters<typeof server.asSuperuser<T>>[1]): Promise<T> {
  return server.asSuperuser('postgres', work);
}

async function createTenant(): Promise<Tenant> {
  count += 1;
  const slug = `slots-${count}`;
  const { operatorToken, app } = service;
  const body = { name: slug, slug, admin: ADMIN, clusterId };
  const made = await service.send<{ id: string }>('POST', '/tenants', { token: operatorToken, body });
  expect(made.status, made.text).toBe(201);
  const { id } = made.body;
  const { rows } = await sql<{ id: string }>`select id from users`.execute(app.engine.tenantPools.database(id));
  const token = await beginSession(app, { kind: 'user', tenantId: id, userId: rows[0]?.id ?? '' });
  const database = (await app.engine.tenantDirectory.find(id))?.dbName ?? '';
  return { id, token, database };
}

const read = ({ token }: Tenant): Promise<Answer> => service.send('GET', '/products', { token });
const write = ({ token }: Tenant): Promise<Answer> =>
  service.send('POST', '/products', { token, body: { name: 'Chair', price: '1.00' } });

function watch(): Sampler {
  const sampler = startSampler(service.app, statements, server, BUDGET + RESERVE);
  onTestFinished(() => sampler.stop());
  return sampler;
}

/** Waits until both counts agree, nothing is unknown, and no tenant is refused. */
async function agree(sampler: Sampler, tenants: readonly Tenant[]): Promise<void> {
  const { app } = service;
  const unknown = (): number => app.engine.governors.at(statements).tenants.stats().unknown;
  await expect.poll(unknown, { timeout: 30_000 }).toBe(0);
  for (const tenant of tenants) {
    await expect.poll(async () => (await read(tenant)).status, { timeout: 30_000 }).toBe(200);
    await expect.poll(async () => (await write(tenant)).status, { timeout: 30_000 }).toBe(201);
  }
  await expect.poll(async () => (await sessionsOf(app, server)) - usedSlots(app, statements)).toBe(0);
  await sampler.stop();
  expect(sampler.wrong).toEqual([]);
  expect(sampler.samples).toBeGreaterThan(0);
}

/** Process ids of the sessions in a tenant's database. */
async function backendsOf({ database }: Tenant): Promise<number[]> {
  const { rows } = await asSuperuser((db) =>
    sql<{ pid: number }>`select pid from pg_stat_activity where datname = ${database}`.execute(db),
  );
  return rows.map(({ pid }) => pid);
}

describe('a synchronous standby that is lost', () => {
  it('makes writes fail by the deadline, lets reads continue, and takes no more connections than the budget', async () => {
    const tenants = await Promise.all([createTenant(), createTenant()]);
    for (const tenant of tenants) expect((await read(tenant)).status).toBe(200);
    const sampler = watch();
    const standby = (names: string): Promise<unknown> =>
      asSuperuser(async (db) => {
        await sql`alter system set synchronous_standby_names to ${sql.lit(names)}`.execute(db);
        await sql`select pg_reload_conf()`.execute(db);
      });
    await standby('never');
    onTestFinished(async () => {
      await standby('');
    }, 10_000);
    // The server takes over the setting a moment after it was told to.
    for (const tenant of tenants)
      await expect.poll(async () => (await write(tenant)).status, { timeout: 30_000 }).toBe(503);
    const reads: number[] = [];
    const writes: number[] = [];
    const until = performance.now() + 3.5 * DEADLINE;
    await Promise.all(
      tenants.flatMap((tenant) => [
        ...Array.from({ length: 4 }, async () => {
          while (performance.now() < until) writes.push((await write(tenant)).status);
        }),
        (async () => {
          while (performance.now() < until) {
            reads.push((await read(tenant)).status);
            await sleep(50);
          }
        })(),
      ]),
    );
    expect(new Set(writes)).toEqual(new Set([503]));
    // A breaker may open for a moment, until its probe is answered.
    expect(reads.filter((status) => status === 200).length).toBeGreaterThan(reads.length / 2);
    expect(new Set(reads.filter((status) => status !== 503))).toEqual(new Set([200]));
    // The commits wait on the server, and all of them are counted.
    expect(sampler.most.unknown).toBeGreaterThan(1);
    const { body } = await service.send<{ clusters: { unknown: number; cluster: string }[] }>('GET', '/pools', {
      token: service.operatorToken,
    });
    expect(body.clusters.find(({ cluster }) => cluster === `${statements.host}:${statements.port}`)?.unknown).toBe(
      sampler.most.unknown,
    );
    await standby('');
    await agree(sampler, tenants);
  });
});

describe('a backend that is stopped', () => {
  it('keeps its slot until it is gone, its tenant is answered by the deadline, and neighbours are not affected', async () => {
    const [stopped, neighbour] = [await createTenant(), await createTenant()];
    for (const tenant of [stopped, neighbour]) {
      expect((await read(tenant)).status).toBe(200);
      expect((await write(tenant)).status).toBe(201);
    }
    const sampler = watch();
    const pids = await backendsOf(stopped);
    expect(pids.length).toBeGreaterThan(0);
    for (const pid of pids) process.kill(pid, 'SIGSTOP');
    const go = (): void => {
      for (const pid of pids.splice(0)) process.kill(pid, 'SIGCONT');
    };
    onTestFinished(go);
    const answers = await Promise.all([write(stopped), read(stopped), write(neighbour), read(neighbour)]);
    expect(answers.slice(2).map(({ status }) => status)).toEqual([201, 200]);
    await expect.poll(() => sampler.most.unknown, { timeout: 5 * DEADLINE }).toBeGreaterThan(0);
    // After several checks the session is still there, and still counted.
    await sleep(1_500);
    expect(service.app.engine.governors.at(statements).tenants.stats().unknown).toBeGreaterThan(0);
    go();
    await agree(sampler, [stopped, neighbour]);
  });
});

describe('a network that loses the end of connections', () => {
  it('leaves sessions that stay counted, and that are ended once the server can be reached', async () => {
    const tenant = await createTenant();
    expect((await read(tenant)).status).toBe(200);
    expect((await write(tenant)).status).toBe(201);
    const sampler = watch();
    network.mode = 'hang';
    onTestFinished(() => {
      network.mode = 'pass';
    });
    const answers = await Promise.all([write(tenant), read(tenant)]);
    expect(answers.map(({ status }) => status)).toEqual([503, 503]);
    await expect.poll(() => sampler.most.unknown, { timeout: 30_000 }).toBeGreaterThan(0);
    network.mode = 'pass';
    await agree(sampler, [tenant]);
  });

  it('frees each slot only when the server has ended its session, if it cuts all connections at once', async () => {
    const tenant = await createTenant();
    expect((await write(tenant)).status).toBe(201);
    const sampler = watch();
    for (let round = 0; round < 3; round += 1) {
      const under = Promise.all([write(tenant), read(tenant), write(tenant)]);
      network.cut();
      await under;
      await sleep(100);
    }
    await agree(sampler, [tenant]);
  });
});

describe('a server that freezes while a new connection is checked', () => {
  it('is given up by the deadline of the opening, frees the slot, and can be read and written again', async () => {
    const tenant = await createTenant();
    await service.app.engine.tenantPools.retire(tenant.id);
    const sampler = watch();
    const held: (() => void)[] = [];
    statements.onStatement = async ({ sql: text }): Promise<Verdict> => {
      if (text.includes('tenant_marker')) await new Promise<void>((resolve) => held.push(resolve));
      return 'pass';
    };
    onTestFinished(() => {
      statements.onStatement = () => 'pass';
    });
    const answers = await Promise.all([read(tenant), write(tenant)]);
    expect(answers.map(({ status }) => status)).toEqual([503, 503]);
    expect(held.length).toBeGreaterThan(0);
    statements.onStatement = () => 'pass';
    for (const go of held) go();
    await agree(sampler, [tenant]);
  });
});

describe('a server that restarts after a crash', () => {
  it('frees all slots of its former sessions, known and unknown', async () => {
    const tenants = [await createTenant(), await createTenant()];
    for (const tenant of tenants) expect((await write(tenant)).status).toBe(201);
    const { rows } = await asSuperuser((db) =>
      sql<{ pid: number }>`select split_part(pg_read_file('postmaster.pid'), e'\n', 1)::int as pid`.execute(db),
    );
    process.kill(rows[0]?.pid ?? NaN, 'SIGKILL');
    await Promise.all(tenants.map(write));
    await expect
      .poll(
        () =>
          asSuperuser((db) => sql`select 1`.execute(db)).then(
            () => true,
            () => false,
          ),
        { timeout: 30_000 },
      )
      .toBe(true);
    const sampler = watch();
    await sleep(100);
    await agree(sampler, tenants);
  });
});
