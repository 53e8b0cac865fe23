// How fast a rollout goes on a server, as the server's own sessions say it. The server belongs to this file alone.
import { sql } from 'kysely';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { Pace } from '../../src/rollouts/pace.js';
import type { FleetServer } from '../../src/rollouts/fleet-servers.js';
import { startCluster, type TestCluster } from '../support/cluster.js';
import { connectTo, startServiceIn, type TestService, type TestTenant } from '../support/service.js';
import { rowOf } from '../support/tenants.js';

const PLACE = 'the server';
const MOST = 3;

let cluster: TestCluster;
let stop: () => Promise<void>;
let service: TestService;
let tenant: TestTenant;
let servers: ReadonlyMap<string, Pick<FleetServer, 'cluster' | 'atOnce'>>;

beforeAll(async () => {
  ({ cluster, stop } = await startCluster({}));
  service = await startServiceIn(cluster, { env: { STANDBY_DATABASES: '0', RECONCILE_EVERY_MS: '3600000' } });
  tenant = await service.createTenant('served');
  const { dbHost: host, dbPort: port } = await rowOf(service, tenant);
  const provisioner = await service.app.engine.provisioners.at({ host, port });
  servers = new Map([[PLACE, { cluster: provisioner.cluster, atOnce: MOST }]]);
});
afterAll(async () => {
  await service.close();
  await stop();
});

/** How many databases at once, after a first look. */
async function atOnce(pace = new Pace(), on = servers): Promise<number | undefined> {
  await pace.look(on);
  return pace.placesOn(on)[0]?.atOnce;
}

it('is the full one while no tenant is served', async () => {
  await expect.poll(() => atOnce(), { interval: 300 }).toBe(MOST);
});

it('is one database at a time while a statement of a tenant runs, also if it has run for long', async () => {
  const db = service.app.engine.tenantPools.database(tenant.id);
  const running = sql`select pg_sleep(4)`.execute(db);
  await expect.poll(() => atOnce()).toBe(1);
  await expect(sql`select pg_sleep(2)`.execute(service.app.engine.registry)).resolves.toBeDefined();
  expect(await atOnce()).toBe(1);
  await running;
  await expect.poll(() => atOnce(), { interval: 300 }).toBe(MOST);
});

it('rests after a database, and leaves no second one to the same worker, only on a busy server', async () => {
  const { signal } = new AbortController();
  const work = (): Promise<{ duration: number }> => Promise.resolve({ duration: 100 });
  // A server that was never looked at is busy.
  const busy = new Pace();
  const first = busy.run(PLACE, signal, work);
  expect(await busy.run(PLACE, signal, work)).toBeUndefined();
  const began = performance.now();
  await first;
  expect(performance.now() - began).toBeGreaterThan(200);
  const full = new Pace();
  full.isGentle = false;
  const all = [full.run(PLACE, signal, work), full.run(PLACE, signal, work)];
  expect(await Promise.all(all)).toEqual([{ duration: 100 }, { duration: 100 }]);
});

it('is one database at a time on a server that cannot be asked any more', async () => {
  const pace = new Pace();
  await expect.poll(() => atOnce(pace), { interval: 300 }).toBe(MOST);
  const closed = connectTo<unknown>(cluster, 'postgres');
  await closed.close(0);
  await expect.poll(() => atOnce(pace, new Map([[PLACE, { cluster: closed.db, atOnce: MOST }]]))).toBe(1);
});
