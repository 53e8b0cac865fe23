// What clients read about bad input. The test gives every field of every route wrong values, and reads all messages. A new message
// is added to validation-messages.txt by the command of this file with `-u` at its end: read it before you commit it.
import { readdirSync, readFileSync } from 'node:fs';
import { isIP } from 'node:net';
import Fastify, { type FastifyInstance } from 'fastify';
import { describe, expect, it } from 'vitest';
import { z } from 'zod';
import { schemas } from '../../plugins/http/validation.js';
import { routes } from '../../routes/index.js';
import type { Config } from '../../src/config/index.js';
import type { Engine } from '../../src/engine/index.js';
import { AppError, type InputIssue } from '../../src/errors.js';
import { inOurWords, inputIssues } from '../../src/http/validation-words.js';
import { parseLimits } from '../../src/tenants/tenant-limits.js';
import { parsePoolOptions } from '../../src/tenants/pool-options.js';

const PARTS = ['body', 'querystring', 'params'] as const;
type Part = (typeof PARTS)[number];

interface Place {
  readonly route: string;
  readonly part: Part;
  readonly schema: z.ZodType;
}

/** A message, and the data that it is about. */
interface Said extends InputIssue {
  readonly where: string;
  readonly data: unknown;
}

async function placesOfAllRoutes(): Promise<Place[]> {
  const app: FastifyInstance = Fastify();
  const places: Place[] = [];
  // Routes take these at their registration, and use the rest of the engine only in handlers.
  app.decorate('engine', { security: { record: () => undefined } } as unknown as Engine);
  app.decorate('describeTag', () => undefined);
  app.decorate('limitByAddress', (() => () => undefined) as never);
  app.addHook('onRoute', ({ method, url, schema }) => {
    if (method === 'HEAD') return;
    for (const part of PARTS) {
      const found = schema?.[part];
      if (found) places.push({ route: `${String(method)} ${url}`, part, schema: found as z.ZodType });
    }
  });
  await app.register(schemas);
  await app.register(routes, { config: { http: { apiPrefix: '' }, auth: { keys: [] } } as unknown as Config });
  await app.close();
  return places;
}

/** The compiler that the service validates with. */
async function compiler(): Promise<(place: Place) => (data: unknown) => readonly InputIssue[]> {
  const app = Fastify();
  await app.register(schemas);
  const compile = app.validatorCompiler;
  if (!compile) throw new Error('there is no compiler');
  return ({ schema, part }) => {
    const validate = compile({ schema, method: 'POST', url: '/', httpPart: part }) as (data: unknown) => {
      error?: unknown;
    };
    return (data) => {
      const { error } = validate(data);
      if (error === undefined) return [];
      if (!(error instanceof AppError)) throw new Error('another error', { cause: error });
      expect(error.code).toBe('invalid-request');
      return error.issues ?? [];
    };
  };
}

const wrongTexts = [
  '',
  ' ',
  'x',
  'No Such',
  'a\0b',
  '\ud800',
  'x'.repeat(40_000),
  'é'.repeat(40),
  'ada@bücher.example',
  '-5',
  '1.234',
  '1e3',
  '1000',
  '9'.repeat(400),
  '1969-01-01T00:00:00Z',
  '2026-01-31',
  '2026-01-31T09:30:00.12345678901234567890Z',
  '01900000-0000-7000-8000-0000000000a1',
];
const wrongValues: readonly unknown[] = [
  undefined,
  null,
  ...wrongTexts,
  0,
  -1,
  0.5,
  99_999_999_999,
  1e300,
  -1e300,
  Infinity,
  -Infinity,
  true,
  {},
  { unknown: 1 },
  [],
  ['x', 'x'],
  [5],
  Array.from({ length: 100 }, (_, index) => `item-${index}`),
];

/** What a query, a path and headers can carry. */
const wrongInUrl: readonly unknown[] = [undefined, ...wrongTexts, ['1', '2']];

/** The shape of a schema that is an object behind all its wrappers. */
function shapeOf(schema: z.core.$ZodType): Record<string, z.core.$ZodType> | undefined {
  const def = schema._zod.def as unknown as { type: string } & Record<string, unknown>;
  if (def.type === 'object') return def['shape'] as Record<string, z.core.$ZodType>;
  const inner = def['innerType'] ?? def['in'];
  return inner === undefined ? undefined : shapeOf(inner as z.core.$ZodType);
}

/** The data with one wrong value at each field, at every depth. */
function* wrongData(schema: z.core.$ZodType, values: readonly unknown[]): Generator {
  yield* values;
  for (const [name, field] of Object.entries(shapeOf(schema) ?? {})) {
    for (const data of wrongData(field, values)) yield { [name]: data };
    yield { [name]: 'x', unknown: 'x' };
  }
}

function at(data: unknown, path: string): unknown {
  const keys = path.split('/').slice(1);
  return keys.reduce<unknown>((value, key) => (value as Record<string, unknown> | undefined)?.[key], data);
}

/** Whether what a message says is so: one rule for each message that zod's issues get, and for each of the schemas' own. */
const truths: readonly (readonly [message: RegExp, isSo: (value: unknown, ...said: string[]) => boolean])[] = [
  [/^is missing$/, (value) => value === undefined],
  [/^is not known here$/, (value) => value !== undefined],
  [/^is not a (?:pool option|limit)$/, () => true],
  [/^is too large$/, (value) => value === Infinity],
  [/^is too small$/, (value) => value === -Infinity],
  [/^must be at least (-?\d+)$/, (value, least) => Number(value) < Number(least)],
  [/^must be at most (-?\d+)$/, (value, most) => Number(value) > Number(most)],
  [/^must be a whole number$/, (value) => !Number.isInteger(value)],
  [/^must be a whole number in digits$/, (value) => !/^-?\d+$/.test(value as string)],
  [/^must be text$/, (value) => typeof value !== 'string'],
  [/^must be a number$/, (value) => typeof value !== 'number'],
  [/^must be text or a number$/, (value) => typeof value !== 'string' && typeof value !== 'number'],
  [/^must be true or false$/, (value) => typeof value !== 'boolean' && value !== 'true' && value !== 'false'],
  [/^must be an object$/, (value) => typeof value !== 'object' || value === null || Array.isArray(value)],
  [/^must be a list$/, (value) => !Array.isArray(value)],
  [/^must have at least (\d+) (?:characters?|items?)$/, (value, least) => (value as string).length < Number(least)],
  [/^must have at most (\d+) (?:characters?|items?)$/, (value, most) => (value as string).length > Number(most)],
  [/^must not be given more than once$/, (value) => Array.isArray(value)],
  [/^must not name a (?:role|permission) twice$/, (value) => new Set(value as string[]).size < (value as []).length],
  [
    /^must be an e-mail address in ASCII: write the domain as "xn--[a-z0-9.-]+"$/,
    (value) => !/^[ -~]*$/.test(value as string),
  ],
  [/^must be an e-mail address$/, (value) => !(value as string).includes('@')],
  [/^must be a UUID in lower case$/, (value) => !z.uuid().safeParse(value).success],
  [/^must be a time such as 2026-01-31T09:30:00.250Z$/, (value) => !z.iso.datetime().safeParse(value).success],
  [/^must not be before 1970$/, (value) => Date.parse(value as string) < 0],
  [/^must not look like an id$/, (value) => z.uuid().safeParse(value).success],
  [
    /^must be lower-case letters, digits and single dashes$/,
    (value) => !/^[a-z0-9]+(-[a-z0-9]+)*$/.test(value as string),
  ],
  [
    /^must be a host name or an IP address$/,
    (value) => isIP(value as string) === 0 && !/^\w([\w.-]*\w)?$/.test(value as string),
  ],
  [/^must be certificates in PEM$/, (value) => !(value as string).includes('BEGIN CERTIFICATE')],
  [/^must be at most 63 bytes long$/, (value) => Buffer.byteLength(value as string) > 63],
  [
    /^must not contain NUL or lone surrogates$/,
    (value) => (value as string).includes('\0') || !(value as string).isWellFormed(),
  ],
  [
    /^must be a decimal from 0 to 9999999999.99 with at most two places$/,
    (value) => !/^\d{1,10}(\.\d\d?)?$/.test(String(value)),
  ],
  [/^must come with order=asc$/, (value) => value !== undefined],
  [/^must be more than (\d+)$/, (value, least) => Number(value) <= Number(least)],
  [
    /^must have exactly one of ([\w, ]+)$/,
    (value, keys = '') =>
      keys.split(', ').filter((key) => (value as Record<string, unknown>)[key] !== undefined).length !== 1,
  ],
  [/^must not be 0$/, (value) => value === 0],
  [
    /^must have at least one field to change$/,
    (value) => Object.keys(value as object).every((key) => ['unknown', 'currentPassword'].includes(key)),
  ],
  [/^is not a permission$/, (value) => !/^[a-z]+:[a-z]+$/.test(value as string)],
  [/^must be (?:one of )?([\w.:, -]+)$/, (value, list = '') => !list.split(/, | or /).includes(String(value))],
];

function isSo({ message, path, data }: Said): boolean {
  const rule = truths.find(([pattern]) => pattern.test(message));
  return rule?.[1](at(data, path), ...(rule[0].exec(message) ?? []).slice(1)) ?? false;
}

/** The issues of what takes and refuses data by itself. */
function refusalOf(parse: (data: unknown) => unknown, data: unknown): readonly InputIssue[] {
  try {
    parse(data);
    return [];
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    return error.issues ?? [];
  }
}

async function everythingSaid(): Promise<Said[]> {
  const issuesOf = await compiler();
  const places = await placesOfAllRoutes();
  const ofRoutes = places.flatMap((place) => {
    const validate = issuesOf(place);
    const values = place.part === 'body' ? wrongValues : wrongInUrl;
    return [...wrongData(place.schema, values)].flatMap((data) =>
      validate(data).map((issue) => ({ ...issue, data, where: `${place.route} ${place.part}` })),
    );
  });
  const settings = { poolOptions: parsePoolOptions, limits: parseLimits };
  const ofSettings = Object.entries(settings).flatMap(([name, parse]) =>
    [
      ...wrongValues,
      ...['max', 'timeout', 'connections', 'storageBytes'].flatMap((key) =>
        wrongValues.map((value) => ({ [key]: value })),
      ),
    ].flatMap((data) => refusalOf(parse, data).map((issue) => ({ ...issue, data: { [name]: data }, where: name }))),
  );
  return [...ofRoutes, ...ofSettings];
}

/** The messages that the code itself gives with a path, and those of weak passwords. */
function writtenInCode(): string[] {
  const files = ['src', 'plugins', 'routes'].flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.ts'))
      .map((name) => readFileSync(`${folder}/${name}`, 'utf8')),
  );
  const withPath = files.flatMap((text) => [...text.matchAll(/path: [^,\n]+,\s*message: (['"`])(.+?)\1/g)]);
  const weaknesses = readFileSync('src/auth/common-passwords.ts', 'utf8').matchAll(/return (['"`])(.+?)\1;/g);
  const strict = readFileSync('src/http/strict-json.ts', 'utf8').matchAll(/refuse\((['"`])(.+?)\1/g);
  const refined = files.flatMap((text) => [...text.matchAll(/error: (['"`])((?:must|is|has|cannot) .+?)\1/g)]);
  return [...withPath, ...weaknesses, ...strict, ...refined].map(([, , message = '']) => message);
}

const said = await everythingSaid();
const messages = [...new Set([...said.map(({ message }) => message), ...writtenInCode()])].sort();

describe('the messages about bad input', () => {
  it('are about every part of the requests', () => {
    expect(new Set(said.map(({ where }) => where.split(' ').at(-1)))).toEqual(
      new Set(['body', 'querystring', 'params', 'poolOptions', 'limits']),
    );
    expect(said.length).toBeGreaterThan(1_000);
    expect(writtenInCode().length).toBeGreaterThan(10);
  });

  it('are true', () => {
    const untrue = said.filter((issue) => !isSo(issue));
    expect(
      untrue.map(({ where, path, message, data }) => [where, path, message, String(at(data, path)).slice(0, 60)]),
    ).toEqual([]);
  });

  it.each(messages)('have one voice: %s', (message) => {
    expect(message).toMatch(/^(?:must|is|has|cannot) /);
    expect(message).not.toMatch(/[.!?]$/);
    expect(message).not.toMatch(/invalid|expected|received|undefined|NaN\b|zod|regex|pattern|\^|\$\/|\\/i);
    expect(message.length).toBeLessThan(800);
  });

  it('say one thing about one value', () => {
    const bounds = said.filter(({ message }) =>
      /^must (?:be|have) at (?:least|most) -?\d+(?: characters?| items?)?$/.test(message),
    );
    const values = bounds.map(({ where, path, data }) => JSON.stringify([where, path, data]));
    expect(values.filter((value, index) => values.indexOf(value) !== index)).toEqual([]);
  });

  it('are those that a person has read', async () => {
    await expect(`${messages.join('\n')}\n`).toMatchFileSnapshot('validation-messages.txt');
  });
});

describe('the words for an issue', () => {
  const issuesOf = (schema: z.ZodType, data: unknown): InputIssue[] => {
    const { error } = schema.safeParse(data, { error: inOurWords });
    return error ? inputIssues(error) : [];
  };

  it.each([
    [z.object({ a: z.number().gt(1) }), { a: 1 }, '/a', 'must be more than 1'],
    [z.object({ a: z.number().lt(1) }), { a: 1 }, '/a', 'must be less than 1'],
    [z.object({ a: z.number().multipleOf(5) }), { a: 6 }, '/a', 'must be a multiple of 5'],
    [z.object({ a: z.string().length(3) }), { a: 'ab' }, '/a', 'must have 3 characters'],
    [z.object({ a: z.array(z.string()).min(1) }), { a: [] }, '/a', 'must have at least 1 item'],
    [z.object({ a: z.url() }), { a: 'x' }, '/a', 'must be a URL'],
    [z.object({ a: z.literal('b') }), { a: 'x' }, '/a', 'must be b'],
    [z.object({ a: z.string().startsWith('b') }), { a: 'x' }, '/a', 'must be written in another form'],
    [z.object({ a: z.date() }), { a: 'x' }, '/a', 'must be of another kind'],
    [z.record(z.enum(['a']), z.string()), { b: 'x' }, '/b', 'is not known here'],
    [z.object({ a: z.custom(() => false) }), { a: 1 }, '/a', 'is not allowed'],
    // As RFC 6901 has it.
    [z.strictObject({}), { 'a/b~c': 1 }, '/a~1b~0c', 'is not known here'],
    [z.record(z.string(), z.string()), { 'a/b~c': 1 }, '/a~1b~0c', 'must be text'],
  ])('continues the path (%#)', (schema, data, path, message) => {
    expect(issuesOf(schema, data)).toContainEqual({ path, message });
  });

  it('are those of the branch of a union that the value comes nearest to', () => {
    const schema = z.object({ a: z.union([z.string().max(2), z.object({ b: z.int().max(9) })]) });
    expect(issuesOf(schema, { a: 'long' })).toEqual([{ path: '/a', message: 'must have at most 2 characters' }]);
    expect(issuesOf(schema, { a: { b: 10 } })).toEqual([{ path: '/a/b', message: 'must be at most 9' }]);
    expect(issuesOf(schema, { a: true })).toEqual([{ path: '/a', message: 'must be text or an object' }]);
    expect(issuesOf(schema, {})).toEqual([{ path: '/a', message: 'is missing' }]);
  });
});
