// OpenAPI 3.1 from the routes' zod schemas and access, at /docs/json, with a page to try the API at /docs.
import swagger from '@fastify/swagger';
import swaggerUi from '@fastify/swagger-ui';
import type { RouteOptions } from 'fastify';
import fp from 'fastify-plugin';
import { jsonSchemaTransform } from 'fastify-type-provider-zod';
import { z } from 'zod';
import type { RouteAccess } from '../../src/auth/route-access.js';
import { catalogue, statusesOf, type ErrorCode } from '../../src/errors.js';
import { IDEMPOTENCY_KEY } from '../../src/http/idempotency-key.js';
import { keyedIn } from '../../src/http/keyed-routes.js';

declare module 'fastify' {
  interface FastifyContextConfig {
    /** The route's own errors, besides the errors that every route of its kind can answer. */
    errors?: readonly ErrorCode[];
  }
}

/** The page loads its own scripts, and has inline styles. It calls this service and no other. */
const PAGE_POLICY =
  "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; object-src 'none'; frame-ancestors 'none'";

export const openapi = fp(
  async (app) => {
    await app.register(swagger, {
      openapi: {
        openapi: '3.1.0',
        info: {
          title: 'Tenantry',
          version: '1',
          description:
            'A REST service that gives every tenant its own PostgreSQL database. Sign in at POST /auth/login, then send the access token in the header `Authorization: Bearer <token>`.',
        },
        components: { securitySchemes: { bearer: { type: 'http', scheme: 'bearer', bearerFormat: 'JWT' } } },
      },
      transform: (document) => {
        const { route } = document;
        // The routes of the documentation are not part of it.
        if (document.url.startsWith('/docs')) return { schema: { hide: true }, url: document.url };
        const preconditions = preconditionsOf(route);
        const schema = {
          ...document.schema,
          response: {
            ...(document.schema.response as object),
            ...(preconditions.includes('if-none-match') && { 304: z.null() }),
            ...errorAnswers(route),
          },
        };
        const transformed = jsonSchemaTransform({ ...document, schema });
        const described = transformed.schema as { headers?: HeaderSchema; response?: Record<string, object> };
        const keyed = keyedIn(route) !== undefined;
        describeHeaders(described.response, preconditions, keyed);
        const headers = withHeaders(described.headers, {
          ...Object.fromEntries(
            preconditions.map((name) => [name, { type: 'string', description: preconditionTexts[name] }]),
          ),
          ...(keyed && { 'idempotency-key': keyHeader }),
        });
        return {
          url: transformed.url,
          schema: { ...described, ...(headers && { headers }), ...describe(route.config?.access) },
        };
      },
    });
    await app.register(async (docs) => {
      docs.addHook('onRoute', (route) => {
        route.config = { ...route.config, access: { scope: 'public' } };
      });
      // The same for every reader until the next build.
      docs.addHook('onRequest', (_request, reply, done) => {
        reply.header('cache-control', 'public, no-cache');
        done();
      });
      await docs.register(swaggerUi, { routePrefix: '/docs', staticCSP: PAGE_POLICY });
    });
  },
  { name: 'openapi', fastify: '5.x', dependencies: ['authentication', 'schemas'] },
);

const problemSchema = z
  .object({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string().optional(),
    code: z.enum(Object.keys(catalogue) as [ErrorCode, ...ErrorCode[]]),
    requestId: z.string(),
    traceId: z
      .string()
      .optional()
      .meta({ description: 'The trace id of the request, if it came with a valid `traceparent` header.' }),
    errors: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
    limit: z.string().optional().meta({ description: 'The name of the tenant limit that was reached.' }),
    limitValue: z.number().optional().meta({ description: 'The value of that limit.' }),
    operationId: z.string().optional().meta({
      format: 'uuid',
      description: 'The operation that the request began and that is not finished: read GET /operations/{id}.',
    }),
  })
  .meta({ description: 'A problem document (RFC 9457).' });

/** Every error status of a route: the common ones of its kind, and its own. */
function errorAnswers(route: RouteOptions): Record<number, object> {
  const { access, errors = [] } = route.config ?? {};
  // An address that cannot be decoded is refused at every route.
  const codes: ErrorCode[] = ['invalid-request', 'rate-limited', 'internal-error', 'unavailable', ...errors];
  if (access && access.scope !== 'public') codes.push('unauthenticated', 'forbidden');
  if (access?.recent !== undefined) codes.push('confirmation-needed');
  if (access?.scope === 'tenant' || access?.scope === 'platform')
    codes.push('tenant-limit-exceeded', 'tenant-upgrading');
  const { body, params } = (route.schema ?? {}) as { body?: unknown; params?: unknown };
  // A request that needs no body may still have one, and it is read.
  if (body || route.method !== 'GET') codes.push('body-too-large', 'unsupported-media-type');
  if (params) codes.push('not-found');
  if (keyedIn(route)) codes.push('idempotency-key-in-use', 'idempotency-key-reused', 'too-many-idempotency-keys');
  const answers: Record<number, object> = {};
  for (const code of codes) {
    for (const status of statusesOf(code)) {
      const description = codes.filter((other) => statusesOf(other).includes(status)).map((other) => `\`${other}\``);
      answers[status] = {
        description: [...new Set(description)].join(', '),
        content: { 'application/problem+json': { schema: problemSchema } },
      };
    }
  }
  return answers;
}

/** The headers of the request that compare ETags: on reads of one resource, and on writes that declare the refusal. */
function preconditionsOf({ method, url, config }: RouteOptions): readonly Precondition[] {
  if (method === 'GET') return url.endsWith('/:id') ? ['if-none-match'] : [];
  return config?.errors?.includes('precondition-failed') ? ['if-match'] : [];
}

type Precondition = keyof typeof preconditionTexts;

const preconditionTexts = {
  'if-match': 'The ETags that the resource may have, or `*` (RFC 9110, section 13.1.1). Otherwise the answer is 412.',
  'if-none-match':
    'The ETags that the client has, or `*` (RFC 9110, section 13.1.2). If one is current, the answer is 304.',
} as const;

interface HeaderSchema {
  readonly properties?: Readonly<Record<string, object>>;
}

function withHeaders(
  given: HeaderSchema | undefined,
  added: Readonly<Record<string, object>>,
): HeaderSchema | undefined {
  if (Object.keys(added).length === 0) return given;
  return { type: 'object', ...given, properties: { ...given?.properties, ...added } } as HeaderSchema;
}

const etag = { ETag: { type: 'string', description: 'The version of the resource (RFC 9110, section 8.8.3).' } };

const keyHeader = {
  type: 'string',
  pattern: IDEMPOTENCY_KEY.source,
  description:
    'Identifies the request. Sent again with the same key within 24 hours, it has no second effect and gets the same answer.',
};

const replayed = {
  type: 'string',
  enum: ['true'],
  description: 'Sent with the stored answer to an earlier request with the same Idempotency-Key.',
};

const retryAfter = {
  type: 'integer',
  description: 'Seconds to wait before the next attempt (RFC 9110, section 10.2.3).',
};

/** A structured list (RFC 9651), with an item for each limit that has less than half left. */
const quotaHeaders = {
  RateLimit: {
    type: 'string',
    description:
      'The requests that are left (`r`), and the seconds until the full limit is available again (`t`): `"address";r=50;t=57`. Sent when less than half of a limit is left.',
  },
  'RateLimit-Policy': {
    type: 'string',
    description: 'The same limits, as requests (`q`) in a window of seconds (`w`): `"address";q=1000;w=60`.',
  },
};

/** jsonSchemaTransform does not support headers of answers. */
function describeHeaders(
  answers: Record<string, object> = {},
  preconditions: readonly Precondition[],
  keyed: boolean,
): void {
  for (const [status, answer] of Object.entries(answers)) {
    if (status === '429') Object.assign(answer, { headers: { 'Retry-After': retryAfter, ...quotaHeaders } });
    else if (status === '503') Object.assign(answer, { headers: { 'Retry-After': retryAfter } });
    else if (status === '304')
      Object.assign(answer, { headers: etag, 'x-response-description': 'The client has the current version.' });
    else if (status.startsWith('2')) {
      const hasETag = status === '201' || (status === '200' && preconditions.length > 0);
      // Without it @fastify/swagger writes "Default Response".
      const description = { 201: 'Created.', 204: 'Done. The answer has no body.' }[status] ?? 'The answer.';
      const headers = {
        ...(hasETag && etag),
        ...quotaHeaders,
        ...(keyed && { 'Idempotent-Replayed': replayed }),
      };
      Object.assign(answer, { headers, 'x-response-description': description });
    }
  }
}

function describe(access: RouteAccess | undefined): object {
  if (!access || access.scope === 'public') return {};
  const who = {
    tenant: 'users of the tenant',
    operator: 'operators',
    platform: 'operators, and for users within their own tenant',
  }[access.scope];
  const { permission, orSelf, recent } = access;
  const needed = permission === undefined || permission === 'self' ? '' : ` with the permission \`${permission}\``;
  return {
    security: [{ bearer: [] }],
    description: [
      `For ${who}${needed}${orSelf ? ', or for the user that the path names' : ''}.`,
      ...(recent === undefined ? [] : [`Needs a recent sign-in${recent === true ? '' : ` ${recent}`}.`]),
    ].join(' '),
    ...(permission && { 'x-permission': permission }),
  };
}
