// Cached answers in the memory of a service of one replica: no connection is needed, and who may read is still checked.
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished, vi } from 'vitest';
import { readFleetStore } from '../../db/registry/fleet/read-cache-rows.js';
import { cacheEventsOf, untilCached } from '../support/cached-replicas.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import {
  createRegistryIn,
  startServiceIn,
  type Answer,
  type TestService,
  type TestTenant,
} from '../support/service.js';

const SOON = { timeout: 30_000, interval: 20 };
/** "Within a second", plus a margin for the machine. */
const WITHIN_A_SECOND = { timeout: 1_500, interval: 20 };

describe('cached answers in the memory of a process', () => {
  let server: Proxy;
  let registry: string;
  let service: TestService;
  let tenant: TestTenant;
  let id: string;
  const env = { READ_CACHE: 'on' };

  beforeAll(async () => {
    const cluster = inject('cluster');
    server = await startProxy(cluster.provisioner);
    const { host, port } = server;
    registry = await createRegistryIn(cluster);
    const through = { ...cluster, provisioner: { ...cluster.provisioner, host, port } };
    service = await startServiceIn(through, { registry, env, overrides: { caching: { offFor: 0 } } });
    tenant = await service.createTenant();
    const body = { name: 'a product', price: '1.00', stockQuantity: 1 };
    const made = await service.send<{ id: string }>('POST', '/products', { token: tenant.adminToken, body });
    id = made.body.id;
  });
  afterAll(async () => {
    await service.close();
    await server.close();
  });

  const read = (token = tenant.adminToken): Promise<Answer<{ stockQuantity: number; code?: string }>> =>
    service.send('GET', `/products/${id}`, { token });
  const cached = (): Promise<void> => untilCached({ service }, () => read());

  it('follow each write', async () => {
    for (let value = 2; value < 6; value += 1) {
      await cached();
      const body = { stockQuantity: value };
      const written = await service.send('PATCH', `/products/${id}`, { token: tenant.adminToken, body });
      expect(written.status, written.text).toBe(200);
      expect((await read()).body.stockQuantity).toBe(value);
    }
  });

  it.each([
    ['a creation', 'POST', '/products', { name: 'another', price: '1.00' }, 1],
    ['a change of the stock', 'POST', '/products/:id/stock', { delta: 1 }, 0],
    ['a removal', 'DELETE', '/products/:last', undefined, -1],
  ] as const)('of lists follow %s', async (_, method, url, body, more) => {
    const token = tenant.adminToken;
    interface Row {
      readonly id: string;
      readonly stockQuantity: number;
    }
    const list = (): Promise<Answer<{ data: Row[] }>> => service.send('GET', '/products?limit=50', { token });
    const before = (await list()).body.data;
    await untilCached({ service }, list);
    const last = before.find((product) => product.id !== id)?.id ?? '';
    const written = await service.send(method, url.replace(':id', id).replace(':last', last), { token, body });
    expect(written.status, written.text).toBeLessThan(300);
    const after = (await list()).body.data;
    expect(after.length).toBe(before.length + more);
    expect(after).not.toEqual(before);
    if (more < 0) expect((await service.send('GET', `/products/${last}`, { token })).status).toBe(404);
  });

  it('are shared by all that ask at once, with one query', async () => {
    await cached();
    const token = tenant.adminToken;
    await service.send('PATCH', `/products/${id}`, { token, body: { stockQuantity: 9 } });
    // A list: the answer of the write is stored as the answer of its row.
    const list = (): Promise<Answer<{ data: { id: string; stockQuantity: number }[] }>> =>
      service.send('GET', '/products?limit=11', { token });
    const before = await cacheEventsOf({ service }, 'filled');
    const answers = await Promise.all(Array.from({ length: 30 }, list));
    const stocks = answers.map(({ body }) => body.data.find((product) => product.id === id)?.stockQuantity);
    expect(new Set(stocks)).toEqual(new Set([9]));
    await expect.poll(() => cacheEventsOf({ service }, 'filled'), SOON).toBe(before + 1);
  });

  it('of one tenant end when an operator says so, and begin again', async () => {
    await cached();
    const allow = (readCache: boolean, token = service.operatorToken): Promise<Answer<{ readCache?: boolean }>> =>
      service.send('PATCH', `/tenants/${tenant.id}`, { token, body: { readCache } });
    expect((await allow(false, tenant.adminToken)).status).toBe(403);
    expect((await allow(false)).body.readCache).toBe(false);
    const hitsOfOne = async (): Promise<number> => {
      const before = await cacheEventsOf({ service }, 'hit');
      await read();
      return (await cacheEventsOf({ service }, 'hit')) - before;
    };
    await expect.poll(hitsOfOne, WITHIN_A_SECOND).toBe(0);
    const token = tenant.adminToken;
    const written = await service.send('PATCH', `/products/${id}`, { token, body: { stockQuantity: 77 } });
    expect(written.status, written.text).toBe(200);
    expect((await allow(true)).body.readCache).toBe(true);
    expect((await service.send('GET', `/tenants/${tenant.id}`, { token })).body).toMatchObject({ readCache: true });
    await expect
      .poll(async () => {
        await service.app.engine.housekeeping.runNow('read cache');
        return hitsOfOne();
      }, SOON)
      .toBe(1);
    expect((await read()).body.stockQuantity).toBe(77);
  });

  it("are not another tenant's, nor of another address", async () => {
    await cached();
    const other = await service.createTenant();
    expect((await read(other.adminToken)).status).toBe(404);
    const token = tenant.adminToken;
    const all = await service.send<{ data: unknown[] }>('GET', '/products?limit=50', { token });
    const none = await service.send<{ data: unknown[] }>('GET', '/products?limit=50&search=nothing-has-this', {
      token,
    });
    const spelled = await service.send('GET', '/products?search=nothing-has-this&limit=50', { token });
    expect([all.body.data.length > 0, none.body.data, spelled.text]).toEqual([true, [], none.text]);
  });

  it('are not stored for a database that came after the admission of their request', async () => {
    await cached();
    const { tenantDirectory } = service.app.engine;
    const peek = tenantDirectory.peek.bind(tenantDirectory);
    let admitted = false;
    vi.spyOn(tenantDirectory, 'peek').mockImplementation((asked) => {
      const known = peek(asked);
      if (asked !== tenant.id || !known) return known;
      // The admission is the first that asks.
      const moved = admitted;
      admitted = true;
      return moved ? { ...known, epoch: known.epoch + 1 } : known;
    });
    onTestFinished(() => void vi.restoreAllMocks());
    const before = await cacheEventsOf({ service }, 'filled');
    expect((await read()).status).toBe(200);
    await sleep(100);
    expect(await cacheEventsOf({ service }, 'filled')).toBe(before);
  });

  it("are there while the tenants' server is away, for who may read them", async () => {
    const user = await service.createUser(tenant, 'reader@example.com');
    await cached();
    expect((await read(user.token)).status).toBe(200);
    server.mode = 'refuse';
    onTestFinished(() => {
      server.mode = 'pass';
    });
    const uncached = await service.send('GET', '/products?limit=7', { token: tenant.adminToken });
    expect(uncached.status).toBe(503);
    expect((await read()).status).toBe(200);
    expect((await read(user.token)).status).toBe(200);

    // Another replica has ended the user's session, or changed its rights. Only the database knows them now.
    await service.app.engine.events.publish({ kind: 'user', tenantId: tenant.id, userId: user.id });
    await expect.poll(async () => (await read(user.token)).status, WITHIN_A_SECOND).toBe(503);
    expect((await read()).status).toBe(200);

    const suspended = await service.send('PATCH', `/tenants/${tenant.id}`, {
      token: service.operatorToken,
      body: { active: false },
    });
    // Its connections cannot be closed while the server is away: then the answer promises that they will be.
    expect([200, 503], suspended.text).toContain(suspended.status);
    await expect.poll(async () => (await read()).body.code, WITHIN_A_SECOND).toBe('tenant-suspended');
    server.mode = 'pass';
    await expect
      .poll(
        async () =>
          (
            await service.send('PATCH', `/tenants/${tenant.id}`, {
              token: service.operatorToken,
              body: { active: true },
            })
          ).status,
        SOON,
      )
      .toBe(200);
    await expect.poll(async () => (await read()).status, SOON).toBe(200);
  });

  describe("while the tenants' server is stopped", () => {
    const stopServer = (): void => {
      server.mode = 'refuse';
      onTestFinished(startServer);
    };
    /** Resolves when no breaker is open any more: reads and writes have their own connections. */
    const startServer = async (): Promise<void> => {
      server.mode = 'pass';
      const headers = { 'cache-control': 'no-cache' };
      const token = tenant.adminToken;
      const statusOf = async (method: 'GET' | 'DELETE', url: string): Promise<number> =>
        (await service.send(method, url, { token, headers })).status;
      await expect.poll(() => statusOf('GET', `/products/${id}`), SOON).toBe(200);
      await expect.poll(() => statusOf('DELETE', `/roles/${tenant.id}`), SOON).toBe(404);
    };

    it('have their ETag, and 304, and no body for HEAD; Cache-Control: no-cache asks the database', async () => {
      await cached();
      const token = tenant.adminToken;
      const fresh = await service.send('GET', `/products/${id}`, { token, headers: { 'cache-control': 'no-cache' } });
      expect(fresh.status).toBe(200);
      stopServer();
      const stored = await read();
      for (const name of ['etag', 'cache-control', 'content-type', 'content-length'])
        expect(stored.headers[name], name).toBe(fresh.headers[name]);
      expect([stored.status, stored.text]).toEqual([200, fresh.text]);
      const headers = { 'if-none-match': String(fresh.headers.etag) };
      const same = await service.send('GET', `/products/${id}`, { token, headers });
      expect([same.status, same.text]).toEqual([304, '']);
      for (const directive of ['no-cache', 'no-store'])
        expect(
          (await service.send('GET', `/products/${id}`, { token, headers: { 'cache-control': directive } })).status,
        ).toBe(503);
      // Of another row: a write that failed is in doubt, and its row is not cached for two minutes.
      const other = `/products/${tenant.id}`;
      expect((await service.send('PATCH', other, { token, body: { stockQuantity: 5 } })).status).toBe(503);
      expect((await read()).status).toBe(200);
    });

    it('are for no session that has ended: one that a logout ended, or could not end', async () => {
      const user = await service.createUser(tenant, 'leaver@example.com');
      await cached();
      expect((await read(user.token)).status).toBe(200);
      const logout = (): Promise<Answer> => service.send('POST', '/auth/logout', { token: user.token });
      server.mode = 'refuse';
      // Not acknowledged: the session goes on.
      expect((await logout()).status).toBe(503);
      await startServer();
      expect((await logout()).status).toBe(204);
      stopServer();
      // Only the database knows why: 503.
      await expect.poll(async () => (await read(user.token)).status, WITHIN_A_SECOND).not.toBe(200);
      await sleep(300);
      expect((await read(user.token)).status).not.toBe(200);
      expect((await read()).status).toBe(200);
    });

    it('are for no user that has lost the permission, or the account', async () => {
      const token = tenant.adminToken;
      const role = { name: 'no-products', permissions: ['users:read'] };
      expect((await service.send('POST', '/roles', { token, body: role })).status).toBe(201);
      const losing = await service.createUser(tenant, 'demoted@example.com');
      const gone = await service.createUser(tenant, 'gone@example.com');
      await cached();
      expect([(await read(losing.token)).status, (await read(gone.token)).status]).toEqual([200, 200]);
      const body = { roles: ['no-products'] };
      expect((await service.send('PATCH', `/users/${losing.id}`, { token, body })).status).toBe(200);
      expect((await service.send('PATCH', `/users/${gone.id}`, { token, body: { active: false } })).status).toBe(200);
      stopServer();
      // 503 if only the database knows what the user may do now.
      for (const user of [losing, gone])
        await expect.poll(async () => (await read(user.token)).status, WITHIN_A_SECOND).not.toBe(200);
      await sleep(300);
      expect((await read(losing.token)).status).not.toBe(200);
      expect((await read(gone.token)).status).not.toBe(200);
      expect((await read()).status).toBe(200);
    });
  });

  it('end when a second replica serves, and begin again when it is gone', async () => {
    await cached();
    const second = await startServiceIn(inject('cluster'), { registry, env, operator: false });
    onTestFinished(() => second.close());
    const token = tenant.adminToken;
    for (let value = 20; value < 25; value += 1) {
      const body = { stockQuantity: value };
      const written = await second.send('PATCH', `/products/${id}`, { token, body });
      expect(written.status, written.text).toBe(200);
      expect((await read()).body.stockQuantity).toBe(value);
    }
    await expect.poll(async () => (await readFleetStore(service.app.engine.registry)).store, SOON).toBe('none');
    await second.close();
    await untilCached({ service }, () => read(), 40_000);
  });
});
