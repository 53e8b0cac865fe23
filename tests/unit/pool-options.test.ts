// src/tenants/pool-options.ts: a tenant may set four bounded integers of its pool, and no other option of pg.
import { describe, expect, it } from 'vitest';
import type { InputIssue } from '../../src/errors.js';
import { AppError } from '../../src/errors.js';
import { parsePoolOptions, poolLimits } from '../../src/tenants/pool-options.js';

/** The problems of pool options, as the client gets them. */
function refusalOf(input: unknown): readonly InputIssue[] {
  try {
    parsePoolOptions(input);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    expect(error.code).toBe('invalid-pool-options');
    expect(error.status).toBe(422);
    return error.issues ?? [];
  }
  throw new Error(`accepted: ${JSON.stringify(input)}`);
}

const bounds = [
  ['max', 1, 100],
  ['acquireTimeout', 100, 60_000],
  ['timeout', 100, 600_000],
  ['idleTimeoutMillis', 100, 3_600_000],
] as const;

describe('pool options', () => {
  it('may be missing, one by one or all', () => {
    expect(parsePoolOptions({})).toEqual({});
    expect(parsePoolOptions({ max: 7 })).toEqual({ max: 7 });
  });

  it.each(bounds)('%s may be null, which restores the default', (name) => {
    expect(parsePoolOptions({ [name]: null })).toEqual({ [name]: null });
  });

  it.each(bounds)('%s may be from %d to %d', (name, minimum, maximum) => {
    expect(parsePoolOptions({ [name]: minimum })).toEqual({ [name]: minimum });
    expect(parsePoolOptions({ [name]: maximum })).toEqual({ [name]: maximum });
  });

  it.each(bounds)('%s is refused by name if it is outside its bounds or no whole number', (name, minimum, maximum) => {
    const bad: unknown[] = [minimum - 1, maximum + 1, -1, 0, 1e9, 2 ** 53, minimum + 0.5, NaN, Infinity, -Infinity, -0];
    bad.push(String(minimum), '1e3', true, [minimum], { valueOf: 5 }, BigInt(minimum));
    for (const value of bad)
      expect(refusalOf({ [name]: value }).map(({ path }) => path)).toContain(`/poolOptions/${name}`);
  });

  it.each([
    'connectionString',
    'host',
    'port',
    'user',
    'password',
    'database',
    'ssl',
    'options',
    'application_name',
    'statement_timeout',
    'Max',
    'max ',
    'constructor',
    'toString',
  ])('%s is refused by name: it is not a pool option', (name) => {
    expect(refusalOf({ [name]: 1 })).toEqual([{ path: `/poolOptions/${name}`, message: 'is not a pool option' }]);
  });

  it('__proto__ is refused, or at least changes nothing', () => {
    const input: unknown = JSON.parse('{"__proto__": {"max": 5}}');
    expect(refusalOf(input)).toEqual([{ path: '/poolOptions/__proto__', message: 'is not a pool option' }]);
    expect(({} as { max?: number }).max).toBeUndefined();
  });

  it('are refused with all problems at once', () => {
    const paths = refusalOf({ max: 1e9, timeout: -1, ssl: false, host: 'x' }).map(({ path }) => path);
    expect(paths.sort()).toEqual(['/poolOptions/host', '/poolOptions/max', '/poolOptions/ssl', '/poolOptions/timeout']);
  });

  it.each([null, [], 'max=5', 5, true])('are refused if they are no object: %j', (input) => {
    expect(refusalOf(input).length).toBeGreaterThan(0);
  });
});

describe('the limits of a pool', () => {
  const defaults = { max: 5, acquireTimeout: 5_000, timeout: 15_000, idleTimeoutMillis: 30_000 };

  it('are the tenant’s own if it has them, and otherwise the service’s', () => {
    expect(poolLimits({}, defaults)).toEqual(defaults);
    expect(poolLimits({ max: 2, timeout: 100 }, defaults)).toEqual({ ...defaults, max: 2, timeout: 100 });
  });

  it('never exceed the limits of the tenant, and keep smaller values', () => {
    const few = { ...defaults, max: 3, idleTimeoutMillis: 1_000 };
    expect(poolLimits({ max: 80 }, defaults, { connections: 3 })).toEqual(few);
    expect(poolLimits({ max: 2, idleTimeoutMillis: 100 }, defaults, { connections: 3 })).toEqual({
      ...defaults,
      max: 2,
      idleTimeoutMillis: 100,
    });
    expect(poolLimits({ timeout: 600_000 }, defaults, { statementTimeout: 900 })).toEqual({
      ...defaults,
      timeout: 900,
    });
    expect(poolLimits({ timeout: 100 }, defaults, { statementTimeout: 900 }).timeout).toBe(100);
    expect(poolLimits({}, defaults, { users: 1, products: 1, storageBytes: 1, requestsPerSecond: 1 })).toEqual(
      defaults,
    );
  });
});
