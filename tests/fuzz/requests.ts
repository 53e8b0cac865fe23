// Generates requests from the OpenAPI document: any operation, any caller, and anything in path, query, headers and body.
import fc from 'fast-check';
import type { Operation, Parameter } from './document.js';
import { hostileValue, valuesOf, type Hints } from './values.js';

/** Who sends a request. The account and tenant of `expendable`, an admin, may be destroyed. */
export const ACTORS = ['admin', 'operator', 'member', 'expendable', 'stranger', 'nobody', 'forger'] as const;
export type Actor = (typeof ACTORS)[number];

/**
 * A request before it is sent. A placeholder such as `~product.3~` stands for an id or cursor that does not exist yet: the fourth
 * of those that will be known then. `~page.0~` is a whole query, which leads to the next page of a list.
 */
export interface Draft {
  readonly operation: Operation;
  readonly actor: Actor;
  /** Path and query, percent-encoded. */
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string | undefined;
  /** The encoding of the body: in latin1 it is rarely valid UTF-8. */
  readonly encoding: 'utf8' | 'latin1';
}

/** The placeholder of an id or a cursor. */
export const PLACEHOLDER = /~(product|role|user|tenant|own|self|session|cluster|operation|cursor|page|other)\.(\d+)~/g;

/** The share of each operation, by its cost: hashing a password takes longer than twenty reads, a tenant's database longer still. */
const WEIGHTS: Readonly<Record<string, number>> = {
  'POST /auth/login': 2,
  'POST /auth/operator/login': 2,
  'POST /users': 6,
  'PATCH /users/{id}': 8,
  'POST /tenants': 8,
  // Equal numbers of creations and removals would leave no objects for other requests.
  'DELETE /tenants/{id}': 6,
  'POST /tenants/{id}/purge': 6,
  'POST /tenants/{id}/suspend': 3,
  'DELETE /users/{id}': 3,
  'DELETE /products/{id}': 4,
  'DELETE /roles/{id}': 4,
  'DELETE /clusters/{id}': 4,
};
const USUAL_WEIGHT = 12;
const WRITE_WEIGHT = 18;

/** Any request to any of the operations, or to their paths with a method that they do not have. */
export function requestOf(operations: readonly Operation[], hints: Hints): fc.Arbitrary<Draft> {
  return fc.oneof(
    ...operations.map((operation) => ({
      weight: WEIGHTS[operation.name] ?? (operation.body ? WRITE_WEIGHT : USUAL_WEIGHT),
      arbitrary: draftOf(operation, hints),
    })),
    { weight: USUAL_WEIGHT, arbitrary: fc.oneof(...strays(operations).map((operation) => draftOf(operation, hints))) },
  );
}

/** Methods that a path does not have: not found, or not even read. */
function strays(operations: readonly Operation[]): Operation[] {
  const has = new Set(operations.map(({ name }) => name));
  const errors = operations.find(({ body }) => body)?.answers;
  const answers = new Map([400, 401, 403, 404, 405, 413, 415].map((status) => [status, errors?.get(400)]));
  return [...new Set(operations.map(({ path }) => path))].flatMap((path) =>
    ['GET', 'POST', 'PUT', 'PATCH', 'DELETE']
      .map((method) => ({ name: `${method} ${path}`, method, path, tag: 'none', parameters: [], body: {}, answers }))
      .filter(({ name }) => !has.has(name)),
  );
}

/** Any request to any of these operations, each as often as the others. */
export function requestTo(operations: readonly Operation[], hints: Hints): fc.Arbitrary<Draft> {
  return fc.oneof(...operations.map((operation) => draftOf(operation, hints)));
}

function draftOf(operation: Operation, hints: Hints): fc.Arbitrary<Draft> {
  return fc
    .record({
      actor: actorOf(operation),
      path: pathOf(operation),
      query: queryOf(operation, hints),
      headers: strangeHeaders,
      content: contentOf(operation, hints),
    })
    .map(({ actor, path, query, headers, content: { type, body, encoding } }) => ({
      operation,
      actor,
      url: path + query,
      headers: { ...headers, ...(type !== undefined && { 'content-type': type }) },
      body,
      encoding,
    }));
}

function actorOf({ path }: Operation): fc.Arbitrary<Actor> {
  const likely: Actor = /^\/(?:tenants|clusters|operations|rollouts|pools|encryption|status)\b/.test(path)
    ? 'operator'
    : 'admin';
  return fc.oneof(
    { weight: 12, arbitrary: fc.constant(likely) },
    { weight: 3, arbitrary: fc.constantFrom<Actor>('member', 'expendable') },
    { weight: 5, arbitrary: fc.constantFrom(...ACTORS) },
  );
}

/** The values of a path parameter, by the path before it. At any other path, what was created there. */
const PATH_KINDS: Readonly<Record<string, readonly string[]>> = {
  '/products/': ['product'],
  '/roles/': ['role'],
  '/users/': ['user', 'user', 'self'],
  '/tenants/': ['tenant', 'own'],
  '/auth/sessions/': ['session'],
  '/clusters/': ['cluster'],
  '/operations/': ['operation'],
};

function pathOf({ path }: Operation): fc.Arbitrary<string> {
  const [before, behind] = path.split(/\{\w+\}/);
  if (before === undefined || behind === undefined) return fc.constant(path);
  const kind = fc.constantFrom(...(PATH_KINDS[before] ?? ['other']));
  const id = fc.oneof(
    { weight: 14, arbitrary: fc.tuple(kind, fc.nat({ max: 999 })).map(([name, index]) => `~${name}.${index}~`) },
    { weight: 1, arbitrary: fc.uuid() },
    {
      weight: 1,
      arbitrary: fc
        .uuid()
        .chain((uuid) =>
          fc
            .constantFrom(uuid.toUpperCase(), `{${uuid}}`, uuid.replaceAll('-', ''), `${uuid} `, `${uuid}\0`)
            .map(encode),
        ),
    },
    // With '.', '..' or nothing the path would be another.
    {
      weight: 2,
      arbitrary: hostileValue
        .map(textIn)
        .filter((text) => !/^\.{0,2}$/.test(text))
        .map(encode),
    },
    { weight: 1, arbitrary: notPercentEncoding },
  );
  return id.map((value) => `${before}${value}${behind}`);
}

function queryOf({ parameters }: Operation, hints: Hints): fc.Arbitrary<string> {
  const inQuery = parameters.filter((parameter) => parameter.in === 'query');
  const pair = ({ name, schema }: Parameter, quality: 'good' | 'bad'): fc.Arbitrary<string> =>
    valuesOf(schema, hints, name)[quality].map((value) => `${name}=${encode(textIn(value))}`);
  const unknown = fc.oneof(
    fc.constantFrom('_method=DELETE', 'tenantId=1', '__proto__=1', '__proto__[a]=1', 'limit[]=1', '&&', '=', 'a'),
    hostileValue.map((value) => `x=${encode(textIn(value))}`),
    notPercentEncoding,
  );
  if (inQuery.length === 0)
    return fc.oneof(
      { weight: 15, arbitrary: fc.constant('') },
      { weight: 1, arbitrary: unknown.map((text) => `?${text}`) },
    );
  // Made once: an arbitrary costs more to build than to draw from.
  const pairs = fc.record(Object.fromEntries(inQuery.map((parameter) => [parameter.name, pair(parameter, 'good')])));
  const names = fc.subarray(
    inQuery.map(({ name }) => name),
    { maxLength: Math.min(inQuery.length, 2) },
  );
  const good = fc.tuple(pairs, names).map(([all, some]) => some.flatMap((name) => all[name] ?? []));
  const bad = fc.oneof(...inQuery.map((parameter) => pair(parameter, 'bad')));
  const query = fc.oneof(
    { weight: 6, arbitrary: good },
    { weight: 2, arbitrary: fc.tuple(good, bad).map(([some, one]) => [...some, one]) },
    { weight: 1, arbitrary: good.map((some) => [...some, ...some.slice(0, 1)]) },
    { weight: 1, arbitrary: fc.tuple(good, unknown).map(([some, one]) => [...some, one]) },
  );
  return fc.oneof(
    { weight: 8, arbitrary: query.map((some) => (some.length === 0 ? '' : `?${some.join('&')}`)) },
    { weight: 1, arbitrary: fc.nat({ max: 99 }).map((index) => `~page.${index}~`) },
  );
}

const strangeHeaders: fc.Arbitrary<Record<string, string>> = fc.oneof(
  { weight: 8, arbitrary: fc.constant({}) },
  {
    weight: 2,
    arbitrary: fc.constantFrom<Record<string, string>>(
      { 'x-request-id': 'a-client-s_id' },
      { 'x-request-id': 'x'.repeat(500) },
      { 'x-request-id': '\u00ff<script>' },
      { 'x-http-method-override': 'DELETE' },
      { 'x-tenant-id': '01900000-0000-7000-8000-000000000000' },
      { 'x-forwarded-for': "1.2.3.4, '; --" },
      { 'x-forwarded-host': 'evil.example', forwarded: 'for=1.2.3.4;host=evil.example' },
      { 'content-encoding': 'gzip' },
      { accept: 'text/html', 'accept-encoding': 'br', 'accept-language': '*;q=2' },
      { origin: 'null' },
      { origin: 'https://evil.example', 'access-control-request-method': 'DELETE' },
      { 'if-none-match': '*', 'if-match': '"x"', range: 'bytes=0-1' },
      { 'if-match': '*' },
      { 'if-none-match': 'W/"a", b', 'if-match': '"a" "b"' },
      { cookie: 'token=1; __proto__=1' },
      { 'idempotency-key': 'fuzz-key' },
      { 'idempotency-key': 'fuzz key' },
      { 'x-strange': '\u00e9'.repeat(1_000) },
    ),
  },
);

interface RequestContent {
  readonly type: string | undefined;
  readonly body: string | undefined;
  readonly encoding: Draft['encoding'];
}

const JSON_TYPE = 'application/json';

const noContent: fc.Arbitrary<RequestContent> = fc.constant({ type: undefined, body: undefined, encoding: 'utf8' });

/** Bodies that are not JSON, not UTF-8, or empty. */
const malformed: fc.Arbitrary<Pick<RequestContent, 'body' | 'encoding'>> = fc.oneof(
  fc
    .constantFrom('', '{', '{"a":1,}', "{'a':1}", '{"a":NaN}', '\ufeff{}', '{}{}', '\0', 'a=1', '['.repeat(30_000))
    .map((body) => ({ body, encoding: 'utf8' as const })),
  fc
    .constantFrom('{"name":"\u00ff"}', '{"name":"\u00c0\u0080"}')
    .map((body) => ({ body, encoding: 'latin1' as const })),
);

const strangeType = fc.constantFrom(
  undefined,
  'text/plain',
  'application/x-www-form-urlencoded',
  'multipart/form-data; boundary=x',
  'application/merge-patch+json',
  'application/json; charset=utf-16',
  'application/json; charset="utf-8"',
  'application/json;;',
  'json',
  '*/*',
);

function contentOf({ name, body: schema, method }: Operation, hints: Hints): fc.Arbitrary<RequestContent> {
  const values = valuesOf(schema ?? {}, hints, name);
  const written = (value: fc.Arbitrary<string>): fc.Arbitrary<RequestContent> =>
    value.map((body) => ({ type: JSON_TYPE, body, encoding: 'utf8' }));
  const broken = malformed.map((content) => ({ ...content, type: JSON_TYPE }));
  const mislabelled = fc.tuple(values.good, strangeType).map(([body, type]): RequestContent => {
    return { type, body, encoding: 'utf8' };
  });
  // The service does not read the body of a GET, and the injecting client refuses to send a malformed one.
  if (method === 'GET') return noContent;
  if (!schema)
    return fc.oneof(
      { weight: 10, arbitrary: noContent },
      { weight: 1, arbitrary: written(hostileValue) },
      { weight: 1, arbitrary: fc.oneof(broken, mislabelled) },
    );
  return fc.oneof(
    { weight: 12, arbitrary: written(values.good) },
    { weight: 6, arbitrary: written(values.bad) },
    { weight: 1, arbitrary: broken },
    { weight: 1, arbitrary: mislabelled },
    { weight: 1, arbitrary: noContent },
  );
}

const notPercentEncoding = fc.constantFrom(
  '%',
  '%zz',
  '%00',
  '%ff',
  '%c0%80',
  '%ed%a0%80',
  '%E0%A4%A',
  '%25%',
  '%u0041',
);

/** The text of a value in a query: a JSON string without its quotes, everything else as it is written. */
function textIn(value: string): string {
  if (!value.startsWith('"')) return value;
  return JSON.parse(value) as string;
}

/** Percent-encodes any string. A lone surrogate, which encodeURIComponent refuses, becomes the bytes that it would have. */
function encode(text: string): string {
  return Array.from(text, (character) => {
    if (character.isWellFormed()) return encodeURIComponent(character);
    const code = character.charCodeAt(0);
    const bytes = [0xe0 | (code >> 12), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f)];
    return bytes.map((byte) => `%${byte.toString(16)}`).join('');
  }).join('');
}
