// src/audit/changes.ts: from which value to which, with nothing that stayed.
import { describe, expect, it } from 'vitest';
import { changesBetween } from '../../src/audit/changes.js';

describe('the changes of an audit row', () => {
  it('are the fields that have another value, and no others', () => {
    expect(changesBetween({ a: 1, b: 'x', c: [1] }, { a: 2, b: 'x', c: [1] })).toEqual({ a: { from: 1, to: 2 } });
    expect(changesBetween({ a: 1 }, {})).toEqual({});
  });

  it('have null for a value that there was not, or is not any more', () => {
    expect(changesBetween({}, { a: 1 })).toEqual({ a: { from: null, to: 1 } });
    expect(changesBetween({ a: 1 }, { a: null })).toEqual({ a: { from: 1, to: null } });
    expect(changesBetween({ a: null }, { a: undefined })).toEqual({});
  });

  it('have only the changed keys of a value with keys', () => {
    const before = { limits: { users: 5, products: 7, connections: 3 } };
    expect(changesBetween(before, { limits: { users: 9, products: 7 } })).toEqual({
      limits: { from: { connections: 3, users: 5 }, to: { connections: null, users: 9 } },
    });
  });

  it('hold no long text', () => {
    const { a } = changesBetween({ a: 'x'.repeat(5_000) }, { a: 'y' });
    expect(String(a?.from).length).toBeLessThanOrEqual(300);
  });
});
