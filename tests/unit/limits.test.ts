// src/tenants/tenant-limits.ts: bounded integers by name only, and the tenant's own before the service's.
import { describe, expect, it } from 'vitest';
import { AppError, type InputIssue } from '../../src/errors.js';
import {
  limitBounds,
  limitExceeded,
  limitsInForce,
  limitsShown,
  parseLimits,
} from '../../src/tenants/tenant-limits.js';

const bounds = Object.entries(limitBounds).map(([name, [minimum, maximum]]) => [name, minimum, maximum] as const);

/** The problems of limits, as the client gets them. */
function refusalOf(input: unknown): readonly InputIssue[] {
  try {
    parseLimits(input);
  } catch (error) {
    if (!(error instanceof AppError)) throw error;
    expect([error.code, error.status]).toEqual(['invalid-limits', 422]);
    return error.issues ?? [];
  }
  throw new Error(`accepted: ${JSON.stringify(input)}`);
}

/** The noun in the sentence about a limit. */
const counted: Readonly<Record<string, string>> = {
  requestsPerSecond: 'requests per second',
  connections: 'connections',
  statementTimeout: 'ms',
  users: 'users',
  products: 'products',
  storageBytes: 'bytes',
};

describe('limits', () => {
  it('may be missing', () => {
    expect(parseLimits({})).toEqual({});
  });

  it.each(bounds)('%s may be null, and from %d to %d', (name, minimum, maximum) => {
    for (const value of [null, minimum, maximum]) expect(parseLimits({ [name]: value })).toEqual({ [name]: value });
  });

  it.each(bounds)('%s is refused by name if it is outside its bounds or no whole number', (name, minimum, maximum) => {
    const bad = [minimum - 1, maximum + 1, -1, 0, 2 ** 53, minimum + 0.5, NaN, Infinity, -0, String(minimum), true, []];
    for (const value of bad) {
      const paths = new Set(refusalOf({ [name]: value }).map(({ path }) => path));
      expect([...paths]).toEqual([`/limits/${name}`]);
    }
  });

  it.each(['Users', 'max', 'constructor', 'toString', 'storage_bytes'])('%s is refused as an unknown limit', (name) => {
    expect(refusalOf({ [name]: 1 })).toEqual([{ path: `/limits/${name}`, message: 'is not a limit' }]);
  });

  it('__proto__ is refused, and changes nothing', () => {
    expect(refusalOf(JSON.parse('{"__proto__": {"users": 5}}'))).toEqual([
      { path: '/limits/__proto__', message: 'is not a limit' },
    ]);
    expect(({} as { users?: number }).users).toBeUndefined();
  });

  it.each([null, [], 'users=5', 5, true])('are refused if they are no object: %j', (input) => {
    expect(refusalOf(input).length).toBeGreaterThan(0);
  });
});

describe('the effective limits', () => {
  it('are the tenant’s own, larger or smaller, before the service’s', () => {
    expect(limitsInForce({ users: 9, products: 1 }, { users: 5, connections: 3 })).toEqual({
      users: 9,
      products: 1,
      connections: 3,
    });
    expect(limitsInForce({}, {})).toEqual({});
  });

  it('are all shown, null if there is none', () => {
    const shown = limitsShown({ users: 9 });
    expect(Object.keys(shown)).toEqual(Object.keys(limitBounds));
    expect(shown).toMatchObject({ users: 9, products: null, storageBytes: null });
  });

  it.each(bounds)('%s is named when it is reached', (name) => {
    const error = limitExceeded(name as keyof typeof limitBounds, 7);
    expect(error.detail).toContain(`limit of 7 ${counted[name] ?? ''}`);
    expect(error.limit).toEqual({ name, value: 7 });
    expect([error.status, limitExceeded(name as keyof typeof limitBounds, 7, 1).status]).toEqual([403, 429]);
  });
});
