// src/http/problem.ts: every error becomes a problem document, and an unexpected one reveals nothing.
import { errorCodes } from 'fastify';
import pg from 'pg';
import { describe, expect, it } from 'vitest';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { AppError, catalogue, type ErrorCode } from '../../src/errors.js';
import { PROBLEM_TYPE, rawProblem, toAppError, toProblem } from '../../src/http/problem.js';

const codes = Object.keys(catalogue) as ErrorCode[];

describe('an error of the catalogue', () => {
  it.each(codes)('%s is a problem document with its status, code and title', (code) => {
    const { status, headers, body } = toProblem(new AppError(code), 'request-1');
    expect(status).toBe(catalogue[code].status);
    expect(headers['content-type']).toBe('application/problem+json; charset=utf-8');
    expect(body).toEqual({
      type: `urn:tenantry:error:${code}`,
      title: catalogue[code].title,
      status,
      code,
      requestId: 'request-1',
    });
  });

  it('has its detail and its issues', () => {
    const issues = [{ path: '/name', message: 'is needed' }];
    const { body } = toProblem(new AppError('invalid-request', { detail: 'Look again.', issues }), 'r');
    expect(body).toMatchObject({ detail: 'Look again.', errors: issues });
  });

  it('names the limit of a tenant that was reached, with 403, or with 429 if waiting helps', () => {
    const limit = { name: 'products', value: 10 };
    const never = toProblem(new AppError('tenant-limit-exceeded', { limit }), 'r');
    expect(never).toMatchObject({ status: 403, body: { status: 403, limit: 'products', limitValue: 10 } });
    expect(never.headers).not.toHaveProperty('retry-after');
    const later = toProblem(new AppError('tenant-limit-exceeded', { limit, retryAfter: 1 }), 'r');
    expect(later).toMatchObject({ status: 429, headers: { 'retry-after': '1' }, body: { status: 429 } });
    expect(toProblem(new AppError('unavailable', { retryAfter: 1 }), 'r').status).toBe(503);
  });

  it('names the operation that goes on in the background', () => {
    const error = new AppError('operation-unfinished', { operationId: 'operation-1', retryAfter: 5 });
    const { status, headers, body } = toProblem(error, 'r');
    expect([status, headers['retry-after']]).toEqual([503, '5']);
    expect(body).toMatchObject({ code: 'operation-unfinished', operationId: 'operation-1' });
  });

  it('does not reveal its cause', () => {
    const error = new AppError('unavailable', { cause: new Error('canary') });
    expect(JSON.stringify(toProblem(error, 'r'))).not.toContain('canary');
  });

  it('asks for authentication with every 401, and with no other status', () => {
    for (const code of codes) {
      const { status, headers } = toProblem(new AppError(code), 'r');
      expect(headers['www-authenticate'], code).toBe(status === 401 ? 'Bearer' : undefined);
    }
  });

  it('gives the seconds until a retry is useful, if they are known', () => {
    expect(toProblem(new AppError('rate-limited', { retryAfter: 17 }), 'r').headers['retry-after']).toBe('17');
    expect(toProblem(new AppError('unavailable', { retryAfter: 0 }), 'r').headers['retry-after']).toBe('0');
    expect(toProblem(new AppError('not-found'), 'r').headers).not.toHaveProperty('retry-after');
  });
});

describe('a fault of a database', () => {
  it.each(['unavailable', 'busy', 'timeout'] as const)(
    '(%s) becomes 503 with Retry-After, and its reason is not revealed',
    (kind) => {
      const answer = toProblem(new DatabaseFault(kind, 'canary'), 'r');
      expect(answer).toMatchObject({ status: 503, headers: { 'retry-after': '2' }, body: { code: 'unavailable' } });
      expect(JSON.stringify(answer)).not.toContain('canary');
    },
  );

  it('gives its own time for a retry if it has one', () => {
    const { headers } = toProblem(new DatabaseFault('unavailable', 'canary', 1), 'r');
    expect(headers['retry-after']).toBe('1');
  });
});

describe('an error of Fastify or of Node’s parser', () => {
  it.each<[string, ErrorCode, number]>([
    ['FST_ERR_BAD_URL', 'invalid-request', 400],
    ['FST_ERR_CTP_BODY_TOO_LARGE', 'body-too-large', 413],
    ['FST_ERR_CTP_INVALID_CONTENT_LENGTH', 'invalid-request', 400],
    ['FST_ERR_CTP_INVALID_MEDIA_TYPE', 'unsupported-media-type', 415],
    ['FST_ERR_MAX_PARAM_LENGTH', 'not-found', 404],
  ])('%s is %s', (name, code, status) => {
    // The real error, so that a code that Fastify renames is noticed.
    const RealError = (errorCodes as Readonly<Record<string, new (...args: string[]) => Error>>)[name];
    if (!RealError) throw new Error(`Fastify knows no ${name}`);
    const answer = toProblem(new RealError('canary'), 'r');
    expect(answer).toMatchObject({ status, body: { code, status } });
    expect(JSON.stringify(answer)).not.toContain('canary');
  });

  it.each([
    ['ERR_HTTP_REQUEST_TIMEOUT', 408],
    ['HPE_HEADER_OVERFLOW', 431],
  ])('%s is %d', (code, status) => {
    expect(toProblem(Object.assign(new Error('canary'), { code }), 'r').status).toBe(status);
  });
});

describe('any other error', () => {
  const rejectedByPostgres = Object.assign(new pg.DatabaseError('canary: duplicate key', 100, 'error'), {
    severity: 'ERROR',
    code: '23505',
    detail: 'Key (email)=(canary@example.com) already exists.',
    table: 'canary',
    constraint: 'canary_key',
  });
  const others: readonly (readonly [string, unknown])[] = [
    ['an Error', new Error('canary')],
    ['a TypeError', new TypeError('canary of undefined')],
    ['an error of PostgreSQL', rejectedByPostgres],
    ['an error of the system', Object.assign(new Error('canary'), { code: 'ENOENT', path: '/canary' })],
    ['an error with a status of its own', Object.assign(new Error('canary'), { statusCode: 418, status: 418 })],
    ['an error that calls itself ours', Object.assign(new Error('canary'), { name: 'AppError', code: 'not-found' })],
    ['a text', 'canary'],
    ['an object', { code: 'FST_ERR_BAD_URL', message: 'canary' }],
    ['null', null],
    ['undefined', undefined],
    ['a symbol', Symbol('canary')],
  ];

  it.each(others)('(%s) becomes 500 and reveals nothing', (_, error) => {
    const { status, headers, body } = toProblem(error, 'request-1');
    expect(headers).toEqual({ 'content-type': PROBLEM_TYPE, 'cache-control': 'no-store' });
    expect(body).toEqual({
      type: 'urn:tenantry:error:internal-error',
      title: 'Something went wrong',
      status: 500,
      code: 'internal-error',
      requestId: 'request-1',
    });
    expect(status).toBe(500);
  });

  it('is kept as the cause, for the log', () => {
    for (const [name, error] of others) expect(toAppError(error).cause, name).toBe(error);
  });
});

describe('the answer to input that is not HTTP', () => {
  const parse = (raw: string): { status: string; headers: Record<string, string>; body: string } => {
    const [head = '', body = ''] = raw.split('\r\n\r\n');
    const [status = '', ...lines] = head.split('\r\n');
    return {
      status,
      body,
      headers: Object.fromEntries(lines.map((line) => line.split(': '))) as Record<string, string>,
    };
  };

  it.each([
    ['HPE_INVALID_METHOD', 'HTTP/1.1 400 Bad Request', 'invalid-request'],
    ['HPE_HEADER_OVERFLOW', 'HTTP/1.1 431 Request Header Fields Too Large', 'headers-too-large'],
    ['ERR_HTTP_REQUEST_TIMEOUT', 'HTTP/1.1 408 Request Timeout', 'request-timeout'],
  ])('%s is a complete HTTP answer with a problem document', (code, line, problem) => {
    const { status, headers, body } = parse(rawProblem(Object.assign(new Error('canary'), { code }), 'request-1'));
    expect(status).toBe(line);
    expect(headers).toEqual({
      'content-type': PROBLEM_TYPE,
      'cache-control': 'no-store',
      'content-length': String(Buffer.byteLength(body)),
      'x-request-id': 'request-1',
      connection: 'close',
    });
    expect(JSON.parse(body)).toMatchObject({ code: problem, requestId: 'request-1' });
    expect(body).not.toContain('canary');
  });

  it('is 400 if the error has no code', () => {
    expect(rawProblem(new Error('canary'), 'r')).toMatch(/^HTTP\/1\.1 400 /);
  });
});
