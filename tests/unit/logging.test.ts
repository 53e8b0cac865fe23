// src/observability/logger.ts: a line is JSON, secrets are redacted, and of an error only the safe parts are written.
import pg from 'pg';
import { z } from 'zod';
import { describe, expect, it } from 'vitest';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { AppError } from '../../src/errors.js';
import { createLogger, safeError } from '../../src/observability/logger.js';

/** A logger and its lines. */
function logger(level = 'info'): { log: ReturnType<typeof createLogger>; lines: string[] } {
  const lines: string[] = [];
  const stream = {
    write: (line: string) => {
      lines.push(line);
    },
  };
  return { log: createLogger({ level, pretty: false }, stream), lines };
}

/** The log's form of a thrown value. */
function logged(error: unknown): string {
  const { log, lines } = logger();
  log.error({ err: error }, 'request');
  expect(lines).toHaveLength(1);
  return lines[0] ?? '';
}

/** An error of PostgreSQL as pg raises it, with a row in every text. */
function rejectedByPostgres(): pg.DatabaseError {
  return Object.assign(new pg.DatabaseError('duplicate key: canary', 100, 'error'), {
    severity: 'ERROR',
    code: '23505',
    detail: 'Key (email)=(canary@example.com) already exists.',
    hint: 'canary',
    where: 'canary',
    internalQuery: 'select canary',
    schema: 'canary',
    table: 'canary',
    column: 'canary',
    constraint: 'canary',
  });
}

describe('a log line', () => {
  it('is one object of JSON with level, time and message', () => {
    const { log, lines } = logger();
    log.info({ tenantId: 't1' }, 'two\nlines');
    const line = JSON.parse(lines[0] ?? '') as Record<string, unknown>;
    expect(Object.keys(line).sort()).toEqual(['level', 'msg', 'tenantId', 'time']);
    expect(line).toMatchObject({ level: 'info', tenantId: 't1', msg: 'two\nlines' });
    expect(line['time']).toMatch(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/);
    expect(lines[0]?.trimEnd()).not.toContain('\n');
  });

  it('is not written below its level', () => {
    const { log, lines } = logger('warn');
    log.info('no');
    log.warn('yes');
    expect(lines).toHaveLength(1);
  });

  it.each([
    'password',
    'currentPassword',
    'newPassword',
    'passwordHash',
    'dbPassword',
    'db_password',
    'accessToken',
    'refreshToken',
    'token',
    'secret',
  ])('contains no %s, at the top or one level below', (key) => {
    const { log, lines } = logger();
    log.info({ [key]: 'canary' }, 'top');
    log.info({ body: { [key]: 'canary' } }, 'below');
    log.child({ [key]: 'canary' }).info('child');
    for (const line of lines) {
      expect(line).not.toContain('canary');
      expect(line).toContain('[redacted]');
    }
    expect(lines).toHaveLength(3);
  });

  it.each([
    { req: { headers: { authorization: 'Bearer canary' } } },
    { headers: { authorization: 'Bearer canary' } },
    { headers: { cookie: 'session=canary' } },
  ])('contains no credentials of a request: %j', (fields) => {
    const { log, lines } = logger();
    log.info(fields, 'request');
    expect(lines[0]).not.toContain('canary');
  });
});

describe('an error in the log', () => {
  it.each<[string, Error]>([
    ['ours', new AppError('not-found', { detail: 'There is no such tenant.' })],
    ['a fault of a database', new DatabaseFault('unavailable', 'There is no such tenant.')],
    ['a plain one, thrown by us', new Error('There is no such tenant.')],
  ])('(%s) keeps its message', (_, error) => {
    expect(logged(error)).toContain('There is no such tenant.');
  });

  it('of PostgreSQL keeps its SQLSTATE, and no message, detail, name or row', () => {
    const line = logged(rejectedByPostgres());
    expect(line).toContain('23505');
    expect(line).not.toContain('canary');
  });

  it.each<[string, unknown]>([
    [
      'of the system',
      Object.assign(new Error('connect ECONNREFUSED canary:5432'), {
        errno: -111,
        code: 'ECONNREFUSED',
        address: 'canary',
      }),
    ],
    ['of a parser, which quotes its input', new SyntaxError('Unexpected token c, "canary" is not valid JSON')],
    ['of zod', z.object({ canary: z.string() }).safeParse({}).error],
    [
      'with fields of its own',
      Object.assign(new Error('plain'), { query: 'canary', connection: { password: 'canary' } }),
    ],
    ['with several inside', new AggregateError([new Error('canary')], 'canary')],
    ['that is a text', 'canary'],
    ['that is an object', { message: 'canary', stack: 'canary' }],
  ])('%s is written without its properties', (_, error) => {
    expect(logged(error)).not.toContain('canary');
  });

  it('is written without the content of its cause, but with the cause’s class and code', () => {
    const line = logged(new AppError('unavailable', { cause: rejectedByPostgres() }));
    expect(line).not.toContain('canary');
    expect((JSON.parse(line) as { err: { cause: unknown } }).err.cause).toMatchObject({ type: 'error', code: '23505' });
  });

  it('shows its place in the code, and its stack does not repeat a message of any form', () => {
    const error = new TypeError('canary\n    at canary (canary.ts:1:1)\nbehind');
    const { stack } = safeError(error);
    expect(stack).toContain('logging.test.ts');
    expect(stack).not.toContain('canary');
  });

  it('has no stack if it was intended: its code says enough, and there may be thousands in a moment', () => {
    expect(safeError(new AppError('unavailable'))).not.toHaveProperty('stack');
    expect(safeError(new DatabaseFault('busy', 'full'))).toEqual({
      type: 'DatabaseFault',
      message: 'database busy: full',
    });
  });

  it('may be its own cause', () => {
    const error = new Error('round');
    error.cause = new AppError('internal-error', { cause: error });
    expect(logged(error)).toContain('round');
  });

  it('may have no stack', () => {
    const error = new Error('bare');
    delete error.stack;
    expect(safeError(error)).toEqual({ type: 'Error', message: 'bare', stack: '' });
  });
});
