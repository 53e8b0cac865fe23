// Cache-Control of every answer: nothing is stored, unless the route says otherwise.
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { RouteEntry } from '../../src/auth/route-access.js';
import { startService, startServiceForTest, type TestService, type TestTenant } from '../support/app.js';
import { exchange, listen, parseAnswer, sendBytes, type Received } from '../support/wire.js';

const ORIGIN = 'https://app.example.com';

/** What every reader gets alike. */
const SHARED: Readonly<Record<string, RegExp>> = {
  '/.well-known/jwks.json': /^public, max-age=300$/,
  '/docs': /^public, no-cache$/,
  '/docs/json': /^public, no-cache$/,
  '/docs/yaml': /^public, no-cache$/,
  '/docs/static/swagger-initializer.js': /^public, no-cache$/,
  '/docs/static/index.html': /^public, no-cache$/,
  '/docs/static/theme/icon.svg': /^public, no-cache$/,
  '/docs/static/*': /^public, max-age=0$/,
};

let service: TestService;
let tenant: TestTenant;
let port: number;
beforeAll(async () => {
  service = await startService({ env: { CORS_ORIGINS: ORIGIN } });
  port = await listen(service);
  tenant = await service.createTenant();
});
afterAll(() => service.close());

const ofApi = (): RouteEntry[] => service.app.routeTable.filter(({ url }) => url !== '*');

function send({ url, access }: RouteEntry, method: string, token = true): Promise<Received> {
  const value = access.scope === 'operator' ? service.operatorToken : tenant.adminToken;
  const address = url
    .replace('/tenants/:id', `/tenants/${tenant.id}`)
    .replace(':id', tenant.adminId)
    .replace('*', 'swagger-ui.css');
  return exchange(port, method, address, token ? { headers: { authorization: `Bearer ${value}` } } : {});
}

/** A caller may keep what has an ETag, and must ask whether it is still valid. */
function expected(url: string, { status, headers }: Received): RegExp {
  if (status < 400 && SHARED[url]) return SHARED[url];
  return status < 400 && headers.etag !== undefined ? /^private, no-cache$/ : /^no-store$/;
}

it('every GET and HEAD says no-store, unless it has an ETag or is the same for all', { timeout: 60_000 }, async () => {
  const reads = ofApi().filter(({ method }) => method === 'GET');
  expect(reads.length).toBeGreaterThan(20);
  const succeeded: string[] = [];
  for (const route of reads)
    for (const method of ['GET', 'HEAD']) {
      const answer = await send(route, method);
      if (answer.status < 400) succeeded.push(route.url);
      expect(answer.headers['cache-control'], `${method} ${route.url}`).toMatch(expected(route.url, answer));
    }
  expect(succeeded).toEqual(expect.arrayContaining([...Object.keys(SHARED), '/products', '/auth/me', '/tenants']));
});

it('every error says no-store, on every route', { timeout: 60_000 }, async () => {
  for (const route of ofApi())
    for (const method of [route.method, 'PUT']) {
      const answer = await send(route, method, false);
      if (answer.status < 400) continue;
      expect([method, route.url, answer.headers['cache-control']]).toEqual([method, route.url, 'no-store']);
    }
});

it('errors outside every route and preflights say no-store', async () => {
  const limited = await startServiceForTest({ env: { RATE_LIMIT_MAX: '1' } });
  const limitedPort = await listen(limited);
  await exchange(limitedPort, 'GET', '/docs/json');
  const json = { 'content-type': 'application/json' };
  const answers: [number, Received][] = [
    [404, await exchange(port, 'GET', '/nothing')],
    [404, await exchange(port, 'GET', '/docs/static/nothing.js')],
    [400, await exchange(port, 'GET', '/docs/static/%ff')],
    [400, await exchange(port, 'GET', '/%ff')],
    [405, await exchange(port, 'PUT', '/.well-known/jwks.json')],
    [413, await exchange(port, 'POST', '/auth/login', { headers: json, body: ' '.repeat(100_000) })],
    [415, await exchange(port, 'POST', '/auth/login', { headers: { 'content-type': 'text/plain' }, body: 'x' })],
    [429, await exchange(limitedPort, 'GET', '/docs/json')],
    [429, await exchange(limitedPort, 'GET', '/nothing')],
    [400, parseAnswer(await sendBytes(port, 'hello\r\n\r\n'))],
    [431, parseAnswer(await sendBytes(port, `GET / HTTP/1.1\r\nhost: x\r\nx: ${'x'.repeat(20_000)}\r\n\r\n`))],
    [
      204,
      await exchange(port, 'OPTIONS', '/products', {
        headers: { origin: ORIGIN, 'access-control-request-method': 'GET' },
      }),
    ],
  ];
  for (const [status, answer] of answers)
    expect([status, answer.headers['cache-control']]).toEqual([answer.status, 'no-store']);
});
