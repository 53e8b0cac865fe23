// What holds for every request, whatever its route: problem documents, request IDs, headers, limits, and input that is not HTTP.
import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  OPERATOR,
  startService,
  startServiceForTest,
  type Answer,
  type Send,
  type TestService,
} from '../support/app.js';
import { exchange, expectProblem, listen, parseAnswer, sendBytes, type Received } from '../support/wire.js';

const UUID = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;
const JSON_TYPE = { 'content-type': 'application/json' };

let service: TestService;
let send: Send;
let port: number;
beforeAll(async () => {
  service = await startService();
  send = service.send;
  port = await listen(service);
});
afterAll(() => service.close());

function fetchOverSocket(method: string, path: string, options?: Parameters<typeof exchange>[3]): Promise<Received> {
  return exchange(port, method, path, options);
}

describe('the answer is a problem document', () => {
  it('for an unknown route, whatever the method', async () => {
    for (const method of ['GET', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS', 'HEAD', 'TRACE', 'PROPFIND']) {
      const answer = await fetchOverSocket(method, '/no/such/route');
      if (method === 'HEAD') expect(answer.status).toBe(404);
      else expectProblem(answer, 404, 'not-found');
    }
  });

  it('for an unknown route with a body that would not be read', async () => {
    for (const [type, body] of [
      ['application/json', '{'],
      ['text/plain', 'x'],
      ['application/json', 'x'.repeat(100_000)],
    ] as const) {
      const answer = await send('POST', '/no/such/route', { body, headers: { 'content-type': type } });
      expect(answer.status).toBeGreaterThanOrEqual(400);
      expectProblem(answer, answer.status, String(answer.body['code']));
    }
  });

  it('for a path that is not UTF-8', async () => {
    expectProblem(await fetchOverSocket('GET', '/%ff'), 400, 'invalid-request');
    expectProblem(await fetchOverSocket('GET', '/products/%E0%A4%A'), 400, 'invalid-request');
  });

  it.each<[string, string, string, number, string]>([
    ['malformed JSON', 'application/json', '{"email":', 400, 'invalid-request'],
    ['JSON that is no object', 'application/json', '"text"', 400, 'invalid-request'],
    ['null', 'application/json', 'null', 400, 'invalid-request'],
    ['an array', 'application/json', '[]', 400, 'invalid-request'],
    ['an empty body', 'application/json', '', 400, 'invalid-request'],
    ['__proto__', 'application/json', '{"__proto__":{"admin":true}}', 400, 'invalid-request'],
    ['constructor.prototype', 'application/json', '{"constructor":{"prototype":{"x":1}}}', 400, 'invalid-request'],
    ['a body that is too large', 'application/json', `{"email":"${'x'.repeat(65_536)}"}`, 413, 'body-too-large'],
    ['text/plain', 'text/plain', 'hello', 415, 'unsupported-media-type'],
    ['a form', 'application/x-www-form-urlencoded', 'a=1', 415, 'unsupported-media-type'],
    ['XML', 'application/xml', '<a/>', 415, 'unsupported-media-type'],
    ['what is no media type', 'json', '{}', 415, 'unsupported-media-type'],
  ])('for %s', async (_, type, payload, status, code) => {
    const answer = await service.app.inject({
      method: 'POST',
      url: '/auth/operator/login',
      headers: { 'content-type': type },
      payload,
    });
    expectProblem({ status: answer.statusCode, headers: answer.headers, text: answer.body }, status, code);
  });

  it('for a body without a content type, and for a missing body', async () => {
    const untyped = await fetchOverSocket('POST', '/auth/operator/login', { body: '{}' });
    expectProblem(untyped, 415, 'unsupported-media-type');
    expectProblem(await fetchOverSocket('POST', '/auth/operator/login'), 400, 'invalid-request');
  });

  it('for a chunked body that becomes too large', async () => {
    const chunk = 'x'.repeat(0x8000);
    const chunks = Array.from({ length: 4 }, () => `8000\r\n${chunk}\r\n`).join('');
    const raw = await sendBytes(
      port,
      `POST /auth/operator/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n${chunks}0\r\n\r\n`,
    );
    expectProblem(parseAnswer(raw), 413, 'body-too-large');
  });

  it('for a wrong method, whatever X-HTTP-Method-Override or ?_method says', async () => {
    const { adminToken } = await service.createTenant('override');
    const body = { name: 'Kept', price: '1' };
    const { body: product } = await send('POST', '/products', { token: adminToken, body });
    const url = `/products/${String(product['id'])}`;
    for (const name of ['x-http-method-override', 'x-method-override', 'x-http-method']) {
      expect((await send('GET', url, { token: adminToken, headers: { [name]: 'DELETE' } })).status).toBe(200);
      expect((await send('POST', url, { token: adminToken, headers: { [name]: 'DELETE' } })).status).toBe(405);
    }
    expect((await send('GET', `${url}?_method=DELETE`, { token: adminToken })).status).toBeLessThan(500);
    expect((await send('POST', `${url}?_method=DELETE`, { token: adminToken })).status).toBe(405);
    expect((await send('GET', url, { token: adminToken })).status).toBe(200);
  });
});

it('an unknown Expect header is ignored', async () => {
  const headers = { expect: 'the-unexpected' };
  expect((await fetchOverSocket('GET', '/health/live', { headers })).status).toBe(200);
  expectProblem(await fetchOverSocket('GET', '/users', { headers }), 401, 'unauthenticated');
});

describe('DELETE with a JSON content type and no body', () => {
  it('gets 400, or removes the product', async () => {
    const { adminToken } = await service.createTenant('deleting');
    const { body } = await send('POST', '/products', { token: adminToken, body: { name: 'x', price: '1' } });
    const url = `/products/${String(body['id'])}`;
    const answer = await fetchOverSocket('DELETE', url, {
      headers: { ...JSON_TYPE, authorization: `Bearer ${adminToken}` },
    });
    if (answer.status !== 204) expectProblem(answer, 400, 'invalid-request');
    expect((await send('GET', url, { token: adminToken })).status).toBe(answer.status === 204 ? 404 : 200);
  });
});

describe('input that is not HTTP', () => {
  it.each([
    ['garbage', 'hello\r\n\r\n'],
    ['a bad method', 'G@T / HTTP/1.1\r\nhost: x\r\n\r\n'],
    ['a bad version', 'GET / HTTP/9.9\r\nhost: x\r\n\r\n'],
    ['a header with a space in its name', 'GET / HTTP/1.1\r\nhost: x\r\nbad header: y\r\n\r\n'],
    ['two lengths', 'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab'],
    [
      'a length and chunks',
      'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n',
    ],
    ['a negative length', 'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n'],
    ['TLS', '\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03'],
  ])('gets a problem document with 400, and the connection closes: %s', async (_, bytes) => {
    const answer = parseAnswer(await sendBytes(port, bytes));
    expectProblem(answer, 400, 'invalid-request');
    expect(answer.headers.connection).toBe('close');
    expect(answer.headers['x-request-id']).toMatch(UUID);
    expect(answer.headers).toMatchObject(service.app.securityHeaders);
  });

  it('does not keep the socket of a client that never closes its side', async () => {
    const socket = connect({ port, host: '127.0.0.1', allowHalfOpen: true });
    socket.on('error', () => undefined).resume();
    await once(socket, 'connect');
    const open = (): Promise<number> =>
      new Promise((resolve) => {
        service.app.server.getConnections((_, count) => {
          resolve(count);
        });
      });
    await expect.poll(open).toBeGreaterThan(0);
    const before = await open();
    socket.write('hello\r\n\r\n');
    await expect.poll(open, { timeout: 30_000 }).toBeLessThan(before);
    socket.destroy();
  });

  it('gets 431 if its headers are longer than 16 KiB', async () => {
    const raw = await sendBytes(port, `GET /health/live HTTP/1.1\r\nhost: x\r\nx-long: ${'x'.repeat(20_000)}\r\n\r\n`);
    expectProblem(parseAnswer(raw), 431, 'headers-too-large');
  });

  it('does not stop the service from answering other clients', async () => {
    expect((await fetchOverSocket('GET', '/health/live')).status).toBe(200);
  });
});

describe('X-Request-Id', () => {
  it.each(['a', 'Abc_123-x', 'x'.repeat(64)])('is kept if it is well formed: %s', async (id) => {
    const answer = await send('GET', '/health/live', { headers: { 'x-request-id': id } });
    expect(answer.headers['x-request-id']).toBe(id);
    const failed = await send('GET', '/users', { headers: { 'x-request-id': id } });
    expect(failed.headers['x-request-id']).toBe(id);
    expect(failed.body['requestId']).toBe(id);
  });

  it.each(['', 'x'.repeat(65), 'a b', 'a\tb', 'a"b', 'ä', '{"level":"error"}', '../x', 'a,b'])(
    'is replaced if it is not: %j',
    async (id) => {
      const answer = await send('GET', '/users', { headers: { 'x-request-id': id } });
      expect(answer.headers['x-request-id']).toMatch(UUID);
      expect(answer.body['requestId']).toBe(answer.headers['x-request-id']);
    },
  );

  it('is replaced if it is given twice', async () => {
    const raw = await sendBytes(
      port,
      'GET /health/live HTTP/1.1\r\nhost: x\r\nx-request-id: a\r\nx-request-id: b\r\nconnection: close\r\n\r\n',
    );
    expect(parseAnswer(raw).headers['x-request-id']).toMatch(UUID);
  });

  it('differs from request to request', async () => {
    const ids = await Promise.all(
      Array.from({ length: 20 }, async () => (await send('GET', '/health/live')).headers['x-request-id']),
    );
    expect(new Set(ids).size).toBe(20);
  });
});

describe('every answer', () => {
  it('has a request ID and the security headers, even if it is an error', async () => {
    const limited = await startServiceForTest({
      env: { RATE_LIMIT_MAX: '2', CORS_ORIGINS: 'https://app.example.com' },
    });
    const { operatorToken: token } = limited;
    const answers: [number, string, Answer][] = [
      [200, 'success', await limited.send('GET', '/tenants', { token })],
      [401, 'no token', await limited.send('GET', '/tenants')],
      [429, 'limited', await limited.send('GET', '/tenants', { token })],
      [200, 'health', await send('GET', '/health/live')],
      [200, 'sign-in', await send('POST', '/auth/operator/login', { body: OPERATOR })],
      [400, 'invalid', await send('POST', '/auth/operator/login', { body: {} })],
      [404, 'unknown', await send('GET', '/nothing')],
      [400, 'bad path', await send('GET', '/%ff')],
      [415, 'media type', await send('POST', '/auth/login', { body: 'x', headers: { 'content-type': 'text/plain' } })],
      [413, 'too large', await send('POST', '/auth/login', { body: { email: 'x'.repeat(70_000) } })],
      [403, 'forbidden', await send('GET', '/users', { token: service.operatorToken })],
      [
        404,
        'no such row',
        await send('DELETE', '/tenants/01900000-0000-7000-8000-00000000ffff', { token: service.operatorToken }),
      ],
    ];
    for (const [status, name, { status: actual, headers }] of answers) {
      expect([name, actual]).toEqual([name, status]);
      expect([name, headers['content-security-policy']]).toEqual([
        name,
        expect.stringMatching(/^default-src 'none'; ?frame-ancestors 'none'$/) as string,
      ]);
      expect([name, headers['x-content-type-options']]).toEqual([name, 'nosniff']);
      expect([name, headers['strict-transport-security']]).toEqual([
        name,
        expect.stringContaining('max-age=31536000') as string,
      ]);
      expect([name, headers['referrer-policy']]).toEqual([name, 'no-referrer']);
      expect([name, headers['cross-origin-resource-policy']]).toEqual([name, 'same-origin']);
      expect([name, headers['x-request-id']]).toEqual([name, expect.stringMatching(UUID) as string]);
      expect([name, headers['x-powered-by'], headers.server]).toEqual([name, undefined, undefined]);
    }
  });
});

describe('CORS', () => {
  const PREFLIGHT = { 'access-control-request-method': 'PATCH', 'access-control-request-headers': 'authorization' };

  async function options(app: TestService['app'], url: string, headers: Record<string, string>): Promise<Received> {
    const answer = await app.inject({ method: 'OPTIONS', url, headers });
    return { status: answer.statusCode, headers: answer.headers, text: answer.body };
  }

  it('is off by default', async () => {
    const origin = 'https://app.example.com';
    const { headers } = await send('GET', '/health/live', { headers: { origin } });
    expect(headers['access-control-allow-origin']).toBeUndefined();
    const preflight = await options(service.app, '/products', { origin, ...PREFLIGHT });
    expect(preflight.status).toBe(405);
    expect(preflight.headers['access-control-allow-origin']).toBeUndefined();
  });

  it('allows the listed origins only', async () => {
    const { app, send, operatorToken } = await startServiceForTest({
      env: { CORS_ORIGINS: 'https://app.example.com, http://localhost:5173' },
    });
    for (const origin of ['https://app.example.com', 'http://localhost:5173']) {
      const answer = await send('GET', '/tenants', { token: operatorToken, headers: { origin } });
      expect(answer.status).toBe(200);
      expect(answer.headers['access-control-allow-origin']).toBe(origin);
      expect(answer.headers['access-control-expose-headers']).toContain('x-request-id');
      expect(answer.headers['access-control-allow-credentials']).toBeUndefined();
      expect(answer.headers.vary).toMatch(/origin/i);
      // A page must be able to read an error, or its user cannot report the error.
      const failed = await send('GET', '/tenants', { headers: { origin } });
      expect([failed.status, failed.headers['access-control-allow-origin']]).toEqual([401, origin]);
      const unknown = await send('GET', '/nothing', { headers: { origin } });
      expect([unknown.status, unknown.headers['access-control-allow-origin']]).toEqual([404, origin]);

      const preflight = await options(app, '/products/1', { origin, ...PREFLIGHT });
      expect([preflight.status, preflight.text]).toEqual([204, '']);
      expect(preflight.headers['access-control-allow-origin']).toBe(origin);
      expect(preflight.headers['access-control-allow-methods']).toMatch(/PATCH.*DELETE/);
      for (const name of [/authorization/, /traceparent/, /tracestate/])
        expect(preflight.headers['access-control-allow-headers']).toMatch(name);
      expect(preflight.headers['x-request-id']).toMatch(UUID);
    }
    for (const origin of [
      'null',
      'https://app.example.com.evil.example',
      'https://evil.example/https://app.example.com',
      'https://xapp.example.com',
      'https://app-example.com',
      'http://app.example.com',
      'https://app.example.com:8443',
      'https://APP.example.com',
      'https://app.example.com/',
      'http://localhost',
      '*',
      '',
    ]) {
      const answer = await send('GET', '/tenants', { token: operatorToken, headers: { origin } });
      expect([origin, answer.headers['access-control-allow-origin']]).toEqual([origin, undefined]);
      const preflight = await options(app, '/products', { origin, ...PREFLIGHT });
      expect([origin, preflight.headers['access-control-allow-origin']]).toEqual([origin, undefined]);
    }
  });

  it('answers an OPTIONS request that is no preflight with 204 or a problem document', async () => {
    const { app } = await startServiceForTest({ env: { CORS_ORIGINS: 'https://app.example.com' } });
    for (const headers of [{}, { origin: 'https://app.example.com' }, { 'access-control-request-method': 'GET' }]) {
      const answer = await options(app, '/products', headers);
      if (answer.status < 400) expect([answer.status, answer.text]).toEqual([204, '']);
      else expectProblem(answer, answer.status, (JSON.parse(answer.text) as { code: string }).code);
    }
  });
});

describe('the rate limit', () => {
  async function statusesFrom(
    { app }: TestService,
    requests: readonly { url?: string; remoteAddress?: string; forwardedFor?: string }[],
  ): Promise<number[]> {
    const statuses: number[] = [];
    for (const { url = '/products', remoteAddress = '192.0.2.1', forwardedFor } of requests) {
      const headers = forwardedFor === undefined ? {} : { 'x-forwarded-for': forwardedFor };
      const { statusCode } = await app.inject({ method: 'GET', url, remoteAddress, headers });
      statuses.push(statusCode);
    }
    return statuses;
  }

  it('answers 429 with Retry-After, for each address separately', async () => {
    const limited = await startServiceForTest({ env: { RATE_LIMIT_MAX: '3' } });
    expect(await statusesFrom(limited, [{}, {}, {}, {}, {}])).toEqual([401, 401, 401, 429, 429]);
    expect(await statusesFrom(limited, [{ remoteAddress: '192.0.2.2' }])).toEqual([401]);
    const answer = await limited.app.inject({ method: 'GET', url: '/products', remoteAddress: '192.0.2.1' });
    const { 'retry-after': retryAfter } = answer.headers;
    expectProblem({ status: answer.statusCode, headers: answer.headers, text: answer.body }, 429, 'rate-limited');
    expect(Number(retryAfter)).toBeGreaterThan(0);
    expect(Number(retryAfter)).toBeLessThanOrEqual(60);
  });

  it('counts all routes together, even unknown ones, except health', async () => {
    const limited = await startServiceForTest({ env: { RATE_LIMIT_MAX: '5' } });
    const urls = ['/products', '/nothing', '/users', '/wp-login.php', '/docs/json', '/nothing', '/products'];
    const counted = await statusesFrom(
      limited,
      urls.map((url) => ({ url })),
    );
    expect(counted).toEqual([401, 404, 401, 404, 200, 429, 429]);
    expect(await statusesFrom(limited, [{ url: '/health/live' }, { url: '/health/ready' }])).toEqual([200, 200]);
  });

  it('counts a HEAD once, and a wrong method like any request', async () => {
    const { app } = await startServiceForTest({ env: { RATE_LIMIT_MAX: '4' } });
    const statuses: number[] = [];
    for (const method of ['HEAD', 'PUT', 'HEAD', 'PUT', 'PUT', 'HEAD'] as const)
      statuses.push((await app.inject({ method, url: '/products' })).statusCode);
    expect(statuses).toEqual([401, 405, 401, 405, 429, 429]);
  });

  it('counts a request to an unknown route, whatever its body', async () => {
    const limited = await startServiceForTest({ env: { RATE_LIMIT_MAX: '2' } });
    const statuses: number[] = [];
    for (let count = 0; count < 4; count += 1) {
      const { status } = await limited.send('POST', '/nothing', {
        body: 'x',
        headers: { 'content-type': 'text/plain' },
      });
      statuses.push(status);
    }
    expect(statuses.slice(2)).toEqual([429, 429]);
  });

  it('ignores X-Forwarded-For by default', async () => {
    const limited = await startServiceForTest({ env: { RATE_LIMIT_MAX: '3' } });
    const spoofed = Array.from({ length: 6 }, (_, index) => ({ forwardedFor: `198.51.100.${index}` }));
    expect(await statusesFrom(limited, spoofed)).toEqual([401, 401, 401, 429, 429, 429]);
  });

  it('trusts X-Forwarded-For of the listed proxies only, and only the entry that the proxy added', async () => {
    const limited = await startServiceForTest({ env: { RATE_LIMIT_MAX: '2', TRUST_PROXY: '10.0.0.0/8, 192.0.2.7' } });
    const proxied = (remoteAddress: string, forwardedFor: string): { remoteAddress: string; forwardedFor: string } => ({
      remoteAddress,
      forwardedFor,
    });
    // Two clients of trusted proxies: each has its own bucket, whichever proxy it uses.
    expect(
      await statusesFrom(limited, [
        proxied('10.1.2.3', '198.51.100.1'),
        proxied('192.0.2.7', '198.51.100.1'),
        proxied('10.9.9.9', '198.51.100.1'),
        proxied('10.1.2.3', '198.51.100.2'),
      ]),
    ).toEqual([401, 401, 429, 401]);
    // The client's own text is to the left of the proxy's entry.
    expect(
      await statusesFrom(limited, [
        proxied('10.1.2.3', '203.0.113.1, 198.51.100.3'),
        proxied('10.1.2.3', '203.0.113.2, 198.51.100.3'),
        proxied('10.1.2.3', '203.0.113.3, 198.51.100.3'),
      ]),
    ).toEqual([401, 401, 429]);
    // An address that is not a proxy is not trusted.
    expect(
      await statusesFrom(limited, [
        proxied('192.0.2.8', '198.51.100.10'),
        proxied('192.0.2.8', '198.51.100.11'),
        proxied('192.0.2.8', '198.51.100.12'),
      ]),
    ).toEqual([401, 401, 429]);
  });

  it('counts the addresses of an IPv6 /64 together', async () => {
    const limited = await startServiceForTest({ env: { RATE_LIMIT_MAX: '2' } });
    const from = (...addresses: string[]): Promise<number[]> =>
      statusesFrom(
        limited,
        addresses.map((remoteAddress) => ({ remoteAddress })),
      );
    expect(await from('2001:db8:1:1::1', '2001:db8:1:1::2', '2001:db8:1:1:ffff::3')).toEqual([401, 401, 429]);
    expect(await from('2001:db8:1:2::1')).toEqual([401]);
  });
});

describe('API_PREFIX', () => {
  it('moves the API and its Location headers, but not health and docs', async () => {
    const { send, app } = await startServiceForTest({ env: { API_PREFIX: '/v1' } });
    expect((await send('POST', '/auth/operator/login', { body: OPERATOR })).status).toBe(404);
    const signedIn = await send<{ accessToken: string }>('POST', '/v1/auth/operator/login', { body: OPERATOR });
    expect(signedIn.status).toBe(200);
    const token = signedIn.body.accessToken;
    const admin = { email: 'a@example.com', password: 'admin-password-123', firstName: 'A', lastName: 'B' };
    const made = await send('POST', '/v1/tenants', { token, body: { name: 'Prefixed', admin } });
    expect([made.status, made.headers.location]).toEqual([201, `/v1/tenants/${String(made.body['id'])}`]);
    expect((await send('GET', String(made.headers.location), { token })).status).toBe(200);

    for (const url of ['/tenants', '/auth/me', '/users', '/products', '/v1/health/live', '/v1/docs/json']) {
      expect([url, (await send('GET', url, { token })).status]).toEqual([url, 404]);
    }
    expect((await send('GET', '/health/live')).status).toBe(200);
    expect((await send('GET', '/health/ready')).status).toBe(200);
    expect((await app.inject('/docs/')).statusCode).toBe(200);
    const { body } = await send<{ paths: object }>('GET', '/docs/json');
    expect(Object.keys(body.paths)).toContain('/v1/products/{id}');
  });
});
