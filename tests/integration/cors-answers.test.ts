// What a page of an allowed origin can send and read: the lists come from the API's own description.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { startService, startServiceForTest, type TestService } from '../support/app.js';
import { dereferenced } from '../support/dereferenced.js';
import { exchange, listen, parseAnswer, sendBytes, type Received } from '../support/wire.js';

const ORIGIN = 'https://app.example.com';
const OTHER = 'https://evil.example.com';

/** Headers that a browser lets every page read or send (Fetch, sections 2.2.2 and 4.10). */
const ALWAYS = ['content-type', 'content-length', 'cache-control', 'accept'];

interface Operation {
  readonly parameters?: readonly { readonly in: string; readonly name: string }[];
  readonly responses: Readonly<Record<string, { readonly headers?: Readonly<Record<string, unknown>> }>>;
}

let service: TestService;
let port: number;
beforeAll(async () => {
  service = await startService({ env: { CORS_ORIGINS: ORIGIN } });
  port = await listen(service);
});
afterAll(() => service.close());

const list = (value: unknown): string[] =>
  String(value)
    .split(',')
    .map((one) => one.trim().toLowerCase());

function operations(): Operation[] {
  const { paths } = dereferenced(
    service.app.swagger() as unknown as { paths: Record<string, Record<string, Operation>> },
  );
  return Object.values(paths).flatMap((methods) => Object.values(methods));
}

describe('a preflight', () => {
  let answer: Received;
  beforeAll(async () => {
    answer = await exchange(port, 'OPTIONS', '/products', {
      headers: { origin: ORIGIN, 'access-control-request-method': 'PATCH' },
    });
  });

  it('allows every request header that the API describes', () => {
    const described = operations().flatMap(({ parameters = [] }) =>
      parameters.filter((one) => one.in === 'header').map(({ name }) => name.toLowerCase()),
    );
    expect(described).toContain('idempotency-key');
    expect(list(answer.headers['access-control-allow-headers'])).toEqual(
      expect.arrayContaining([
        ...described,
        'authorization',
        'content-type',
        'if-match',
        'if-none-match',
        'traceparent',
        'tracestate',
        'x-request-id',
      ]),
    );
  });

  it('allows every method of every route', () => {
    const methods = new Set(service.app.routeTable.map(({ method }) => method).filter((one) => one !== 'OPTIONS'));
    expect(methods.size).toBeGreaterThan(3);
    const allowed = String(answer.headers['access-control-allow-methods']).split(', ');
    expect(allowed).toEqual(expect.arrayContaining(['HEAD', ...methods]));
  });
});

/** Answers with an error of every kind, with the status of each. */
async function errors(origin: string): Promise<[number, Received][]> {
  const limited = await startServiceForTest({ env: { CORS_ORIGINS: ORIGIN, RATE_LIMIT_MAX: '1' } });
  const limitedPort = await listen(limited);
  await exchange(limitedPort, 'GET', '/products');
  const draining = await startServiceForTest({ env: { CORS_ORIGINS: ORIGIN } });
  draining.app.readiness.draining = true;
  const json = { 'content-type': 'application/json' };
  const tried: [number, string, string, Record<string, string>, string?][] = [
    [400, 'GET', '/products/%ff', {}],
    [400, 'GET', '/%E0%A4%A', {}],
    [401, 'GET', '/products', {}],
    [404, 'GET', '/nothing', {}],
    [404, 'GET', `/products/${'x'.repeat(200)}`, {}],
    [405, 'PUT', '/products', {}],
    [400, 'POST', '/auth/login', json, '{'],
    [413, 'POST', '/auth/login', json, ' '.repeat(70_000)],
    [413, 'POST', '/auth/login', { ...json, 'content-length': '1000000' }, ' '.repeat(1_000_000)],
    [415, 'POST', '/auth/login', { 'content-type': 'text/plain' }, 'x'],
  ];
  const answers: [number, Received][] = [];
  for (const [status, method, path, headers, body = ''] of tried)
    answers.push([status, await exchange(port, method, path, { headers: { origin, ...headers }, body })]);
  answers.push([429, await exchange(limitedPort, 'GET', '/products', { headers: { origin } })]);
  const { statusCode, headers, body } = await draining.app.inject({ url: '/health/ready', headers: { origin } });
  answers.push([503, { status: statusCode, headers, text: body }]);
  return answers;
}

describe('a page of an allowed origin', () => {
  it('can read every header that the API describes, and the usual ones', async () => {
    const { headers } = await exchange(port, 'GET', '/health/live', { headers: { origin: ORIGIN } });
    const described = operations().flatMap(({ responses }) =>
      Object.values(responses).flatMap((response) => Object.keys(response.headers ?? {})),
    );
    const names = new Set(described.map((name) => name.toLowerCase()).filter((name) => !ALWAYS.includes(name)));
    expect(names).toContain('retry-after');
    expect(list(headers['access-control-expose-headers'])).toEqual(
      expect.arrayContaining([
        ...names,
        'allow',
        'etag',
        'idempotent-replayed',
        'location',
        'www-authenticate',
        'x-request-id',
      ]),
    );
  });

  it('can read every error, with its headers, and a page of another origin cannot', { timeout: 30_000 }, async () => {
    for (const [status, answer] of await errors(ORIGIN)) {
      const { headers } = answer;
      expect([status, headers['access-control-allow-origin']]).toEqual([answer.status, ORIGIN]);
      expect(list(headers['access-control-expose-headers']), String(status)).toContain('x-request-id');
      expect(list(headers.vary), String(status)).toContain('origin');
    }
    for (const [status, answer] of await errors(OTHER))
      expect([status, answer.headers['access-control-allow-origin']]).toEqual([answer.status, undefined]);
  });

  it('can read the answer to bytes that are not HTTP, whose origin is not known', async () => {
    for (const [status, bytes] of [
      [400, 'GET / HTTP/1.1\r\nhost: x\r\nbad header: y\r\n\r\n'],
      [431, `GET / HTTP/1.1\r\nhost: x\r\nx-long: ${'x'.repeat(20_000)}\r\n\r\n`],
    ] as const) {
      const answer = parseAnswer(await sendBytes(port, bytes));
      expect([status, answer.headers['access-control-allow-origin']]).toEqual([answer.status, '*']);
      expect(answer.headers['access-control-allow-credentials']).toBeUndefined();
      expect(list(answer.headers['access-control-expose-headers'])).toContain('x-request-id');
    }
  });
});

it('no page can read an answer if no origin is allowed', async () => {
  const closed = await listen(await startServiceForTest());
  for (const bytes of ['hello\r\n\r\n', 'GET /%ff HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n']) {
    const { headers } = parseAnswer(await sendBytes(closed, bytes));
    expect(Object.keys(headers).filter((name) => name.startsWith('access-control'))).toEqual([]);
  }
});
