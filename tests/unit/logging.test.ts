// src/observability/logger.ts: a line is JSON, secrets are redacted, and of an error only the safe parts are written.
import { readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { setImmediate } from 'node:timers/promises';
import pg from 'pg';
import pino from 'pino';
import ts from 'typescript';
import { z } from 'zod';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { AppError } from '../../src/errors.js';
import { gatherLines, type LineStream } from '../../src/observability/gathered-lines.js';
import { createLevelSwitch, RAISED_FOR } from '../../src/observability/level-signal.js';
import { faultsOf, logFields } from '../../src/observability/log-fields.js';
import { showLines } from '../../src/observability/log-lines.js';
import { createLogger, safeError } from '../../src/observability/logger.js';
import { createMetrics, type Metrics } from '../../src/observability/metrics.js';

const ROOT = path.resolve(import.meta.dirname, '../..');

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

describe('the lines of a log', () => {
  async function countsOf(log: ReturnType<typeof createLogger>): Promise<Record<string, number>> {
    const metrics: Metrics = createMetrics((error) => {
      throw error;
    });
    showLines(metrics, log);
    const { body } = await metrics.expose();
    const series = [...body.matchAll(/^tenantry_log_lines_total\{level="(\w+)"\} (\d+)$/gm)];
    return Object.fromEntries(series.map(([, level = '', count]) => [level, Number(count)]));
  }

  it('are counted by level, with those of every child, and without those below the level', async () => {
    const { log } = logger('debug');
    const child = log.child({ reqId: 'r1' }).child({}, { redact: [] });
    log.trace('below');
    log.debug('one');
    for (let time = 0; time < 3; time += 1) child.info({ level: 'error', nested: { level: 'fatal' } }, 'three');
    log.warn('"level":"error"');
    log.error({ err: new Error('one') }, 'one');
    log.fatal('one');
    expect(await countsOf(log)).toEqual({ trace: 0, debug: 1, info: 3, warn: 1, error: 1, fatal: 1 });
  });

  it('of two logs are counted apart, and a log of another kind has no count', async () => {
    const [one, two] = [logger(), logger()];
    one.log.info('one');
    expect(await countsOf(two.log)).toMatchObject({ info: 0 });
    expect(await countsOf(one.log)).toMatchObject({ info: 1 });
    expect(await countsOf(pino({ level: 'silent' }))).toEqual({});
  });

  it('reach the stream as they are, also where it can be flushed', () => {
    const texts: string[] = [];
    const calls: string[] = [];
    const log = createLogger(
      { level: 'info', pretty: false },
      Object.assign(
        { write: (text: string) => void texts.push(text) },
        {
          flush: (done?: () => void) => {
            calls.push('flush');
            done?.();
          },
          flushSync: () => void calls.push('flushSync'),
        },
      ),
    );
    log.info('kept');
    log.flush();
    // pino flushes after a fatal line, because the process may end.
    log.fatal('last');
    expect(texts).toHaveLength(2);
    expect(calls).toEqual(['flush', 'flushSync']);
  });
});

describe('gathered lines', () => {
  /** What reaches the stream. */
  const gathered = (): { stream: LineStream; calls: string[] } => {
    const calls: string[] = [];
    const stream = gatherLines({
      write: (lines) => calls.push(`write ${lines}`),
      flush: (done) => {
        calls.push('flush');
        done?.();
      },
      flushSync: () => calls.push('flushSync'),
    });
    return { stream, calls };
  };

  it('of one turn are passed on together, in their order, and those of the next turn after them', async () => {
    const { stream, calls } = gathered();
    stream.write('1');
    await Promise.resolve();
    stream.write('2');
    expect(calls).toEqual([]);
    await setImmediate();
    stream.write('3');
    await setImmediate();
    expect(calls).toEqual(['write 12', 'write 3']);
  });

  it('are passed on before the stream is flushed, and once', async () => {
    const { stream, calls } = gathered();
    stream.write('1');
    stream.flushSync();
    stream.write('2');
    const done = vi.fn();
    stream.flush(done);
    await setImmediate();
    expect(calls).toEqual(['write 1', 'flushSync', 'write 2', 'flush']);
    expect(done).toHaveBeenCalledOnce();
  });

  it('are written when the process exits in the same turn', () => {
    const { stream, calls } = gathered();
    stream.write('the last words');
    // Not those of others: this process goes on.
    const listeners = process.listeners('exit').filter((each) => String(each).includes('atExit'));
    expect(listeners).toHaveLength(1);
    listeners[0]?.(0);
    expect(calls).toEqual(['write the last words', 'flushSync']);
  });
});

describe('the level of a log', () => {
  beforeEach(() => {
    vi.useFakeTimers();
  });
  afterEach(() => {
    vi.useRealTimers();
  });

  const changesOf = (lines: readonly string[]): unknown[] =>
    lines.map((line) => (JSON.parse(line) as { logLevel?: unknown }).logLevel).filter((level) => level !== undefined);

  it('is raised by a signal and given back by the next, for the loggers that were made before too', () => {
    const { log, lines } = logger('warn');
    const child = log.child({ reqId: 'r1' });
    const lineLogger = log.child({}, { redact: [] });
    const signal = createLevelSwitch(log);
    child.debug('not yet');
    signal();
    child.debug('shown');
    lineLogger.debug('shown');
    log.child({}).debug('shown');
    signal();
    for (const each of [log, child, lineLogger]) each.info('no longer');
    expect(lines.filter((line) => line.includes('shown'))).toHaveLength(3);
    expect(lines).toHaveLength(5);
    expect(changesOf(lines)).toEqual(['debug', 'warn']);
    expect(vi.getTimerCount()).toBe(0);
  });

  it('comes back by itself, and says when', () => {
    const { log, lines } = logger('info');
    const signal = createLevelSwitch(log);
    signal();
    const { until } = JSON.parse(lines[0] ?? '') as { until: string };
    vi.advanceTimersByTime(RAISED_FOR - 1);
    expect(log.level).toBe('debug');
    vi.advanceTimersByTime(1);
    expect(log.level).toBe('info');
    expect(new Date(until).getTime()).toBe(Date.now());
    signal();
    expect(changesOf(lines)).toEqual(['debug', 'info', 'debug']);
    expect(lines.flatMap((line) => faultsOf(JSON.parse(line) as Record<string, unknown>))).toEqual([]);
  });

  it.each([
    ['silent', ['debug']],
    ['debug', ['trace']],
    ['trace', ['trace']],
  ])('is raised from %s to a lower one, if there is one, and says so', (level, changes) => {
    const { log, lines } = logger(level);
    createLevelSwitch(log)();
    expect(log.level).toBe(changes[0]);
    expect(changesOf(lines)).toEqual(changes);
  });

  it('is flushed with its line, because a person waits for it', () => {
    const flush = vi.fn();
    const log = createLogger({ level: 'info', pretty: false }, Object.assign({ write: () => undefined }, { flush }));
    const signal = createLevelSwitch(log);
    signal();
    signal();
    expect(flush).toHaveBeenCalledTimes(2);
  });
});

describe('the schema of the log', () => {
  it('finds a field that is not in it, and a value of another type', () => {
    expect(faultsOf({ level: 'info', time: 't', msg: 'm', fields: ['a'], kid: null })).toEqual([]);
    expect(faultsOf({ unknown: 1 })).toEqual(['unknown is not in the schema']);
    expect(faultsOf({ status: '200' })).toEqual(['status is no number: "200"']);
    for (const line of [{ err: ['a'] }, { err: null }, { fields: [1] }, { fields: 'a' }, { security: 'true' }])
      expect(faultsOf(line)).toHaveLength(1);
  });

  it('has every field that the code gives to a line', () => {
    const beyond: string[] = [];
    let found = 0;
    const visit = (file: string, node: ts.Node): void => {
      ts.forEachChild(node, (child) => {
        visit(file, child);
      });
      if (!ts.isCallExpression(node) || !ts.isPropertyAccessExpression(node.expression)) return;
      const [fields] = node.arguments;
      const isLine = /\b(?:log|lines)\.(?:trace|debug|info|warn|error|fatal)$/.test(node.expression.getText());
      if (!isLine || !fields || !ts.isObjectLiteralExpression(fields)) return;
      found += 1;
      for (const property of fields.properties)
        if (property.name && !(property.name.getText() in logFields))
          beyond.push(`${file}: ${property.name.getText()}`);
    };
    for (const folder of ['src', 'plugins', 'routes', 'db'])
      for (const name of readdirSync(path.join(ROOT, folder), { recursive: true, encoding: 'utf8' })) {
        if (!name.endsWith('.ts')) continue;
        const file = path.join(folder, name);
        const text = readFileSync(path.join(ROOT, file), 'utf8');
        if (/\b(?:log|lines)\.\w+\(/.test(text))
          visit(file, ts.createSourceFile(name, text, ts.ScriptTarget.Latest, true));
      }
    expect(found).toBeGreaterThan(20);
    expect(beyond).toEqual([]);
  });

  it('says of each field what it is, in the words of the page', () => {
    for (const [name, { meaning, lines }] of Object.entries(logFields)) {
      expect(meaning, name).not.toMatch(/\.$|\|/);
      expect(lines, name).not.toMatch(/\.$|\|/);
    }
  });
});
