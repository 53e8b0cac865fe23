// src/http/cursors.ts: a cursor is valid for the list that gave it, and for no other.
import { createHmac, randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import type { Position } from '../../db/shared/keyset.js';
import { createCursors, type CursorContext } from '../../src/http/cursors.js';
import { AppError } from '../../src/errors.js';

const SECRET = Buffer.from('a-secret-of-the-installation');
const cursors = createCursors([SECRET]);
const ID = '01890a5d-ac96-774b-bcce-b302099a8057';
const position: Position = ['2026-01-31T09:30:00.250Z', ID];
const context: CursorContext = ['tenant-a', 'products', 'desc createdAt', { active: true, search: 'lamp' }];

function codeOf(cursor: string, as: CursorContext = context, by = cursors): string {
  try {
    by.decode(cursor, as);
    return 'accepted';
  } catch (error) {
    if (error instanceof AppError) return error.code;
    throw error;
  }
}

describe('a cursor', () => {
  it('leads back to its position', () => {
    expect(cursors.decode(cursors.encode(position, context), context)).toEqual(position);
  });

  it('carries any text, even characters that are difficult in JSON and base64', () => {
    const values = ['', '"', '\\', ',', '\u0000', 'é', '🧭', '\ud800', '%_\\', ']', 'x'.repeat(200), '1299.99', 'null'];
    for (let round = 0; round < 200; round += 1) values.push(randomBytes(round).toString('utf8'));
    for (const value of values)
      expect(cursors.decode(cursors.encode([value, ID], context), context), JSON.stringify(value)).toEqual([value, ID]);
  });

  it('needs no encoding in a URL', () => {
    for (let round = 0; round < 100; round += 1) {
      const cursor = cursors.encode([randomBytes(round).toString('latin1'), ID], context);
      expect(encodeURIComponent(cursor)).toBe(cursor);
    }
  });

  it('is valid on every replica of an installation', () => {
    const replica = createCursors([SECRET]);
    expect(replica.decode(cursors.encode(position, context), context)).toEqual(position);
  });

  it('is valid while its secret is known, whichever secret signs', () => {
    const next = Buffer.from('the-next-secret');
    const [learning, changed, done] = [
      createCursors([SECRET, next]),
      createCursors([next, SECRET]),
      createCursors([next]),
    ];
    expect(changed.decode(learning.encode(position, context), context)).toEqual(position);
    expect(learning.decode(changed.encode(position, context), context)).toEqual(position);
    expect(done.decode(changed.encode(position, context), context)).toEqual(position);
    expect(codeOf(learning.encode(position, context), context, done)).toBe('invalid-cursor');
  });

  it('cannot be made without a secret', () => {
    expect(() => createCursors([])).toThrow('no secret');
  });
});

describe('a cursor is refused', () => {
  const cursor = cursors.encode(position, context);

  it.each<[string, CursorContext]>([
    ['by another owner', ['tenant-b', 'products', 'desc createdAt', { active: true, search: 'lamp' }]],
    ['by another list', ['tenant-a', 'users', 'desc createdAt', { active: true, search: 'lamp' }]],
    ['under another sort', ['tenant-a', 'products', 'desc price', { active: true, search: 'lamp' }]],
    ['in the other direction', ['tenant-a', 'products', 'asc createdAt', { active: true, search: 'lamp' }]],
    ['under another filter', ['tenant-a', 'products', 'desc createdAt', { active: true, search: 'lamps' }]],
    ['with a filter less', ['tenant-a', 'products', 'desc createdAt', { active: true }]],
    ['with a filter more', ['tenant-a', 'products', 'desc createdAt', { active: true, search: 'lamp', sku: 'x' }]],
    [
      'where a filter is text and not a flag',
      ['tenant-a', 'products', 'desc createdAt', { active: 'true', search: 'lamp' }],
    ],
    [
      'where the parts only run together to the same text',
      ['tenant-aproducts', '', 'desc createdAt', { active: true, search: 'lamp' }],
    ],
  ])('%s', (_, other) => {
    expect(codeOf(cursor, other)).toBe('invalid-cursor');
  });

  it('by an installation with another secret', () => {
    expect(codeOf(cursor, context, createCursors([Buffer.from('another-secret')]))).toBe('invalid-cursor');
  });

  it('with any bit changed', () => {
    const bytes = Buffer.from(cursor, 'base64url');
    for (let bit = 0; bit < bytes.length * 8; bit += 1) {
      const changed = Buffer.from(bytes);
      changed.writeUInt8(changed.readUInt8(bit >> 3) ^ (1 << (bit & 7)), bit >> 3);
      expect(codeOf(changed.toString('base64url')), `bit ${bit}`).toBe('invalid-cursor');
    }
  });

  it('cut at any character', () => {
    for (let length = 0; length < cursor.length; length += 1)
      expect(codeOf(cursor.slice(0, length)), String(length)).toBe('invalid-cursor');
  });

  it.each(['=', '==', ' ', '\n', '*', '.', 'A', 'AAAA'])('with %j after it: a position has one spelling', (suffix) => {
    expect(codeOf(cursor + suffix)).toBe('invalid-cursor');
    expect(codeOf(suffix + cursor)).toBe('invalid-cursor');
  });

  it('if it was signed without the secret', () => {
    const payload = JSON.stringify(['0', ID]);
    const mac = createHmac('sha256', SECRET).update(payload).digest();
    for (const length of [0, 16, 32])
      expect(codeOf(Buffer.concat([mac.subarray(0, length), Buffer.from(payload)]).toString('base64url'))).toBe(
        'invalid-cursor',
      );
  });

  it('if it is garbage of any length', () => {
    for (const text of ['', '-', 'null', '%00', '🧭', '{"a":1}', '../../etc/passwd', 'x'.repeat(1_000)])
      expect(codeOf(text), text).toBe('invalid-cursor');
    for (let length = 0; length < 100; length += 1)
      expect(codeOf(randomBytes(length).toString('base64url'))).toBe('invalid-cursor');
  });
});
