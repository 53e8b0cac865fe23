// The events between replicas, while their registry is cut, hangs, or is written to by hand. Two replicas share a registry; the
// one under test reaches it through a proxy.
import { sql } from 'kysely';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import type { Registry } from '../../db/registry/registry-schema.js';
import type { Change, Events } from '../../src/replicas/events.js';
import { openApp } from '../support/service.js';
import {
  connectAs,
  createRegistry,
  sender,
  startService,
  testConfig,
  type Send,
  type TestService,
} from '../support/app.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { eventsOver } from '../support/events.js';

/** "Within a second", plus a margin for the machine. */
const PROMISE = { timeout: 1_500, interval: 20 };

let registry: string;
/** Makes the changes. */
let home: TestService;
let proxy: Proxy;
/** Reaches its registry, and only the registry, through the proxy. */
let far: { readonly send: Send; readonly events: Events; close(): Promise<void> };

beforeAll(async () => {
  registry = await createRegistry();
  home = await startService({ registry });
  const config = testConfig(registry);
  proxy = await startProxy(config.registry.connection);
  const { host, port } = proxy;
  const connection = { ...config.registry.connection, host, port };
  const app = await openApp({ ...config, registry: { ...config.registry, connection } });
  far = { send: sender(app), events: app.engine.events, close: () => app.close() };
});
beforeEach(() => expect.poll(() => far.events.live && home.app.engine.events.live, { timeout: 30_000 }).toBe(true));
afterAll(async () => {
  proxy.mode = 'pass';
  await Promise.all([home.close(), far.close()]);
  await proxy.close();
});

describe('a change', () => {
  it('of a tenant by hand in SQL takes effect on every replica within a second, and increases the epoch', async () => {
    const tenant = await home.createTenant();
    const statuses = async (): Promise<number[]> =>
      Promise.all(
        [home, far].map(async ({ send }) => (await send('GET', '/auth/me', { token: tenant.adminToken })).status),
      );
    expect(await statuses()).toEqual([200, 200]);
    const first = (await epochOf(tenant.id)) ?? Infinity;
    await byHand(sql`update tenants set status = 'suspended' where id = ${tenant.id}`);
    await expect.poll(statuses, PROMISE).toEqual([403, 403]);
    await byHand(sql`update tenants set status = 'active' where id = ${tenant.id}`);
    await expect.poll(statuses, PROMISE).toEqual([200, 200]);
    const second = (await epochOf(tenant.id)) ?? 0;
    expect(second).toBeGreaterThan(first);
    await byHand(sql`update tenants set schema_version = 'later', name = 'Other' where id = ${tenant.id}`);
    expect(await epochOf(tenant.id)).toBe(second);
  });

  it('of a registry that was restored from a backup has an epoch that no replica has seen', async () => {
    const tenant = await home.createTenant();
    const inBackup = await home.app.engine.registry
      .selectFrom('tenants')
      .select(['epoch', 'limits'])
      .where('id', '=', tenant.id)
      .executeTakeFirstOrThrow();
    // Many changes in a row do not run ahead of the clock for longer than they take.
    for (let change = 1; change <= 3; change += 1)
      await byHand(
        sql`update tenants set limits = ${JSON.stringify({ users: change })}::jsonb where id = ${tenant.id}`,
      );
    const lost = (await epochOf(tenant.id)) ?? Infinity;
    await sleep(4_000);
    const superuser = connectAs<Registry>(registry);
    await sql`
      set session_replication_role = replica;
      update tenants set epoch = ${sql.lit(inBackup.epoch)} where id = ${sql.lit(tenant.id)};
      set session_replication_role = origin`.execute(superuser.db);
    await superuser.close(0);
    expect(await epochOf(tenant.id)).toBe(inBackup.epoch);
    await byHand(sql`update tenants set status = 'suspended' where id = ${tenant.id}`);
    expect(await epochOf(tenant.id)).toBeGreaterThan(lost);
  });

  it('takes effect on every replica before it is acknowledged', async () => {
    const tenant = await home.createTenant();
    const user = await home.createUser(tenant, 'told@example.com');
    const list = async (): Promise<number> => (await far.send('GET', '/users', { token: user.token })).status;
    const told = async (status: number): Promise<void> => {
      // A notification is sent with the commit, and arrives a moment later.
      await expect.poll(list, { timeout: 200, interval: 5 }).toBe(status);
    };
    await told(403);
    for (const roles of [['admin'], ['member'], ['admin']]) {
      await home.send('PATCH', `/users/${user.id}`, { token: tenant.adminToken, body: { roles } });
      await told(roles.includes('admin') ? 200 : 403);
    }
    await home.send('POST', '/auth/logout', { token: user.token });
    await told(401);
  });
});

describe('a replica that receives no changes', () => {
  it.each<[string, () => unknown]>([
    ['because its connections are cut again and again', () => cutAgainAndAgain(2_000)],
    ['because the network swallows everything', () => (proxy.mode = 'hang')],
  ])('%s, refuses within a second what was revoked elsewhere', async (_why, breakIt) => {
    const tenant = await home.createTenant();
    const user = await home.createUser(tenant, 'cut-off@example.com');
    const other = await home.createUser(tenant, 'logged-out@example.com');
    const me = async (token = user.token): Promise<number> => (await far.send('GET', '/auth/me', { token })).status;
    expect([await me(), await me(other.token)]).toEqual([200, 200]);
    const broken = breakIt();
    await Promise.all([
      home.send('DELETE', `/users/${user.id}`, { token: tenant.adminToken }),
      home.send('POST', '/auth/logout', { token: other.token }),
    ]);
    await expect.poll(async () => [await me(), await me(other.token)], PROMISE).toEqual([401, 401]);
    await broken;
    proxy.mode = 'pass';
    await expect.poll(() => far.events.live, { timeout: 30_000 }).toBe(true);
    expect(await me()).toBe(401);
  });

  it('trusts nothing that it cached before, once it receives changes again', async () => {
    const tenant = await home.createTenant();
    expect((await far.send('GET', '/auth/me', { token: tenant.adminToken })).status).toBe(200);
    proxy.mode = 'refuse';
    await byHand(sql`update tenants set status = 'suspended' where id = ${tenant.id}`);
    await expect.poll(() => far.events.live, PROMISE).toBe(false);
    proxy.mode = 'pass';
    await expect.poll(() => far.events.live, { timeout: 30_000 }).toBe(true);
    expect((await far.send('GET', '/auth/me', { token: tenant.adminToken })).status).toBe(403);
  });
});

describe('a change that cannot be published', () => {
  it('is not acknowledged, and is published as soon as possible', async () => {
    const tenant = await home.createTenant();
    const user = await home.createUser(tenant, 'untold@example.com');
    const [here, there] = [far, home].map(
      ({ send }) =>
        async (): Promise<number> =>
          (await send('GET', '/auth/me', { token: user.token })).status,
    );
    expect([await here?.(), await there?.()]).toEqual([200, 200]);
    expect((await far.send('GET', `/users/${user.id}`, { token: tenant.adminToken })).status).toBe(200);
    proxy.mode = 'hang';
    const answer = await far.send('PATCH', `/users/${user.id}`, { token: tenant.adminToken, body: { active: false } });
    expect(answer).toMatchObject({ status: 503, body: { code: 'unavailable' } });
    expect(answer.headers['retry-after']).toMatch(/^[1-9]\d*$/);
    expect(await here?.()).toBe(401);
    proxy.mode = 'pass';
    await expect.poll(async () => there?.(), { timeout: 30_000 }).toBe(401);
  });
});

describe('the channel', () => {
  it('delivers every change to every replica, even if 500 are published at once', async () => {
    const { connection } = testConfig(registry).registry;
    const both = [eventsOver(connection), eventsOver(connection)] as const;
    const [{ events: one }, { events: other }] = both;
    const heard: Change[] = [];
    other.subscribe((change) => {
      if (change.kind === 'operator') heard.push(change);
    });
    await expect.poll(() => one.live && other.live, { timeout: 30_000 }).toBe(true);
    const changes = Array.from({ length: 500 }, (_, id) => ({ kind: 'operator' as const, operatorId: `o${id}` }));
    await Promise.all(changes.map((change) => one.publish(change)));
    await expect.poll(() => heard.length, { timeout: 30_000 }).toBe(500);
    expect(new Set(heard.map((change) => JSON.stringify(change))).size).toBe(500);
    await Promise.all(both.map(({ close }) => close()));
    await sleep(700);
    expect([one.live, other.live]).toEqual([false, false]);
  });
});

async function cutAgainAndAgain(ms: number): Promise<void> {
  const until = performance.now() + ms;
  while (performance.now() < until) {
    proxy.cut();
    await sleep(20);
  }
}

async function byHand(statement: ReturnType<typeof sql>): Promise<void> {
  const handle = connectAs<Registry>(registry);
  await statement.execute(handle.db);
  await handle.close(0);
}

async function epochOf(id: string): Promise<number | undefined> {
  const row = await home.app.engine.registry
    .selectFrom('tenants')
    .select('epoch')
    .where('id', '=', id)
    .executeTakeFirst();
  return row?.epoch;
}
