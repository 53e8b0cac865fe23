// Hostile bodies, over a real socket, on every route that reads one: ambiguous bodies, binary data, too deep or too large ones,
// and bodies that are not JSON in UTF-8.
import { deflateSync, gzipSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { RouteEntry } from '../../src/auth/route-access.js';
import { type Problem, startService, type TestService, type TestTenant } from '../support/app.js';
import { exchange, expectProblem, listen, parseAnswer, sendBytes, type Received } from '../support/wire.js';

const UNKNOWN_ID = '01900000-0000-7000-8000-00000000ffff';

/** For these routes the address alone says what to do. */
const WITHOUT_BODY =
  /\/(?:logout|logout-all|sign-out|suspend|resume|restore|purge|rotate-password|check|drain|retry|abandon|pause|abort)$/;

let service: TestService;
let tenant: TestTenant;
let port: number;
/** Every route that reads a body. */
let routes: RouteEntry[];
beforeAll(async () => {
  service = await startService();
  port = await listen(service);
  tenant = await service.createTenant('acme');
  routes = service.app.routeTable.filter(
    ({ method, url }) => (method === 'POST' || method === 'PATCH') && !WITHOUT_BODY.test(url),
  );
});
afterAll(() => service.close());

/** Sends a body as a caller that the route admits. */
function sendTo(
  { method, url, access }: RouteEntry,
  body: string | Buffer,
  headers: Record<string, string | string[]> = {},
): Promise<Received> {
  const token = access.scope === 'tenant' ? tenant.adminToken : service.operatorToken;
  return exchange(port, method, url.replace(':id', UNKNOWN_ID), {
    headers: {
      'content-type': 'application/json',
      ...(access.scope !== 'public' && { authorization: `Bearer ${token}` }),
      ...headers,
    },
    body,
  });
}

/** Expects that each of those routes gives the same answer to the body. */
async function expectEverywhere(
  body: string | Buffer,
  [status, code]: readonly [number, string],
  expected: { detail?: string; errors?: Problem['errors'] },
  headers?: Record<string, string | string[]>,
): Promise<void> {
  for (const route of routes) {
    const answer = await sendTo(route, body, headers);
    expectProblem(answer, status, code);
    const { detail, errors } = JSON.parse(answer.text) as { detail?: string; errors?: Problem['errors'] };
    expect({ detail, errors }, `${route.method} ${route.url}`).toEqual({ detail, errors, ...expected });
  }
}

const INVALID = [400, 'invalid-request'] as const;

it('tries at least nine routes that read a body', () => {
  expect(routes.length).toBeGreaterThanOrEqual(9);
});

describe('a key that occurs twice in one object gets 400', () => {
  it.each([
    ['side by side', '{"name":"a","name":"b"}', '/name'],
    ['with the same value', '{"name":"a","price":"1","name":"a"}', '/name'],
    ['spelt in another way', '{"role":"member","\\u0072ole":"admin"}', '/role'],
    ['further in', '{"admin":{"email":"a@example.com","email":"b@example.com"}}', '/admin/email'],
    ['in a list', '{"roles":[{"a":1,"a":2}]}', '/roles/0/a'],
    ['where nobody looks', '{"poolOptions":{"max":5,"max":100}}', '/poolOptions/max'],
  ])('%s', async (_, body, path) => {
    await expectEverywhere(body, INVALID, { errors: [{ path, message: 'must not be given twice' }] });
  });
});

describe('a body that is not UTF-8 gets 400', () => {
  const around = (bytes: number[]): Buffer =>
    Buffer.concat([Buffer.from('{"name":"a'), Buffer.from(bytes), Buffer.from('"}')]);
  it.each<[string, Buffer]>([
    ['a byte that only continues', around([0x80])],
    ['Latin-1', around([0xe9])],
    ['a character cut short', around([0xe2, 0x82])],
    ['a slash in two bytes', around([0xc0, 0xaf])],
    ['NUL in two bytes', around([0xc0, 0x80])],
    ['half a character in three bytes', around([0xed, 0xa0, 0x80])],
    ['beyond U+10FFFF', around([0xf4, 0x90, 0x80, 0x80])],
    ['0xFF', around([0xff])],
    ['UTF-16', Buffer.from('\ufeff{"name":"a"}', 'utf16le')],
  ])('%s', async (_, body) => {
    await expectEverywhere(body, INVALID, { detail: 'The body is not valid UTF-8.' });
  });
});

describe('NUL and lone surrogates get 400', () => {
  const message = 'must not contain NUL or lone surrogates';
  it.each([
    ['NUL, escaped', '{"name":"a\\u0000b"}', '/name'],
    ['NUL in a key', '{"name\\u0000":"a"}', '/name\0'],
    ['NUL in a password', '{"password":"admin-password-123\\u0000"}', '/password'],
    ['a lone high surrogate', '{"name":"\\ud800"}', '/name'],
    ['a lone low surrogate', '{"name":"\\udfff"}', '/name'],
    ['a pair the wrong way round', '{"name":"\\udca1\\ud83d"}', '/name'],
    ['a lone surrogate further in', '{"roles":["a","\\ud83d"]}', '/roles/1'],
  ])('%s', async (_, body, path) => {
    await expectEverywhere(body, INVALID, { errors: [{ path, message }] });
  });

  it.each([
    ['NUL as it is', '{"name":"a\0b"}'],
    ['NUL behind the body', '{"name":"a"}\0'],
    ['NUL alone', '\0'],
  ])('%s', async (_, body) => {
    await expectEverywhere(body, INVALID, { detail: 'The body is not valid JSON.' });
  });
});

describe('a key that could change a prototype gets 400', () => {
  it.each([
    ['{"__proto__":{"role":"admin"}}', '/__proto__'],
    ['{"\\u005f\\u005fproto__":{"role":"admin"}}', '/__proto__'],
    ['{"constructor":{"prototype":{"role":"admin"}}}', '/constructor'],
    ['{"admin":{"__proto__":null}}', '/admin/__proto__'],
    ['{"poolOptions":{"constructor":{"prototype":{"max":1}}}}', '/poolOptions/constructor'],
  ])('%s', async (body, path) => {
    await expectEverywhere(body, INVALID, { errors: [{ path, message: 'is not an allowed key' }] });
  });
});

describe('a key that a route does not know gets 400', () => {
  const keys = [
    'role',
    'isAdmin',
    'tenantId',
    'id',
    'dbHost',
    'dbPassword',
    'db_password',
    'passwordHash',
    'createdAt',
  ];
  it.each(keys)('%s', async (key) => {
    for (const route of routes) {
      const answer = await sendTo(route, JSON.stringify({ [key]: UNKNOWN_ID }));
      expectProblem(answer, ...INVALID);
      const { errors } = JSON.parse(answer.text) as Problem;
      expect(errors, `${route.method} ${route.url}`).toContainEqual({ path: `/${key}`, message: 'is not known here' });
    }
  });
});

describe('a body that exceeds a limit', () => {
  const deep = (levels: number): string => `${'['.repeat(levels)}${']'.repeat(levels)}`;
  const keys = (count: number): string => `{${Array.from({ length: count }, (_, n) => `"${n}":0`).join(',')}}`;

  it('gets 400 if it is nested too deeply', async () => {
    const errors = [{ path: '', message: 'must not be nested deeper than 32 levels' }];
    await expectEverywhere(`{"name":${deep(32)}}`, INVALID, { errors });
    await expectEverywhere(deep(30_000), INVALID, { errors });
    await expectEverywhere('{"a":'.repeat(9_000) + '1' + '}'.repeat(9_000), INVALID, { errors });
  });

  it('gets 400 if it has too many keys or list items', async () => {
    const errors = [{ path: '', message: 'must not contain more than 1000 keys and list items' }];
    await expectEverywhere(keys(6_000), INVALID, { errors });
    await expectEverywhere(`{"roles":[${'0,'.repeat(30_000)}0]}`, INVALID, { errors });
  });

  it('gets 413 if it is too long, even with 500,000 levels or 70,000 keys', async () => {
    const { app } = service;
    for (const { method, url, access } of routes) {
      for (const payload of [deep(500_000), keys(70_000), `{"name":"${'x'.repeat(65_536)}"}`]) {
        const token = access.scope === 'tenant' ? tenant.adminToken : service.operatorToken;
        const answer = await app.inject({
          method: method as 'POST',
          url: url.replace(':id', UNKNOWN_ID),
          headers: { 'content-type': 'application/json', authorization: `Bearer ${token}` },
          payload,
        });
        expectProblem({ status: answer.statusCode, headers: answer.headers, text: answer.body }, 413, 'body-too-large');
      }
    }
  });

  it('gets 413 before it is sent, and the connection closes', async () => {
    const raw = await sendBytes(
      port,
      'POST /auth/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 1000000\r\n\r\n{',
    );
    const answer = parseAnswer(raw);
    expectProblem(answer, 413, 'body-too-large');
    expect(answer.headers.connection).toBe('close');
  });
});

describe('a body that is not JSON in UTF-8 gets 415', () => {
  const MEDIA = [415, 'unsupported-media-type'] as const;
  const body = '{"name":"x"}';

  it.each([
    'text/plain',
    'text/json',
    'application/x-www-form-urlencoded',
    'multipart/form-data; boundary=x',
    'application/xml',
    'application/problem+json',
    'application/json5',
    'application/jsonp',
    'application',
    '*/*',
    'application/json, text/plain',
  ])('%s', async (type) => {
    await expectEverywhere(body, MEDIA, {}, { 'content-type': type });
  });

  it.each([
    'application/json; charset=utf-16',
    'application/json; charset=utf-16le',
    'application/json;charset="UTF-16"',
    'application/json; Charset=iso-8859-1',
    'application/json; charset=utf-7',
    'application/json; charset=utf-8; charset=utf-16',
    'application/json; charset=',
  ])('%s', async (type) => {
    await expectEverywhere(body, MEDIA, {}, { 'content-type': type });
  });

  it('two Content-Types', async () => {
    await expectEverywhere(body, MEDIA, {}, { 'content-type': ['application/json', 'text/plain'] });
  });

  it.each<[string, Buffer | string]>([
    ['gzip', gzipSync(body)],
    ['deflate', deflateSync(body)],
    ['br', body],
    ['GZIP', gzipSync(body)],
    ['identity, gzip', body],
    ['x-unknown', body],
    // A bomb of 100 MB.
    ['gzip', gzipSync(Buffer.alloc(40_000_000))],
  ])('Content-Encoding: %s', async (encoding, compressed) => {
    await expectEverywhere(
      compressed,
      MEDIA,
      { detail: 'Send the body without a Content-Encoding.' },
      { 'content-encoding': encoding },
    );
  });

  it('but a body that is JSON in UTF-8 is read, in any spelling of its content type', async () => {
    const product = Buffer.from('{"name":"Lampe für 5 € 💡","price":"1"}');
    const create = routes.find(({ method, url }) => method === 'POST' && url === '/products');
    if (!create) throw new Error('there is no POST /products');
    for (const headers of [
      { 'content-type': 'application/json' },
      { 'content-type': 'APPLICATION/JSON' },
      { 'content-type': 'application/json; charset=utf-8' },
      { 'content-type': 'application/json;charset="UTF-8"' },
      { 'content-type': 'application/json; foo=bar' },
      { 'content-encoding': 'identity' },
    ]) {
      const answer = await sendTo(create, product, headers);
      expect([headers, answer.status]).toEqual([headers, 201]);
      expect((JSON.parse(answer.text) as { name: string }).name).toBe('Lampe für 5 € 💡');
    }
  });
});
