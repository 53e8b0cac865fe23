// The parts of the OpenAPI document that operations share by reference: headers of answers, parameters in headers, and the
// problem document.
import { z } from 'zod';
import { catalogue, type ErrorCode } from '../../errors.js';
import { IDEMPOTENCY_KEY } from '../idempotency-key.js';
import type { Json } from './json-schemas.js';

const header = (description: string, schema: Json = { type: 'string' }): Json => ({ description, schema });

/** Headers of answers by their name, which is also the name of the component. */
export const answerHeaders = {
  ETag: header('The version of the resource (RFC 9110, section 8.8.3).'),
  'Idempotent-Replayed': header('Sent with the stored answer to an earlier request with the same Idempotency-Key.', {
    type: 'string',
    enum: ['true'],
  }),
  Location: header('The address of the new resource.', { type: 'string', format: 'uri-reference' }),
  // Structured lists (RFC 9651), with an item for each limit that has less than half left.
  RateLimit: header(
    'The requests that are left (`r`), and the seconds until the full limit is available again (`t`): `"address";r=50;t=57`. Sent when less than half of a limit is left.',
  ),
  'RateLimit-Policy': header(
    'The same limits, as requests (`q`) in a window of seconds (`w`): `"address";q=1000;w=60`.',
  ),
  'Retry-After': header('Seconds to wait before the next attempt (RFC 9110, section 10.2.3).', {
    type: 'integer',
    minimum: 0,
  }),
  'WWW-Authenticate': header('The scheme of the token that is needed: `Bearer`.'),
  'X-Request-Id': header('The id of the request, also in the log.'),
} as const satisfies Readonly<Record<string, Json>>;

export type AnswerHeader = keyof typeof answerHeaders;

const requestHeader = (name: string, description: string, schema: Json = { type: 'string' }): Json => ({
  name,
  in: 'header',
  description,
  schema,
});

/** Parameters in headers, by the name of the component. */
export const headerParameters = {
  IdempotencyKey: requestHeader(
    'Idempotency-Key',
    'Identifies the request. Sent again with the same key within 24 hours, it has no second effect and gets the same answer.',
    { type: 'string', pattern: IDEMPOTENCY_KEY.source },
  ),
  IfMatch: requestHeader(
    'If-Match',
    'The ETags that the resource may have, or `*` (RFC 9110, section 13.1.1). Otherwise the answer is 412.',
  ),
  IfNoneMatch: requestHeader(
    'If-None-Match',
    'The ETags that the client has, or `*` (RFC 9110, section 13.1.2). If one is current, the answer is 304.',
  ),
} as const satisfies Readonly<Record<string, Json>>;

export type HeaderParameter = keyof typeof headerParameters;

export const problemSchema = z
  .object({
    type: z.string(),
    title: z.string(),
    status: z.int().min(400).max(599),
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
  .meta({ id: 'Problem', description: 'A problem document (RFC 9457).' });

/** References to components of one kind, by their names. */
export function headerReferences(names: readonly AnswerHeader[]): Readonly<Record<string, Json>> {
  return Object.fromEntries(names.map((name) => [name, { $ref: `#/components/headers/${name}` }]));
}
