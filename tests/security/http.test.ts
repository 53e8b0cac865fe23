// Hostile heads, over a real socket: requests that two servers could split differently, addresses that do not decode, parameters
// given twice, and slow peers.
import { once } from 'node:events';
import { connect } from 'node:net';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RouteEntry } from '../../src/auth/route-access.js';
import { type Problem, startService, type TestService, type TestTenant } from '../support/app.js';
import { exchange, expectProblem, listen, parseAnswer, sendBytes, type Received } from '../support/wire.js';

const UNKNOWN_ID = '01900000-0000-7000-8000-00000000ffff';

let service: TestService;
let tenant: TestTenant;
let port: number;
beforeAll(async () => {
  service = await startService();
  port = await listen(service);
  tenant = await service.createTenant('acme');
});
afterAll(() => service.close());

/** Sends a request to the route as a caller that it admits. `suffix` is added to the address. */
function sendTo({ method, url, access }: RouteEntry, suffix: string): Promise<Received> {
  const token = access.scope === 'tenant' ? tenant.adminToken : service.operatorToken;
  const hasBody = method === 'POST' || method === 'PATCH';
  return exchange(port, method, url.replace(':id', UNKNOWN_ID).replace('*', 'index.html') + suffix, {
    headers: {
      ...(access.scope !== 'public' && { authorization: `Bearer ${token}` }),
      ...(hasBody && { 'content-type': 'application/json' }),
    },
    ...(hasBody && { body: '{"name":"x"}' }),
  });
}

describe('a head that two servers could read in two ways gets 400, and the connection closes', () => {
  const CLOSE = 'connection: keep-alive\r\n';
  const NEXT = 'GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n';
  it.each([
    ['two hosts', 'GET /health/live HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n'],
    ['the same host twice', 'GET /health/live HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n'],
    ['two hosts in one line', 'GET /health/live HTTP/1.1\r\nhost: a, b\r\n\r\n'],
    ['no host', 'GET /health/live HTTP/1.1\r\n\r\n'],
    ['two hosts on an unknown route', 'GET /nothing HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n'],
    ['two hosts and a body', 'POST /auth/login HTTP/1.1\r\nhost: a\r\nhost: b\r\ncontent-length: 2\r\n\r\n{}'],
    [
      'a length and chunks',
      'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n',
    ],
    [
      'chunks and a length',
      'POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n',
    ],
    [
      'chunks that are not the last coding',
      'POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n',
    ],
    ['an unknown coding', 'POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: xchunked\r\n\r\n0\r\n\r\n'],
    [
      'two codings',
      'POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n',
    ],
    ['chunks in HTTP/1.0', 'POST /auth/login HTTP/1.0\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n'],
    ['two lengths', 'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab'],
    ['the same length twice', 'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na'],
    ['a list of lengths', 'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1, 1\r\n\r\na'],
    ['a length with a sign', 'POST / HTTP/1.1\r\nhost: x\r\ncontent-length: +1\r\n\r\na'],
    ['bare LF everywhere', 'GET /health/live HTTP/1.1\nhost: x\n\n'],
    ['bare LF behind the request line', 'GET /health/live HTTP/1.1\nhost: x\r\n\r\n'],
    ['bare LF behind a header', 'GET /health/live HTTP/1.1\r\nhost: x\nx: y\r\n\r\n'],
    ['bare LF at the end', 'GET /health/live HTTP/1.1\r\nhost: x\r\n\n'],
    ['bare CR behind a header', 'GET /health/live HTTP/1.1\r\nhost: x\rx: y\r\n\r\n'],
    [
      'bare LF behind a chunk size',
      'POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\na\r\n0\r\n\r\n',
    ],
    ['a folded header', 'GET /health/live HTTP/1.1\r\nhost: x\r\nx: y\r\n z\r\n\r\n'],
    ['a blank before the colon', 'GET /health/live HTTP/1.1\r\nhost : x\r\n\r\n'],
    ['NUL in a header', 'GET /health/live HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n'],
    ['NUL in the path', 'GET /\0 HTTP/1.1\r\nhost: x\r\n\r\n'],
    ['a path that is not ASCII', 'GET /\xe9 HTTP/1.1\r\nhost: x\r\n\r\n'],
  ])('%s', async (_, bytes) => {
    const raw = await sendBytes(port, bytes.replace('\r\n', `\r\n${bytes.includes('1.0') ? CLOSE : ''}`) + NEXT);
    const answer = parseAnswer(raw);
    expectProblem(answer, 400, 'invalid-request');
    expect(answer.headers.connection).toBe('close');
    // The bytes after it get no answer.
    expect(raw.match(/HTTP\/1\.1 \d{3}/g)).toEqual(['HTTP/1.1 400']);
  });

  it('but a head that can be read in one way only is answered', async () => {
    const raw = await sendBytes(port, `GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`);
    expect(parseAnswer(raw).status).toBe(200);
    const old = await sendBytes(port, 'GET /health/live HTTP/1.0\r\n\r\n');
    expect(parseAnswer(old).status).toBe(200);
  });

  it('but two Authorization headers get 401, as if there were none', async () => {
    for (const tokens of [
      [tenant.adminToken, tenant.adminToken],
      [tenant.adminToken, service.operatorToken],
    ]) {
      const authorization = tokens.map((token) => `Bearer ${token}`);
      const answer = await exchange(port, 'GET', '/auth/me', { headers: { authorization } });
      expectProblem(answer, 401, 'unauthenticated');
    }
  });
});

describe('an address that does not decode to text gets 400 on every route', () => {
  it.each([
    ['NUL in a value', '?search=a%00b'],
    ['NUL in a name', '?a%00=b'],
    ['half a character', '?search=%ED%A0%80'],
    ['Latin-1', '?search=%e9'],
    ['a character cut short', '?search=%e2%82'],
    ['a slash in two bytes', '?search=%c0%af'],
    ['a percent sign and nothing', '?search=100%'],
    ['no hexadecimal', '?search=%zz'],
    ['NUL in the path', '%00'],
    ['no UTF-8 in the path', '%ff'],
    ['half a character in the path', '%ED%A0%80'],
  ])('%s', async (_, suffix) => {
    for (const route of service.app.routeTable) {
      const answer = await sendTo(route, suffix);
      expect(answer.status, `${route.method} ${route.url}`).toBe(400);
      if (route.method !== 'HEAD') expectProblem(answer, 400, 'invalid-request');
    }
    expectProblem(await exchange(port, 'GET', `/nothing${suffix}`), 400, 'invalid-request');
  });

  it('but an address that decodes is read', async () => {
    const headers = { authorization: `Bearer ${tenant.adminToken}` };
    for (const search of ['%C3%A9', '100%25', '%F0%9F%92%A1', 'a+b', '%2500'])
      expect((await exchange(port, 'GET', `/products?search=${search}`, { headers })).status).toBe(200);
  });
});

describe('a parameter that is given twice', () => {
  it('gets 400 with its name, on every route', async () => {
    const document = service.app.swagger() as {
      paths: Record<string, { get?: { parameters?: { in: string; name: string }[] } }>;
    };
    let tried = 0;
    for (const [path, { get }] of Object.entries(document.paths)) {
      for (const { name } of get?.parameters?.filter((parameter) => parameter.in === 'query') ?? []) {
        const token = /^\/(?:tenants|pools|clusters|operat|rollouts)/.test(path)
          ? service.operatorToken
          : tenant.adminToken;
        for (const query of [`${name}=1&${name}=1`, `${name}=true&${name}=true`, `${name}=&${name}=`]) {
          const answer = await exchange(port, 'GET', `${path.replace('{id}', tenant.id)}?${query}`, {
            headers: { authorization: `Bearer ${token}` },
          });
          expectProblem(answer, 400, 'invalid-request');
          const { errors } = JSON.parse(answer.text) as Problem;
          expect(
            errors.map((error) => error.path),
            `${path}?${query}`,
          ).toEqual([`/${name}`]);
          tried += 1;
        }
      }
    }
    expect(tried).toBeGreaterThanOrEqual(3 * 15);
  });
});

describe('a slow client', () => {
  /** Long, because a machine can be busy; a socket that is kept would stay open for ever. */
  const PATIENCE = 15_000;
  const TRICKLE = 200;
  const HEAD = 'POST /auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n';

  let slow: TestService;
  let slowPort: number;
  beforeAll(async () => {
    slow = await startService({ env: { REQUEST_TIMEOUT_MS: '1000' } });
    slowPort = await listen(slow);
  });
  afterAll(() => slow.close());

  // At the same time: they only wait.
  it.concurrent.for([
    ['says nothing', '', ''],
    ['sends half a request line', 'GET /heal', ''],
    ['sends one header after another', 'GET /health/live HTTP/1.1\r\nhost: x\r\n', 'x: y\r\n'],
    ['sends its body byte by byte', `${HEAD}content-length: 60000\r\n\r\n`, ' '],
    ['sends one chunk after another', `${HEAD}transfer-encoding: chunked\r\n\r\n`, '1\r\n \r\n'],
    ['sends half a body', `${HEAD}content-length: 10\r\n\r\n{`, ''],
  ] as const)(
    'that %s gets 408, and its connection closes',
    { timeout: 2 * PATIENCE },
    async ([, start, trickle], { onTestFinished }) => {
      const socket = connect(slowPort, '127.0.0.1');
      onTestFinished(() => void socket.destroy());
      let answer = '';
      socket.on('data', (bytes: Buffer) => (answer += bytes.toString()));
      socket.on('error', () => undefined);
      await once(socket, 'connect');
      socket.write(start);
      const timer = setInterval(() => socket.writable && socket.write(trickle), TRICKLE);
      const closed = once(socket, 'close', { signal: AbortSignal.timeout(PATIENCE) });
      try {
        expect((await exchange(slowPort, 'GET', '/health/live')).status).toBe(200);
        await closed;
      } finally {
        clearInterval(timer);
      }
      expectProblem(parseAnswer(answer), 408, 'request-timeout');
    },
  );
});
