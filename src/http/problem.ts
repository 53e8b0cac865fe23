// Turns any error into an RFC 9457 problem document. Errors outside the catalogue reveal no details.
import { STATUS_CODES } from 'node:http';
import { DatabaseFault, violatedCheck } from '../../db/driver/database-fault.js';
import { ClientLeft } from '../lib/requester.js';
import { AppError, catalogue, type ErrorCode, type InputIssue } from '../errors.js';

/** An RFC 9457 problem document. */
export interface Problem {
  readonly type: string;
  readonly title: string;
  readonly status: number;
  readonly detail?: string;
  readonly code: ErrorCode;
  readonly requestId: string;
  /** The trace that the request belongs to (src/http/trace-context.ts). */
  readonly traceId?: string;
  readonly errors?: readonly InputIssue[];
  /** The name of the tenant's limit that was reached, and its value. */
  readonly limit?: string;
  readonly limitValue?: number;
  /** The operation that continues in the background: GET /operations/:id shows it. */
  readonly operationId?: string;
}

/** The answer to an error: status, headers and body. */
export interface ProblemAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Problem;
}

/** The media type of every error answer. */
export const PROBLEM_TYPE = 'application/problem+json; charset=utf-8';

/** Seconds after which a database fault may be over, if the fault itself does not say. */
const FAULT_RETRY_AFTER = 2;

/** The end of the names of constraints on times (db/tenant/migrations/0014_times_in_range.ts). Rows from before them stay. */
const TIMES_IN_RANGE = '_times_in_range';

/** @param traceId of a request that came with a valid `traceparent` */
export function toProblem(error: unknown, requestId: string, traceId?: string): ProblemAnswer {
  const known = toAppError(error);
  const { code, status, detail, issues, retryAfter, limit, operationId } = known;
  return {
    status,
    headers: {
      'content-type': PROBLEM_TYPE,
      // Also if the handler had set another rule before it failed.
      'cache-control': 'no-store',
      ...(status === 401 && { 'www-authenticate': 'Bearer' }),
      ...(retryAfter !== undefined && { 'retry-after': String(retryAfter) }),
    },
    body: {
      type: `urn:tenantry:error:${code}`,
      title: catalogue[code].title,
      status,
      ...(detail !== undefined && { detail }),
      code,
      requestId,
      ...(traceId !== undefined && { traceId }),
      ...(issues && { errors: issues }),
      ...(limit && { limit: limit.name, limitValue: limit.value }),
      ...(operationId !== undefined && { operationId }),
    },
  };
}

/** The error of the catalogue for any thrown value. */
export function toAppError(error: unknown): AppError {
  if (error instanceof AppError) return error;
  if (error instanceof DatabaseFault)
    return new AppError('unavailable', { retryAfter: error.retryAfter ?? FAULT_RETRY_AFTER, cause: error });
  // No client is left to read it. But Fastify answers every error.
  if (error instanceof ClientLeft) return new AppError('unavailable', { retryAfter: FAULT_RETRY_AFTER, cause: error });
  if (violatedCheck(error)?.endsWith(TIMES_IN_RANGE) === true)
    return new AppError('invalid-request', {
      detail:
        'A time of this row is outside the years 1 to 9999. The row can be read and removed. Correct the time in the database to change it.',
      cause: error,
    });
  if (error instanceof Error && 'code' in error && typeof error.code === 'string') {
    const code = fromFastify[error.code];
    if (code) return new AppError(code, { cause: error });
  }
  return new AppError('internal-error', { cause: error });
}

/** Errors that Fastify, its parsers and Node's HTTP parser raise before a handler runs. */
const fromFastify: Readonly<Record<string, ErrorCode>> = {
  FST_ERR_BAD_URL: 'invalid-request',
  FST_ERR_CTP_BODY_TOO_LARGE: 'body-too-large',
  FST_ERR_CTP_EMPTY_TYPE: 'unsupported-media-type',
  FST_ERR_CTP_INVALID_CONTENT_LENGTH: 'invalid-request',
  FST_ERR_CTP_INVALID_MEDIA_TYPE: 'unsupported-media-type',
  FST_ERR_CTP_INVALID_TYPE: 'unsupported-media-type',
  FST_ERR_MAX_PARAM_LENGTH: 'not-found',
  ERR_HTTP_REQUEST_TIMEOUT: 'request-timeout',
  HPE_HEADER_OVERFLOW: 'headers-too-large',
};

/** The code for a request that Node's HTTP parser refused. */
export function parserErrorCode({ code = '' }: Error & { readonly code?: string }): ErrorCode {
  return fromFastify[code] ?? 'invalid-request';
}

/**
 * The answer to a request that Node's HTTP parser refused, as raw bytes: there is no reply object that could send it.
 *
 * @param others headers that every answer has
 */
export function rawProblem(
  error: Error & { code?: string },
  requestId: string,
  others: Readonly<Record<string, string>> = {},
): string {
  const { status, headers, body } = toProblem(new AppError(parserErrorCode(error)), requestId);
  const payload = JSON.stringify(body);
  const lines = Object.entries({
    ...others,
    ...headers,
    'x-request-id': requestId,
    'content-length': String(Buffer.byteLength(payload)),
    connection: 'close',
  }).map(([name, value]) => `${name}: ${value}\r\n`);
  return `HTTP/1.1 ${status} ${STATUS_CODES[status] ?? ''}\r\n${lines.join('')}\r\n${payload}`;
}
