// The answers of a route in the OpenAPI document: its success with its headers, and every error that it can have, by reference.
import type { RouteOptions } from 'fastify';
import { z } from 'zod';
import { AppError, statusesOf, type ErrorCode } from '../../errors.js';
import { errorGuide } from '../error-guide.js';
import { keyedIn } from '../keyed-routes.js';
import { PROBLEM_TYPE, toProblem } from '../problem.js';
import type { Json, SchemaComponents } from './json-schemas.js';
import { headerReferences, problemSchema, type AnswerHeader, type HeaderParameter } from './shared-parts.js';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route's own errors, besides the errors that every route of its kind can answer. */
    errors?: readonly ErrorCode[];
  }
}

/** The names of the components, by status. */
const responseNames: Readonly<Record<number, string>> = {
  304: 'NotModified',
  400: 'BadRequest',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'NotFound',
  408: 'RequestTimeout',
  409: 'Conflict',
  412: 'PreconditionFailed',
  413: 'BodyTooLarge',
  414: 'AddressTooLong',
  415: 'UnsupportedMediaType',
  422: 'Unprocessable',
  429: 'TooManyRequests',
  431: 'HeadersTooLarge',
  500: 'InternalError',
  503: 'Unavailable',
};

/** The errors of every route: the address, the headers and the limits are looked at before the route is known. */
const everywhere: readonly ErrorCode[] = [
  'invalid-request',
  'request-timeout',
  'uri-too-long',
  'rate-limited',
  'headers-too-large',
  'internal-error',
  'unavailable',
  'overloaded',
];

/** The codes of every error that a route can answer, by status: those of its kind, and its own. */
function errorsOf(route: RouteOptions): ReadonlyMap<number, readonly ErrorCode[]> {
  const { access, errors = [] } = route.config ?? {};
  const codes: ErrorCode[] = [...everywhere, ...errors];
  if (access && access.scope !== 'public') codes.push('unauthenticated', 'forbidden');
  if (access?.recent !== undefined) codes.push('confirmation-needed');
  if (access?.scope === 'tenant' || access?.scope === 'platform')
    codes.push('tenant-suspended', 'tenant-limit-exceeded', 'tenant-upgrading');
  const { body, params } = (route.schema ?? {}) as { body?: unknown; params?: unknown };
  // A request that needs no body may still have one, and it is read.
  if (body || route.method !== 'GET') codes.push('body-too-large', 'unsupported-media-type');
  if (params) codes.push('not-found');
  if (keyedIn(route)) codes.push('idempotency-key-in-use', 'idempotency-key-reused', 'too-many-idempotency-keys');
  const found = new Map<number, ErrorCode[]>();
  for (const code of new Set(codes))
    for (const status of statusesOf(code)) found.set(status, [...(found.get(status) ?? []), code]);
  return new Map([...found].sort(([one], [other]) => one - other));
}

const inWords = (codes: readonly ErrorCode[]): string => codes.map((code) => `\`${code}\``).join(', ');

/** The headers of a request that a route looks at. */
export function headersOf(route: RouteOptions): readonly HeaderParameter[] {
  const { method, url, config } = route;
  const takesKey = keyedIn(route) !== undefined;
  const keyed: readonly HeaderParameter[] = takesKey ? ['IdempotencyKey'] : [];
  if (method === 'GET') return url.endsWith('/:id') ? ['IfNoneMatch'] : [];
  return config?.errors?.includes('precondition-failed') ? [...keyed, 'IfMatch'] : keyed;
}

/** The error answers that routes refer to. */
export class ErrorAnswers {
  /** By status, the codes that every route with this status has, and an example. */
  private readonly common = new Map<number, readonly ErrorCode[]>();
  private readonly examples = new Map<number, ErrorCode | undefined>();

  /** @param routes every documented route */
  constructor(
    routes: readonly RouteOptions[],
    private readonly schemas: SchemaComponents,
  ) {
    for (const [status, codes] of routes.flatMap((route) => [...errorsOf(route)])) {
      if (!this.examples.has(status)) this.examples.set(status, codes[0]);
      const others = this.common.get(status);
      this.common.set(status, others ? others.filter((code) => codes.includes(code)) : codes);
    }
  }

  /** The components of this kind, by name. */
  get components(): Readonly<Record<string, Json>> {
    const problem = this.schemas.of(problemSchema, 'output');
    const made = [...this.common].sort(([one], [other]) => one - other);
    const answers = made.map(([status, codes]): [string, Json] => {
      const answer = {
        description: codes.length > 0 ? inWords(codes) : 'The route says which errors.',
        headers: headerReferences(errorHeaders(status)),
        content: { [mediaType]: { schema: problem, ...exampleOf(codes[0] ?? this.examples.get(status), status) } },
      };
      return [nameOf(status), answer];
    });
    const notModified = {
      description: 'The client has the current version.',
      headers: headerReferences(['ETag', 'X-Request-Id']),
    };
    return { NotModified: notModified, ...Object.fromEntries(answers) };
  }

  /** The answers of a route by status: references, with a description if the route has errors beside the common ones. */
  of(route: RouteOptions): Readonly<Record<number, Json>> {
    const answers = [...errorsOf(route)].map(([status, codes]): [number, Json] => {
      const isCommon = codes.length === this.common.get(status)?.length;
      return [status, { ...reference(status), ...(!isCommon && { description: inWords(codes) }) }];
    });
    const conditional = headersOf(route).includes('IfNoneMatch');
    return { ...(conditional && { 304: reference(304) }), ...Object.fromEntries(answers) };
  }
}

const mediaType = PROBLEM_TYPE.split(';')[0] ?? '';
const EXAMPLE_ID = '01993a5e-7c00-7000-8000-00000000cafe';

function exampleOf(code: ErrorCode | undefined, status: number): Json {
  if (code === undefined) return {};
  const { body } = toProblem(new AppError(code, status === 429 ? { retryAfter: 1 } : {}), EXAMPLE_ID);
  return { example: body };
}

/** @throws Error for a status without a name */
function nameOf(status: number): string {
  const name = responseNames[status];
  if (name === undefined) throw new Error(`the status ${status} needs a name in the OpenAPI document`);
  return name;
}

function reference(status: number): Json {
  return { $ref: `#/components/responses/${nameOf(status)}` };
}

function errorHeaders(status: number): readonly AnswerHeader[] {
  // An error with two statuses has Retry-After with the second one.
  const waits = Object.entries(errorGuide).some(
    ([code, { retryAfter }]) => retryAfter && statusesOf(code as ErrorCode).at(-1) === status,
  );
  return [
    ...(status === 401 ? (['WWW-Authenticate'] as const) : []),
    ...(waits ? (['Retry-After'] as const) : []),
    ...(status === 429 ? quotas : []),
    'X-Request-Id',
  ];
}

const quotas = ['RateLimit', 'RateLimit-Policy'] as const;

/**
 * The success of a route.
 *
 * @throws Error if the route declares no answer
 */
export function successOf(route: RouteOptions, schemas: SchemaComponents): Readonly<Record<number, Json>> {
  const { response } = (route.schema ?? {}) as { response?: Readonly<Record<number, z.ZodType>> };
  const [status, schema] = Object.entries(response ?? {})[0] ?? [];
  if (status === undefined || !schema) throw new Error(`${String(route.method)} ${route.url} declares no answer`);
  const versioned =
    status === '201' || (status === '200' && headersOf(route).some((name) => name !== 'IdempotencyKey'));
  const headers: readonly AnswerHeader[] = [
    ...(versioned ? (['ETag'] as const) : []),
    ...(status === '201' ? (['Location'] as const) : []),
    ...(keyedIn(route) ? (['Idempotent-Replayed'] as const) : []),
    ...quotas,
    'X-Request-Id',
  ];
  const answer = {
    description: { 201: 'Created.', 204: 'Done. The answer has no body.' }[status] ?? 'The answer.',
    headers: headerReferences(headers),
    ...(!(schema instanceof z.ZodNull) && {
      content: { 'application/json': { schema: schemas.of(schema, 'output') } },
    }),
  };
  return { [status]: answer };
}
