// Text that keeps a careless regular expression busy, in every text that the API takes: none of it blocks the event loop for 50
// ms. The parameters come from the API's own description, so that a new one is tried as well.
import { setImmediate } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { dereferenced } from '../support/dereferenced.js';
import { startService, type TestService, type TestTenant } from '../support/app.js';
import { threadTime } from '../support/thread-time.js';
import { exchange, listen } from '../support/wire.js';

const UNKNOWN_ID = '01900000-0000-7000-8000-00000000ffff';

/** The promise, in ms. */
const LONGEST_BLOCK = 50;

/** Garbage may be collected by chance, but not in each attempt; the cost of the input itself comes each time. */
const ATTEMPTS = 12;

/** Many attempts on a busy machine take longer (ms) than one test usually may. */
const PATIENCE = { timeout: 240_000 };

/** Maximum bytes of a text in a body and in an address, besides the rest. */
const BODY = 64_000;
const ADDRESS = 14_000;

/** From short to long: an expression that tries all 2^n ways is caught while it still ends. */
const SHORT = [26, 200, 254];

/** Repeated, and followed by a character that does not match, these make a careless expression try every way. */
const repeated = [
  'a',
  '0',
  '-',
  'a-',
  '.',
  'a.',
  '@',
  'a@',
  'a@a.',
  ' ',
  '\t',
  '%',
  '_',
  '\\',
  '1.',
  ',',
  '\u0301',
  'ﷺ',
];
const ends = ['', '!', '@', '\n'];

interface Schema {
  readonly type?: string | readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly anyOf?: readonly Schema[];
}
interface Operation {
  readonly parameters?: readonly { readonly in: string; readonly name: string }[];
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: Schema }>> };
}

let service: TestService;
let tenant: TestTenant;
let port: number;
beforeAll(async () => {
  service = await startService();
  port = await listen(service);
  tenant = await service.createTenant('acme');
});
afterAll(() => service.close());

type Send = () => Promise<unknown>;

/**
 * For how long (ms) one of the requests kept this thread busy at most, from its start to its answer. What blocks the event loop
 * keeps the thread busy for as long. Other processes that use the processors add nothing.
 */
async function busiest(sends: readonly Send[]): Promise<number> {
  let longest = 0;
  for (const send of sends) {
    const before = threadTime();
    await send();
    longest = Math.max(longest, threadTime() - before);
    // What the request leaves behind is not the next one's.
    await setImmediate();
  }
  return longest;
}

/** Fails if one of the requests keeps the thread busy for too long in every attempt. */
async function expectNoBlock(what: string, sends: readonly Send[]): Promise<void> {
  const blocks: number[] = [];
  do {
    blocks.push(await busiest(sends));
  } while (Math.min(...blocks) >= LONGEST_BLOCK && blocks.length < ATTEMPTS);
  expect(Math.min(...blocks), what).toBeLessThan(LONGEST_BLOCK);
}

function hostileTexts(length: number): string[] {
  return repeated.flatMap((unit) => {
    // The encoded length differs in percent-encoding and in UTF-8; a text that is slightly too long is refused.
    const text = unit.repeat(Math.floor(length / Buffer.byteLength(unit)));
    return ends.map((end) => text + end);
  });
}

/** For each text in a body, a body that holds only a text there. */
function bodiesOf(schema: Schema): ((text: string) => unknown)[] {
  const variants = schema.anyOf ?? [schema];
  return variants.flatMap((variant) => {
    if ([variant.type].flat().includes('string')) return [(text: string): unknown => text];
    const inItems = variant.items ? bodiesOf(variant.items).map((make) => (text: string) => [make(text)]) : [];
    const inProperties = Object.entries(variant.properties ?? {}).flatMap(([name, property]) =>
      bodiesOf(property).map((make) => (text: string) => ({ [name]: make(text) })),
    );
    return [...inItems, ...inProperties];
  });
}

function operations(): [method: string, path: string, Operation][] {
  const { paths } = dereferenced(
    service.app.swagger() as unknown as { paths: Record<string, Record<string, Operation>> },
  );
  return Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]): [string, string, Operation] => [
      method.toUpperCase(),
      path,
      operation,
    ]),
  );
}

async function send(method: string, path: string, payload?: string): Promise<void> {
  const token = path.startsWith('/tenants') ? service.operatorToken : tenant.adminToken;
  await service.app.inject({
    method: method as 'GET',
    url: path.replace('{id}', UNKNOWN_ID),
    headers: {
      authorization: `Bearer ${token}`,
      ...(payload !== undefined && { 'content-type': 'application/json' }),
    },
    ...(payload !== undefined && { payload }),
  });
}

describe('a text made to keep a regular expression busy', { timeout: 120_000 }, () => {
  it('would be detected if it blocked the event loop', async () => {
    const block = async (): Promise<void> => {
      const until = threadTime() + 2 * LONGEST_BLOCK;
      while (threadTime() < until);
    };
    await expect(expectNoBlock('blocks', [block])).rejects.toThrow('blocks');
  });

  it('does not block the event loop in any body', PATIENCE, async () => {
    let texts = 0;
    for (const [method, path, { requestBody }] of operations()) {
      const schema = requestBody?.content['application/json']?.schema;
      if (!schema) continue;
      for (const make of bodiesOf(schema)) {
        texts += 1;
        for (const length of [...SHORT, BODY]) {
          const payloads = hostileTexts(length).map((text) => JSON.stringify(make(text)));
          const name = payloads[0]?.slice(0, 40) ?? '';
          const sends = payloads.map((payload) => () => send(method, path, payload));
          await expectNoBlock(`${method} ${path} ${name}`, sends);
        }
      }
    }
    expect(texts).toBeGreaterThanOrEqual(25);
  });

  it('does not block the event loop in a list of as many wrong values as a body can have', async () => {
    const wrong = Array.from({ length: 990 }, () => 1);
    for (const [method, path, body] of [
      ['PATCH', '/users/{id}', { roles: wrong }],
      ['POST', '/roles', { name: 'x', permissions: wrong }],
    ] as const)
      await expectNoBlock(`${method} ${path}`, [() => send(method, path, JSON.stringify(body))]);
  });

  it('does not block the event loop in any query parameter', PATIENCE, async () => {
    let texts = 0;
    for (const [method, path, { parameters = [] }] of operations()) {
      for (const { name } of parameters.filter((parameter) => parameter.in === 'query')) {
        texts += 1;
        for (const length of [...SHORT, ADDRESS]) {
          const urls = hostileTexts(length).map((text) => `${path}?${name}=${encodeURIComponent(text)}`);
          const sends = urls.map((url) => () => send(method, url));
          await expectNoBlock(`${method} ${path}?${name}`, sends);
        }
      }
    }
    expect(texts).toBeGreaterThanOrEqual(15);
  });

  it('does not block the event loop in a path', PATIENCE, async () => {
    for (const text of hostileTexts(ADDRESS)) {
      await expectNoBlock(text.slice(0, 10), [() => send('GET', `/products/${encodeURIComponent(text)}`)]);
    }
  });

  it('does not block the event loop in any header that the service reads', PATIENCE, async () => {
    const names = [
      'authorization',
      'content-type',
      'content-encoding',
      'x-request-id',
      'x-forwarded-for',
      'origin',
      'host',
    ];
    const starts = ['', 'Bearer ', 'application/json;', 'application/json; charset=', '; charset ', '"'];
    const texts = [';', '; ', '; charset', '="', ' ', '\t', ',', 'a=', '.', '-'].map((unit) =>
      unit.repeat(Math.floor(ADDRESS / unit.length)),
    );
    for (const name of names) {
      const sends = starts.flatMap((start) =>
        texts.map((text) => async () => {
          const headers = { 'content-type': 'application/json', [name]: `${start}${text}!` };
          await exchange(port, 'POST', '/auth/login', { headers, body: '{}' });
        }),
      );
      await expectNoBlock(name, sends);
    }
  });
});
