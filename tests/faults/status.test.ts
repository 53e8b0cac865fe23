// GET /status while what it asks is slow, hung or away: it answers by its deadline with what is known, and a flood of requests is a
// handful of questions to the registry.
import { setTimeout as sleep } from 'node:timers/promises';
import { sql } from 'kysely';
import { expect, it, onTestFinished } from 'vitest';
import { insertOperator, findOperatorByEmail } from '../../db/registry/operator-queries.js';
import { OPERATORS } from '../../src/auth/passwords.js';
import type { FleetStatus } from '../../src/status/status-types.js';
import {
  asSuperuser,
  beginSession,
  connectAs,
  createRegistry,
  openApp,
  OPERATOR,
  sender,
  startServiceForTest,
  testConfig,
  type Send,
} from '../support/app.js';
import { startProxy } from '../support/proxy.js';
import { startStatementProxy } from '../support/statement-proxy.js';

const SOON = { timeout: 30_000, interval: 250 };
/** A part has 1.5 s, and a server has as long after it. The rest is for a busy machine. */
const DEADLINE = 5_000;

/** A service whose registry is reached through something that can fail. */
async function startBehind(
  proxy: { readonly host: string; readonly port: number },
  registry: string,
): Promise<{ app: Awaited<ReturnType<typeof openApp>>; send: Send; token: string }> {
  const config = testConfig(registry);
  const { host, port } = proxy;
  const connection = { ...config.registry.connection, host, port };
  const app = await openApp({ ...config, registry: { ...config.registry, connection } });
  onTestFinished(() => app.close());
  const { passwords, registry: db } = app.engine;
  await insertOperator(db, { email: OPERATOR.email, passwordHash: await passwords.hash(OPERATOR.password, OPERATORS) });
  const operator = await findOperatorByEmail(db, OPERATOR.email);
  const token = await beginSession(app, { kind: 'operator', operatorId: operator?.id ?? '' });
  return { app, send: sender(app), token };
}

it('answers what does not need a locked table, says what could not be read, and the replica goes on being seen', async () => {
  const service = await startServiceForTest();
  const { send, operatorToken: token, app } = service;
  const ask = async () => (await send<FleetStatus>('GET', '/status', { token })).body;
  await expect.poll(async () => (await ask()).replicas?.alive, SOON).toBe(1);
  const handle = connectAs(service.config.registry.connection.database);
  onTestFinished(() => handle.close(0));
  let locked: FleetStatus | undefined;
  let took = Infinity;
  let last: FleetStatus | undefined;
  await handle.db.transaction().execute(async (trx) => {
    await sql`lock table tenants in access exclusive mode`.execute(trx);
    // Values from before the lock still serve.
    await sleep(2_100);
    const began = performance.now();
    locked = await ask();
    took = performance.now() - began;
    await sleep(6_000);
    last = await ask();
  });
  expect(took).toBeLessThan(DEADLINE);
  expect(locked).toMatchObject({ state: 'degraded', tenants: null, work: null, passwords: null, clusters: null });
  expect(locked?.unreadable).toContainEqual({
    part: 'tenants',
    reason: expect.stringMatching(/^a database did not answer in time/) as unknown,
  });
  expect(locked?.replicas?.alive).toBe(1);
  expect(locked?.jobs.length).toBeGreaterThan(5);
  expect(last?.replicas?.list).toMatchObject([{ id: app.engine.replicaId, alive: true }]);
  await expect.poll(async () => (await ask()).unreadable, SOON).toEqual([]);
}, 60_000);

it('answers by its deadline with what the replica knows when the registry hangs, and recovers', async () => {
  const target = testConfig('any').registry.connection;
  const proxy = await startProxy(target);
  onTestFinished(() => proxy.close());
  const registry = await createRegistry();
  const { app, send, token } = await startBehind(proxy, registry);
  await expect
    .poll(async () => (await send<FleetStatus>('GET', '/status', { token })).body.replicas?.alive, SOON)
    .toBe(1);
  proxy.mode = 'hang';
  await sleep(2_100);
  const began = performance.now();
  const known = await app.engine.fleetStatus.read();
  expect(performance.now() - began).toBeLessThan(DEADLINE);
  expect(known).toMatchObject({
    state: 'degraded',
    tenants: null,
    work: null,
    reports: null,
    clusters: null,
    replicas: null,
    here: { id: app.engine.replicaId, feed: { live: false } },
  });
  expect(known.jobs.length).toBeGreaterThan(5);
  expect(known.unreadable.map(({ part }) => part).sort()).toEqual([
    'clusters',
    'jobs',
    'passwords',
    'replicas',
    'reports',
    'rollout',
    'tenants',
    'work',
  ]);
  // Nobody can check whether an operator is still one.
  expect((await send('GET', '/status', { token })).status).toBe(503);
  proxy.mode = 'pass';
  await expect
    .poll(async () => (await send<FleetStatus>('GET', '/status', { token })).body.unreadable, SOON)
    .toEqual([]);
}, 90_000);

it('is a handful of questions to the registry, however many ask', async () => {
  const proxy = await startStatementProxy(testConfig('any').registry.connection);
  onTestFinished(() => proxy.close());
  const { send, token } = await startBehind(proxy, await createRegistry());
  await expect.poll(async () => (await send('GET', '/status', { token })).status, SOON).toBe(200);
  await sleep(2_100);
  const counts: string[] = [];
  const others: string[] = [];
  proxy.onStatement = ({ sql: text, application }) => {
    if (application === 'tenantry registry') others.push(text);
    else if (application === 'tenantry status' && !/insert into replicas|delete from/.test(text)) counts.push(text);
    return 'pass';
  };
  const answers = await Promise.all(Array.from({ length: 50 }, () => send('GET', '/status', { token })));
  expect(answers.every(({ status }) => status === 200)).toBe(true);
  // Replicas, jobs, reports, clusters, tenants, work, keys; and two more for the connection itself if it is new.
  expect(counts.length).toBeGreaterThanOrEqual(6);
  expect(counts.length).toBeLessThanOrEqual(9);
  // What the jobs of this moment ask, and the session and account of the caller.
  expect(others.length).toBeLessThan(20);
}, 60_000);

it('shows a replica as alive, and answers, while requests take every other connection to the registry', async () => {
  const service = await startServiceForTest();
  const { app, config, operatorToken: token, send } = service;
  const ask = async () => (await send<FleetStatus>('GET', '/status', { token })).body;
  await expect.poll(async () => (await ask()).replicas?.alive, SOON).toBe(1);
  const { database } = config.registry.connection;
  const seenAt = () =>
    asSuperuser(database, async (db) => {
      const { rows } = await sql<{ at: string }>`select seen_at as at from replicas`.execute(db);
      return rows[0]?.at ?? '';
    });
  let end = (): void => undefined;
  const ended = new Promise<void>((resolve) => (end = resolve));
  const holders = Array.from({ length: config.registry.pool.max }, () =>
    app.engine.registry.connection().execute(async (connection) => {
      await sql`select 1`.execute(connection);
      await ended;
    }),
  );
  const before = await seenAt();
  await expect.poll(seenAt, SOON).not.toBe(before);
  const known = await app.engine.fleetStatus.read();
  expect(known.unreadable).toEqual([]);
  expect(known.here.registry).toMatchObject({ connections: config.registry.pool.max, idle: 0 });
  end();
  await Promise.all(holders);
}, 60_000);

it('says that Redis is away, and why', async () => {
  const service = await startServiceForTest({ env: { REDIS_URL: 'redis://127.0.0.1:1' } });
  const { body } = await service.send<FleetStatus>('GET', '/status', { token: service.operatorToken });
  expect(body.here.redis).toMatchObject({ available: false, reason: expect.any(String) as unknown });
  expect(body.state).toBe('degraded');
  expect(body.reasons).toContainEqual(expect.stringMatching(/^Redis is away for replica /));
}, 60_000);

it('is not stopped by a beat that fails, and writes the next one', async () => {
  const service = await startServiceForTest();
  const { database } = service.config.registry.connection;
  const rows = () => asSuperuser(database, async (db) => (await sql`select from replicas`.execute(db)).rows.length);
  await expect.poll(rows, SOON).toBe(1);
  await asSuperuser(database, (db) => sql`alter table replicas rename to hidden`.execute(db));
  await sleep(6_000);
  expect((await service.send('GET', '/health/ready')).status).toBe(200);
  await asSuperuser(database, async (db) => {
    await sql`alter table hidden rename to replicas`.execute(db);
    await sql`delete from replicas`.execute(db);
  });
  await expect.poll(rows, SOON).toBe(1);
}, 60_000);
