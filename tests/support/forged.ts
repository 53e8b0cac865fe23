// Forged tokens: any header and any payload, with a signature by any key.
import { createHmac, generateKeyPairSync, randomBytes, sign as signWith, type KeyObject } from 'node:crypto';
import { makeTokenKey, type TokenKey } from '../../src/auth/keyring.js';

export type Sign = (input: string) => Buffer;

/** JWT_KEYS with a fresh key of each kind: `ed` signs. */
export function oneKeyOfEachKind(): string {
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const ecKey = privateKey.export({ type: 'pkcs8', format: 'der' }).toString('base64');
  return [makeTokenKey('ed'), `es:${ecKey}`, `hs:HS256:${randomBytes(48).toString('base64')}`].join();
}

export function hmac(secret: KeyObject | Buffer | string, hash = 'sha256'): Sign {
  return (input) => createHmac(hash, secret).update(input).digest();
}

/** @param hash null if the algorithm fixes it */
export function signature(key: KeyObject, hash: string | null, dsaEncoding: 'ieee-p1363' | 'der' = 'ieee-p1363'): Sign {
  return (input) => signWith(hash, Buffer.from(input), { key, dsaEncoding });
}

/** Signs as the key does. @throws Error for a public key */
export function signerOf(key: TokenKey): Sign {
  if (key.alg === 'HS256') return hmac(privateHalfOf(key));
  return signature(privateHalfOf(key), key.alg === 'EdDSA' ? null : 'sha256');
}

export function privateHalfOf({ kid, signs }: TokenKey): KeyObject {
  if (!signs) throw new Error(`the key ${kid} signs nothing`);
  return signs;
}

export function encode(value: unknown): string {
  return Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
}

/**
 * @param header an object, or its text
 * @param payload the same
 */
export function forge(header: unknown, payload: unknown, sign: Sign): string {
  const input = `${encode(header)}.${encode(payload)}`;
  return `${input}.${sign(input).toString('base64url')}`;
}

/** The forms of a public key that could be mistaken for a secret. */
export function spellingsOf(key: KeyObject): Readonly<Record<string, Buffer | string>> {
  const der = key.export({ type: 'spki', format: 'der' });
  const pem = key.export({ type: 'spki', format: 'pem' }).toString();
  const jwk = key.export({ format: 'jwk' });
  return {
    'in PEM': pem,
    'in PEM, without its last line break': pem.trimEnd(),
    'in DER': der,
    'in base64': der.toString('base64'),
    'as a JWK': JSON.stringify(jwk),
    'as a JWK Set': JSON.stringify({ keys: [jwk] }),
    'as its coordinate': Buffer.from(jwk.x ?? '', 'base64url'),
    'as its coordinate, in base64url': jwk.x ?? '',
  };
}
