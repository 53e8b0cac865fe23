// src/auth/keyring.ts: which keys are accepted, which one signs, and what of them is published.
import { createPublicKey, generateKeyPairSync, verify, type KeyObject } from 'node:crypto';
import { inspect } from 'node:util';
import { describe, expect, it } from 'vitest';
import { keyOfSecret, makeTokenKey, parseTokenKeys, publicKeySet, signingKey } from '../../src/auth/keyring.js';
import { oneKeyOfEachKind, signerOf } from '../support/forged.js';

const SECRET = 'a-secret-with-many-different-characters';
const base64 = (bytes: Buffer | string): string => Buffer.from(bytes).toString('base64');
const privateDer = (key: KeyObject): string => base64(key.export({ type: 'pkcs8', format: 'der' }));
const publicDer = (key: KeyObject): string => base64(key.export({ type: 'spki', format: 'der' }));

const ed = generateKeyPairSync('ed25519');
const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' });

describe('a key of JWT_KEYS', () => {
  it('has the kind of its bytes: Ed25519 or P-256, private or public', () => {
    const text = `a:${privateDer(ed.privateKey)},b:${publicDer(ed.publicKey)},c:${privateDer(ec.privateKey)},d:${publicDer(ec.publicKey)}`;
    expect(parseTokenKeys(text).map(({ kid, alg, signs, verifies }) => [kid, alg, signs?.type, verifies.type])).toEqual(
      [
        ['a', 'EdDSA', 'private', 'public'],
        ['b', 'EdDSA', undefined, 'public'],
        ['c', 'ES256', 'private', 'public'],
        ['d', 'ES256', undefined, 'public'],
      ],
    );
  });

  it('on a curve may be in the form of SEC 1, as `openssl genpkey` writes it', () => {
    const text = `e:${base64(ec.privateKey.export({ type: 'sec1', format: 'der' }))}`;
    expect(parseTokenKeys(text)).toMatchObject([{ kid: 'e', alg: 'ES256', signs: { type: 'private' } }]);
  });

  it('may be a secret, if its entry says so', () => {
    const [key] = parseTokenKeys(`s:HS256:${base64(SECRET)}`);
    expect(key).toMatchObject({ kid: 's', alg: 'HS256' });
    expect(key?.signs?.export().toString()).toBe(SECRET);
    expect(key?.verifies).toBe(key?.signs);
  });

  it.each<[string, string]>([
    ['RSA', privateDer(generateKeyPairSync('rsa', { modulusLength: 2048 }).privateKey)],
    ['RSA, public', publicDer(generateKeyPairSync('rsa', { modulusLength: 2048 }).publicKey)],
    ['P-384', privateDer(generateKeyPairSync('ec', { namedCurve: 'P-384' }).privateKey)],
    ['secp256k1', privateDer(generateKeyPairSync('ec', { namedCurve: 'secp256k1' }).privateKey)],
    ['Ed448', privateDer(generateKeyPairSync('ed448').privateKey)],
    ['X25519', privateDer(generateKeyPairSync('x25519').privateKey)],
    ['PEM', base64(ed.privateKey.export({ type: 'pkcs8', format: 'pem' }))],
    ['bare bytes', base64(Buffer.alloc(32, 7))],
    ['base64url', Buffer.from([251, 239, ...Buffer.alloc(30)]).toString('base64url')],
    ['a secret of 31 bytes', `HS256:${base64(Buffer.alloc(31, 7))}`],
    ['a secret by another hash', `HS512:${base64(Buffer.alloc(64, 7))}`],
    ['a public key as a secret', `HS256:${publicDer(ed.publicKey)}`],
    ['a public key in PEM as a secret', `HS256:${base64(ec.publicKey.export({ type: 'spki', format: 'pem' }))}`],
    ['a private key as a secret', `HS256:${privateDer(ec.privateKey)}`],
    ['a key said to be another', `ES256:${privateDer(ed.privateKey)}`],
    ['nothing', ''],
  ])('is refused if it is %s', (_, text) => {
    expect(() => parseTokenKeys(`k1:${text}`)).toThrow(/^JWT_KEYS must be kid:base64 pairs/);
  });

  it.each(['', ' ', 'a.b', 'a b', 'ä', 'k'.repeat(33), '"'])('is refused under the id %j', (kid) => {
    expect(() => parseTokenKeys(`${kid}:${privateDer(ed.privateKey)}`)).toThrow('JWT_KEYS must be');
  });

  it('appears in no log', () => {
    const keys = [...parseTokenKeys(oneKeyOfEachKind()), keyOfSecret(SECRET)];
    const [first] = keys;
    const { d = '' } = first?.signs?.export({ format: 'jwk' }) ?? {};
    expect(d).toHaveLength(43);
    for (const text of [inspect(keys, { depth: 10, showHidden: true }), JSON.stringify(keys)])
      for (const secret of [SECRET, base64(SECRET), d, base64(Buffer.from(d, 'base64url'))])
        expect(text).not.toContain(secret);
  });
});

describe('the key that signs', () => {
  const [a, b] = [makeTokenKey('a'), makeTokenKey('b')];

  it('is the first private one', () => {
    expect(signingKey(parseTokenKeys(`${a},${b}`))?.kid).toBe('a');
    expect(signingKey(parseTokenKeys(`next:${publicDer(ed.publicKey)},${b},${a}`))?.kid).toBe('b');
  });

  it('does not exist if all are public', () => {
    expect(signingKey(parseTokenKeys(`next:${publicDer(ed.publicKey)}`))).toBeUndefined();
  });
});

describe('JWT_SECRET', () => {
  it('has the same id in every process, another id for another secret, and an id that does not reveal it', () => {
    const { kid, alg } = keyOfSecret(SECRET);
    expect(alg).toBe('HS256');
    expect(kid).toMatch(/^secret-[\w-]{12}$/);
    expect(keyOfSecret(SECRET).kid).toBe(kid);
    expect(keyOfSecret(`${SECRET}x`).kid).not.toBe(kid);
  });
});

describe('the JWK Set', () => {
  const keys = [...parseTokenKeys(`${oneKeyOfEachKind()},seen:${publicDer(ed.publicKey)}`), keyOfSecret(SECRET)];
  const published = publicKeySet(keys).keys;

  it('contains every public key with its id, algorithm and use, and no secret', () => {
    expect(published.map(({ kid, kty, crv, alg, use }) => [kid, kty, crv, alg, use])).toEqual([
      ['ed', 'OKP', 'Ed25519', 'EdDSA', 'sig'],
      ['es', 'EC', 'P-256', 'ES256', 'sig'],
      ['seen', 'OKP', 'Ed25519', 'EdDSA', 'sig'],
    ]);
  });

  it('contains the members of a public key only', () => {
    const members = (kty: string): string[] => ['alg', 'crv', 'kid', 'kty', 'use', 'x', ...(kty === 'EC' ? ['y'] : [])];
    for (const jwk of published) expect(Object.keys(jwk).sort()).toEqual(members(jwk.kty).sort());
  });

  it('is sufficient to verify a signature', () => {
    for (const jwk of published.slice(0, 2)) {
      const [key] = keys.filter(({ kid }) => kid === jwk.kid);
      if (!key) throw new Error(`no key ${jwk.kid}`);
      const read = {
        key: createPublicKey({ key: { ...jwk }, format: 'jwk' }),
        dsaEncoding: 'ieee-p1363',
      } as const;
      const hash = jwk.alg === 'EdDSA' ? null : 'sha256';
      expect(verify(hash, Buffer.from('text'), read, signerOf(key)('text'))).toBe(true);
      expect(verify(hash, Buffer.from('other'), read, signerOf(key)('text'))).toBe(false);
    }
  });
});
