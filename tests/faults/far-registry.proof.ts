// A distant registry with TLS: a round trip takes 300 ms, and opening a connection takes seven round trips. The tenants' server is
// near. Two replicas serve.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { DatabaseHandle } from '../../db/driver/client.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { startCluster } from '../support/cluster.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import {
  ADMIN,
  connectTo,
  createRegistryIn,
  startServiceIn,
  type TestService,
  type TestTenant,
} from '../support/service.js';
import { serveTls } from '../support/tls-server.js';

/** ms for one round trip. */
const ROUND_TRIP = 300;

const SOON = { timeout: 30_000, interval: 250 };

let stop: () => Promise<void>;
let far: Proxy;
/** The registry without the delay. */
let near: DatabaseHandle<Registry>;
let one: TestService;
let two: TestService;
let tenant: TestTenant;
/** Lines of warnings and errors. */
const complaints: string[] = [];

beforeAll(async () => {
  const started = await startCluster();
  stop = started.stop;
  const { superuser } = started.cluster;
  const ca = await serveTls(superuser, '127.0.0.1');
  far = await startProxy(superuser);
  const registry = await createRegistryIn(started.cluster);
  near = connectTo<Registry>(started.cluster, registry);
  const cluster = { ...started.cluster, superuser: { ...superuser, host: far.host, port: far.port, tls: { ca } } };
  // The proxy delays only one direction, by the time of both.
  far.delay = ROUND_TRIP;
  const logStream = { write: (line: string): void => void complaints.push(line) };
  const options = { registry, env: { LOG_LEVEL: 'warn' }, overrides: { logStream } };
  one = await startServiceIn(cluster, options);
  two = await startServiceIn(cluster, { ...options, operator: false });
  await Promise.all([one.app.engine.serve(), two.app.engine.serve()]);
  // At the start this process is busy with itself.
  complaints.length = 0;
}, 60_000);

afterAll(async () => {
  // The ends of the connections of a test that failed must not wait.
  far.delay = 0;
  await Promise.all([one.close(), two.close()]);
  await near.close(0);
  await far.close();
  await stop();
});

const both = <T>(ask: (service: TestService) => Promise<T>): Promise<T[]> => Promise.all([one, two].map(ask));
const read = async ({ send }: TestService): Promise<number> =>
  (await send('GET', '/products', { token: tenant.adminToken })).status;

it('does not keep a replica from being ready, or from making a tenant, signing in and reading', async () => {
  const ready = (): Promise<number[]> => both(async ({ send }) => (await send('GET', '/health/ready')).status);
  await expect.poll(ready, SOON).toEqual([200, 200]);
  tenant = await one.createTenant('far');
  const { email, password } = ADMIN;
  const body = { tenant: 'far', email, password };
  expect(await both(async ({ send }) => (await send('POST', '/auth/login', { body })).status)).toEqual([200, 200]);
  expect(await both(read)).toEqual([200, 200]);
});

it('slows down no read of a known tenant, and costs no replica its slots', async () => {
  await expect.poll(() => both(read), SOON).toEqual([200, 200]);
  const found = { failing: new Set<boolean>(), statuses: new Set<number>() };
  const looks = { all: 0, silent: 0 };
  const until = performance.now() + 15_000;
  let silent = 0;
  while (performance.now() < until) {
    for (const { app } of [one, two]) {
      looks.all += 1;
      if (!app.engine.events.live) looks.silent += 1;
      found.failing.add(app.engine.slotLeases.failing);
    }
    for (const status of await both(read)) found.statuses.add(status);
    const leases = await near.db.selectFrom('slot_leases').select('renewed_at').where('kind', '=', 'tenants').execute();
    expect(leases).toHaveLength(2);
    for (const { renewed_at: renewedAt } of leases) silent = Math.max(silent, Date.now() - Date.parse(renewedAt));
    await sleep(25);
  }
  expect(found).toEqual({ failing: new Set([false]), statuses: new Set([200]) });
  // While the feed is live, a read waits for nothing in the registry. With one question at a time the feed would be silent for
  // 100 of 300 ms. A busy machine may pause this process.
  expect(looks.silent / looks.all).toBeLessThan(0.1);
  // A lease that is 15 s old is no longer sure.
  expect(silent).toBeLessThan(7_500);
});

it('lets an operator suspend and resume a tenant, and the other replica sees each change at once', async () => {
  const { operatorToken: token } = one;
  for (const [act, then] of [
    ['suspend', 403],
    ['resume', 200],
  ] as const) {
    const acted = await one.send('POST', `/tenants/${tenant.id}/${act}`, { token });
    expect(acted.status, acted.text).toBe(200);
    expect(await read(two)).toBe(then);
  }
});

it('does not make GET /status incomplete', async () => {
  const statuses = await both(({ send }) => send('GET', '/status', { token: one.operatorToken }));
  expect(statuses.map(({ status, body }) => [status, body['state'], body['reasons']])).toEqual([
    [200, 'ok', []],
    [200, 'ok', []],
  ]);
  const { metrics } = one.app.engine;
  await expect
    .poll(async () => (await metrics.expose()).body, SOON)
    .toMatch(/^tenantry_fleet_readable(\{[^}]*\})? 1$/m);
});

it('lets jobs run, and operations be taken up', async () => {
  await near.db.updateTable('clusters').set({ standby_target: 1 }).execute();
  await one.app.engine.housekeeping.runNow('standby databases');
  await expect
    .poll(() => near.db.selectFrom('standby_databases').select('ready').execute(), SOON)
    .toEqual([{ ready: true }]);
  const jobs = (await both(async ({ app }) => app.engine.housekeeping.stats())).flat();
  expect(jobs.filter(({ failures }) => failures > 0)).toEqual([]);
  const ran = new Set(jobs.filter(({ runs }) => runs > 0).map(({ name }) => name));
  expect(ran).toEqual(new Set(jobs.map(({ name }) => name)));
});

it('is no reason for a complaint', () => {
  expect(complaints).toEqual([]);
});
