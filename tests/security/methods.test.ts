// Methods and addresses: HEAD as GET, a wrong method on every address, every method that Node's parser knows, and a slash at the
// end.
import { METHODS } from 'node:http';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RouteEntry } from '../../src/auth/route-access.js';
import { startService, startServiceForTest, type TestService, type TestTenant } from '../support/app.js';
import { exchange, expectProblem, listen, type Received } from '../support/wire.js';

let service: TestService;
let tenant: TestTenant;
let port: number;

beforeAll(async () => {
  service = await startService();
  tenant = await service.createTenant();
  port = await listen(service);
});
afterAll(() => service.close());

/** Sends a request as a caller that the route admits. */
function send(method: string, { url, access }: RouteEntry): Promise<Received> {
  const token = access.scope === 'operator' ? service.operatorToken : tenant.adminToken;
  const address = url.replace('/tenants/:id', `/tenants/${tenant.id}`).replace(':id', tenant.adminId);
  return exchange(port, method, address, { headers: { authorization: `Bearer ${token}` } });
}

const routes = (): RouteEntry[] => service.app.routeTable.filter(({ url }) => !url.includes('*'));

describe('HEAD', () => {
  it('gets the answer of GET without its body, on every route', { timeout: 30_000 }, async () => {
    const reads = routes().filter(({ method }) => method === 'GET');
    expect(reads.length).toBeGreaterThan(15);
    for (const route of reads) {
      const [get, head] = [await send('GET', route), await send('HEAD', route)];
      expect([route.url, head.status, head.text]).toEqual([route.url, get.status, '']);
      expect(head.headers['content-type'], route.url).toBe(get.headers['content-type']);
    }
  });

  it('is refused without a token or without the permission, as GET is', async () => {
    expect((await exchange(port, 'HEAD', '/products')).status).toBe(401);
    const headers = { authorization: `Bearer ${tenant.adminToken}` };
    expect((await exchange(port, 'HEAD', '/tenants', { headers })).status).toBe(403);
  });
});

/** CONNECT asks for a tunnel and gets no answer: Node closes the connection. */
const others = METHODS.filter((method) => method !== 'CONNECT');

describe('a wrong method', () => {
  it('gets 405 with the allowed methods, on every address', { timeout: 30_000 }, async () => {
    for (const route of routes()) {
      const same = routes().filter(({ url }) => url === route.url);
      const methods = new Set(same.flatMap(({ method }) => (method === 'GET' ? ['GET', 'HEAD'] : [method])));
      const wrong = ['PUT', 'DELETE', 'POST', 'GET'].find((method) => !methods.has(method)) ?? 'PUT';
      const answer = await send(wrong, route);
      expectProblem(answer, 405, 'method-not-allowed');
      expect(String(answer.headers.allow).split(', ')).toEqual([...methods].sort());
    }
  });

  it('gets the same answer for an address with a trailing slash or with encoded characters', async () => {
    for (const address of ['/products', '/products/', '/%70roducts', '/docs', '/docs/']) {
      const answer = await exchange(port, 'PUT', address);
      expectProblem(answer, 405, 'method-not-allowed');
      const allowed = address.startsWith('/docs') ? 'GET, HEAD' : 'GET, HEAD, POST';
      expect([address, answer.headers.allow]).toEqual([address, allowed]);
    }
  });

  it('is not reported if the method is allowed and finds nothing: 404', async () => {
    for (const method of ['GET', 'HEAD']) {
      const answer = await exchange(port, method, '/docs/static/no-such-file.js');
      expect([method, answer.status, answer.headers.allow]).toEqual([method, 404, undefined]);
    }
  });

  it(
    'that Node’s parser knows never gets 5xx, with or without a body, on a known or an unknown address',
    { timeout: 30_000 },
    async () => {
      const bodies = [
        { headers: {}, body: '' },
        { headers: { 'content-type': 'application/json', 'content-length': '2' }, body: '{}' },
        { headers: { 'content-type': 'text/plain', 'content-length': '1' }, body: 'x' },
      ];
      for (const method of others)
        for (const { headers, body } of bodies)
          for (const [address, status] of [
            ['/products', 405],
            ['/no/such/route', 404],
          ] as const) {
            const answer = await exchange(port, method, address, { headers, body });
            const known = address === '/products' && ['GET', 'HEAD', 'POST', 'OPTIONS'].includes(method);
            expect(answer.status, `${method} ${address}`).toBeLessThan(500);
            if (!known && method !== 'OPTIONS') expect([method, answer.status]).toEqual([method, status]);
          }
    },
  );
});

describe('a slash at the end of an address', () => {
  /** What does not differ from request to request. */
  const comparable = ({ status, headers, text }: Received): unknown => ({
    status,
    type: headers['content-type'],
    allow: headers.allow,
    code: text.startsWith('{') ? (JSON.parse(text) as { code?: string }).code : undefined,
  });

  async function expectEqual(to: number, method: string, address: string): Promise<void> {
    const [without, withSlash] = [await exchange(to, method, address), await exchange(to, method, `${address}/`)];
    expect([method, address, comparable(withSlash)]).toEqual([method, address, comparable(without)]);
  }

  it('makes no difference on any route, for any method', { timeout: 30_000 }, async () => {
    for (const { url } of routes())
      for (const method of ['GET', 'HEAD', 'POST', 'PATCH', 'DELETE', 'OPTIONS', 'PUT'])
        await expectEqual(port, method, url.replace(':id', tenant.id));
  });

  it('makes no difference to what a caller reads', async () => {
    for (const route of routes().filter(({ method, access }) => method === 'GET' && access.scope !== 'public')) {
      const [without, withSlash] = [await send('GET', route), await send('GET', { ...route, url: `${route.url}/` })];
      expect([route.url, withSlash.status]).toEqual([route.url, without.status]);
    }
  });

  it('makes no difference under API_PREFIX, and with CORS', async () => {
    const prefixed = await startServiceForTest({ env: { API_PREFIX: '/v1', CORS_ORIGINS: 'https://app.example.com' } });
    const prefixedPort = await listen(prefixed);
    for (const address of [
      '/v1/products',
      `/v1/products/${tenant.id}`,
      '/v1/auth/login',
      '/health/live',
      '/docs/json',
      '/v1',
    ])
      for (const method of ['GET', 'HEAD', 'POST', 'OPTIONS', 'PUT']) await expectEqual(prefixedPort, method, address);
  });

  it('is only one slash: an empty segment is another address', async () => {
    for (const address of ['//products', '/auth//login', '///'])
      expectProblem(await exchange(port, 'GET', address), 404, 'not-found');
    const headers = { authorization: `Bearer ${tenant.adminToken}` };
    expectProblem(await exchange(port, 'GET', '/products//', { headers }), 400, 'invalid-request');
  });
});
