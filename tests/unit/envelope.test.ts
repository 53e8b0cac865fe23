// src/secrets/envelope.ts: how database passwords are stored in the registry.
import { randomBytes } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { createEnvelope, type EnvelopeContext } from '../../src/secrets/envelope.js';

const SECRET = 'canary-Database-Password';
const context: EnvelopeContext = {
  id: '01890a5d-ac96-774b-bcce-b302099a8057',
  host: 'db.internal',
  port: 5432,
  user: 'tn_1',
};
const key = { kid: 'k1', key: Buffer.alloc(32, 1) };
const newer = { kid: 'k2', key: Buffer.alloc(32, 2) };
const envelope = createEnvelope([key]);

/** The parts of a sealed password, and the same with some of them replaced. */
function withParts(
  sealed: string,
  change: Partial<Record<'version' | 'kid' | 'iv' | 'ciphertext' | 'tag', string>>,
): string {
  const [version = '', kid = '', iv = '', ciphertext = '', tag = ''] = sealed.split('.');
  return Object.values({ version, kid, iv, ciphertext, tag, ...change }).join('.');
}

/** The part with one bit changed, encoded again. */
function flipped(part: string, byte: number): string {
  const bytes = Buffer.from(part, 'base64url');
  bytes.writeUInt8(bytes.readUInt8(byte) ^ 1, byte);
  return bytes.toString('base64url');
}

/** The error of an attempt to open; fails if it opens. */
function refusalOf(sealed: string, as: EnvelopeContext = context, by = envelope): string {
  try {
    by.open(sealed, as);
  } catch (error) {
    if (error instanceof Error) return error.message;
  }
  throw new Error(`this opened: ${sealed}`);
}

describe('a sealed password', () => {
  it.each(['', 'x', SECRET, 'pässwörd 🗝', 'a.b.c', randomBytes(4_096).toString('hex')])(
    'opens to the password: %#',
    (secret) => {
      expect(envelope.open(envelope.seal(secret, context), context)).toBe(secret);
    },
  );

  it('is v1.kid.iv.ciphertext.tag, with an iv of 12 bytes and a tag of 16', () => {
    const sealed = envelope.seal(SECRET, context);
    expect(sealed).toMatch(/^v1\.k1(?:\.[\w-]+){3}$/);
    const [, , iv = '', ciphertext = '', tag = ''] = sealed.split('.');
    expect([iv, ciphertext, tag].map((part) => Buffer.from(part, 'base64url').length)).toEqual([12, SECRET.length, 16]);
  });

  it('is a different text each time, so that equal passwords cannot be seen', () => {
    const sealed = Array.from({ length: 100 }, () => envelope.seal(SECRET, context));
    expect(new Set(sealed.map((text) => text.split('.')[2])).size).toBe(100);
    expect(new Set(sealed.map((text) => text.split('.')[3])).size).toBe(100);
  });

  it('does not contain the password', () => {
    const sealed = envelope.seal(SECRET, context);
    expect(sealed).not.toContain(SECRET);
    expect(sealed).not.toContain(Buffer.from(SECRET).toString('base64url'));
  });
});

describe('a sealed password does not open', () => {
  const sealed = envelope.seal(SECRET, context);
  const [, , iv = '', ciphertext = '', tag = ''] = sealed.split('.');

  it.each<[string, Partial<EnvelopeContext>]>([
    ['tenant', { id: '01890a5d-ac96-774b-bcce-b302099a8058' }],
    ['host', { host: 'evil.example' }],
    ['port', { port: 5433 }],
    ['user', { user: 'tn_2' }],
  ])('for another %s', (_, change) => {
    expect(refusalOf(sealed, { ...context, ...change })).not.toBe('');
  });

  it('for another column', () => {
    expect(refusalOf(sealed, context, createEnvelope([key], 'clusters.provisioner_password'))).not.toBe('');
  });

  it('for another context whose parts have the same text together', () => {
    const one = envelope.seal(SECRET, { ...context, id: 'a', host: 'bc' });
    expect(refusalOf(one, { ...context, id: 'ab', host: 'c' })).not.toBe('');
  });

  it('in another version of the envelope', () => {
    expect(refusalOf(withParts(sealed, { version: 'v2' }))).toContain('not in a known envelope');
    expect(refusalOf(withParts(sealed, { version: '' }))).toContain('not in a known envelope');
  });

  it('with the id of another key', () => {
    const both = createEnvelope([key, newer, { kid: 'alias', key: key.key }]);
    expect(both.open(sealed, context)).toBe(SECRET);
    expect(refusalOf(withParts(sealed, { kid: 'k2' }), context, both)).not.toBe('');
    // Not even if the other id stands for the very same key.
    expect(refusalOf(withParts(sealed, { kid: 'alias' }), context, both)).not.toBe('');
  });

  it('with any byte of ciphertext, iv or tag changed', () => {
    for (let byte = 0; byte < SECRET.length; byte += 1)
      refusalOf(withParts(sealed, { ciphertext: flipped(ciphertext, byte) }));
    for (let byte = 0; byte < 12; byte += 1) refusalOf(withParts(sealed, { iv: flipped(iv, byte) }));
    for (let byte = 0; byte < 16; byte += 1) refusalOf(withParts(sealed, { tag: flipped(tag, byte) }));
  });

  it('with a tag of another length, which Node would accept down to four bytes', () => {
    for (let length = 0; length < 16; length += 1) {
      const cut = Buffer.from(tag, 'base64url').subarray(0, length).toString('base64url');
      expect(refusalOf(withParts(sealed, { tag: cut })), String(length)).toContain('tag of the wrong length');
    }
  });

  it('with a ciphertext that is cut or belongs to another password', () => {
    const other = envelope.seal('another', context).split('.')[3] ?? '';
    refusalOf(withParts(sealed, { ciphertext: '' }));
    refusalOf(withParts(sealed, { ciphertext: ciphertext.slice(0, -4) }));
    refusalOf(withParts(sealed, { ciphertext: other }));
  });

  it.each(['', 'plain text', 'v1', 'v1.k1', 'v1.k1.a.b', `${sealed}.x`, sealed.replaceAll('.', ':')])(
    'if it is not an envelope: %j',
    (text) => {
      expect(refusalOf(text)).toContain('not in a known envelope');
    },
  );
});

describe('a keyring', () => {
  it('seals with its first key and opens with all, so that keys can be changed', () => {
    const before = createEnvelope([key]);
    const after = createEnvelope([newer, key]);
    const old = before.seal(SECRET, context);
    expect(after.open(old, context)).toBe(SECRET);
    const fresh = after.seal(SECRET, context);
    expect(fresh.startsWith('v1.k2.')).toBe(true);
    expect(after.open(fresh, context)).toBe(SECRET);
    expect(refusalOf(fresh, context, before)).toContain('"k2", which ENCRYPTION_KEYS does not hold');
  });

  it('opens nothing that another key of the same id sealed', () => {
    const impostor = createEnvelope([{ kid: 'k1', key: newer.key }]);
    expect(refusalOf(envelope.seal(SECRET, context), context, impostor)).not.toBe('');
  });

  it('must contain a key', () => {
    expect(() => createEnvelope([])).toThrow('needs a key');
  });
});

describe('an error of the envelope', () => {
  it('reveals no password, key or context', () => {
    const sealed = envelope.seal(SECRET, context);
    const [, , iv = '', ciphertext = '', tag = ''] = sealed.split('.');
    const messages = [
      refusalOf(sealed, { ...context, host: 'evil.example' }),
      refusalOf(withParts(sealed, { version: 'v2' })),
      refusalOf(withParts(sealed, { kid: 'k9' })),
      refusalOf(withParts(sealed, { tag: 'AAAA' })),
      refusalOf(withParts(sealed, { ciphertext: flipped(ciphertext, 0) })),
    ];
    const secrets = [SECRET, iv, ciphertext, tag, key.key.toString('base64'), context.id, context.host, 'evil.example'];
    for (const message of messages) for (const secret of secrets) expect(message).not.toContain(secret);
  });
});
