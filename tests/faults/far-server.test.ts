// A distant tenants' server with TLS: a round trip takes 300 ms, and opening a connection takes seven round trips.
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { clientConfig } from '../../db/driver/client.js';
import { ClientConnection } from '../../db/driver/connection.js';
import { ADMIN, beginSession, startService, type TestService } from '../support/app.js';
import { startProxy, type Proxy } from '../support/proxy.js';
import { startSecondCluster, type SecondCluster } from '../support/second-cluster.js';

/** ms for one round trip. */
const ROUND_TRIP = 300;

let server: SecondCluster;
let far: Proxy;
let service: TestService;

beforeAll(async () => {
  server = await startSecondCluster('far');
  tlsCa = await server.serveTls('127.0.0.1');
  far = await startProxy(server.superuser);
  service = await startService();
  const body = { ...server.body, host: far.host, port: far.port, tls: 'verify-full', tlsCa };
  const made = await service.send<{ id: string }>('POST', '/clusters', { token: service.operatorToken, body });
  expect(made.status, made.text).toBe(201);
  clusterId = made.body.id;
});

let clusterId: string;
let tlsCa: string;

afterAll(async () => {
  await service.close();
  await far.close();
  await server.stop();
});

describe('a tenant on a far server', () => {
  it('can sign in, read and write over new connections, and no connection is given up', async () => {
    const { operatorToken, app, send } = service;
    const made = await send<{ id: string }>('POST', '/tenants', {
      token: operatorToken,
      body: { name: 'Far', slug: 'far', admin: ADMIN, clusterId },
    });
    expect(made.status, made.text).toBe(201);
    const { id } = made.body;
    const { rows } = await sql<{ id: string }>`select id from users`.execute(app.engine.tenantPools.database(id));
    const token = await beginSession(app, { kind: 'user', tenantId: id, userId: rows[0]?.id ?? '' });
    await app.engine.tenantPools.retire(id);
    // The proxy delays only one direction, by the time of both.
    far.delay = ROUND_TRIP;

    const { email, password } = ADMIN;
    const [signedIn, list, written] = await Promise.all([
      send('POST', '/auth/login', { body: { tenant: 'far', email, password } }),
      send('GET', '/products', { token }),
      send('POST', '/products', { token, body: { name: 'Chair', price: '1.00' } }),
    ]);
    expect([signedIn.status, list.status, written.status]).toEqual([200, 200, 201]);
    const again = await send<{ data: unknown[] }>('GET', '/products', { token });
    expect(again.body.data).toHaveLength(1);
    expect(app.engine.governors.at(far).tenants.stats()).toMatchObject({ unknown: 0, timedOut: 0 });
    // The breaker's probe, as when a server is back, and the check of its sessions.
    await app.engine.tenantPools.probe(id);
    far.delay = 0;
  });

  it('is not given up for its silence, even if opening a connection takes longer than a silence may', async () => {
    const { host, port } = far;
    const client = new ClientConnection({
      ...clientConfig({ ...server.superuser, host, port, tls: { ca: tlsCa } }),
      application_name: 'far',
    });
    far.delay = ROUND_TRIP;
    const begun = performance.now();
    try {
      await client.open(4_000, async () => {
        await client.query('select 1');
      });
    } finally {
      far.delay = 0;
    }
    client.close();
    await client.closed;
    expect(performance.now() - begun).toBeGreaterThan(1_500);
  });
});
