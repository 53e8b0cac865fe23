// The keys that access tokens are signed and verified with: how they are written, which one signs, and what of them is
// published. docs/guide/keys.md says how they are made and changed.
import {
  createPrivateKey,
  createPublicKey,
  createSecretKey,
  generateKeyPairSync,
  hkdfSync,
  type JsonWebKey,
  type KeyObject,
} from 'node:crypto';

/** Of RFC 7518 and RFC 8037: Ed25519, ECDSA over P-256, and an HMAC that whoever verifies could sign with as well. */
export type TokenAlgorithm = 'EdDSA' | 'ES256' | 'HS256';

/** One key. Both halves are opaque to logs and JSON; a secret is both halves at once. */
export interface TokenKey {
  /** Stands in the header of every token that it signs. */
  readonly kid: string;
  readonly alg: TokenAlgorithm;
  /** Undefined for a public key: it only verifies. */
  readonly signs: KeyObject | undefined;
  readonly verifies: KeyObject;
}

/** A public key as RFC 7517 writes it. */
export interface PublicJwk {
  readonly kty: string;
  readonly crv: string;
  readonly x: string;
  readonly y?: string;
  readonly kid: string;
  readonly alg: TokenAlgorithm;
  readonly use: 'sig';
}

/** `kid:base64` or `kid:HS256:base64`; a comma cannot stand in it. */
const WRITTEN_KEY = /^([\w-]{1,32}):(HS256:)?([A-Za-z0-9+/]+={0,2})$/;

/** Bytes of an HMAC's secret, at least: those of its hash (RFC 7518, section 3.2). */
const MIN_SECRET = 32;

/**
 * Keys in the form of JWT_KEYS, `kid:base64,kid:base64`. What stands behind an id is a key of Ed25519 or P-256 in DER, which
 * says itself what it is: PKCS#8 or SEC 1 (private), or SPKI (public). A bare secret does not say it, and is written
 * `kid:HS256:base64`.
 *
 * @throws Error (or a zod issue, inside a schema) where a key is of no such kind, or an id repeats
 */
export function parseTokenKeys(text: string, ctx?: { addIssue(message: string): void }): readonly TokenKey[] {
  const entries = text.split(',');
  const keys = entries.map((entry) => parseKey(entry.trim())).filter((key) => key !== undefined);
  if (keys.length < entries.length || new Set(keys.map(({ kid }) => kid)).size < keys.length) {
    const message =
      'must be kid:base64 pairs with different ids, of keys of Ed25519 or P-256 in DER (PKCS#8, or SPKI to verify only), or kid:HS256:base64 with at least 32 bytes';
    if (!ctx) throw new Error(`JWT_KEYS ${message}`);
    ctx.addIssue(message);
  }
  return keys;
}

/** JWT_SECRET as a key: every process that has the secret gives it the same id. */
export function keyOfSecret(secret: string): TokenKey {
  const id = Buffer.from(hkdfSync('sha256', secret, '', 'tenantry kid of JWT_SECRET v1', 9));
  return secretKey(`secret-${id.toString('base64url')}`, Buffer.from(secret));
}

/** The key that signs: the first that can. */
export function signingKey(keys: readonly TokenKey[]): TokenKey | undefined {
  return keys.find(({ signs }) => signs !== undefined);
}

/** A fresh Ed25519 key, in the form of JWT_KEYS. */
export function makeTokenKey(kid: string): string {
  const { privateKey } = generateKeyPairSync('ed25519');
  return `${kid}:${privateKey.export({ type: 'pkcs8', format: 'der' }).toString('base64')}`;
}

/** The JWK Set (RFC 7517, RFC 8037) of a keyring: public keys only, so neither a private key nor a secret. */
export function publicKeySet(keys: readonly TokenKey[]): { keys: PublicJwk[] } {
  return {
    keys: keys
      .filter(({ verifies }) => verifies.type === 'public')
      .map(({ kid, alg, verifies }) => {
        const { kty = '', crv = '', x = '', y }: JsonWebKey = verifies.export({ format: 'jwk' });
        return { kty, crv, x, ...(y !== undefined && { y }), kid, alg, use: 'sig' };
      }),
  };
}

function parseKey(entry: string): TokenKey | undefined {
  const [, kid, isSecret, base64 = ''] = WRITTEN_KEY.exec(entry) ?? [];
  if (kid === undefined) return undefined;
  const bytes = Buffer.from(base64, 'base64');
  const pair = readDer(bytes);
  if (isSecret === undefined) {
    const alg = pair && algorithmOf(pair.verifies);
    return alg && { kid, alg, ...pair };
  }
  // A key is no secret: whoever knows the public half could sign.
  return pair || isPem(bytes.toString('latin1')) || bytes.length < MIN_SECRET ? undefined : secretKey(kid, bytes);
}

/** Whether a text is a key in PEM, or has one in it. */
export function isPem(text: string): boolean {
  return text.includes('-----BEGIN ');
}

function secretKey(kid: string, bytes: Buffer): TokenKey {
  const secret = createSecretKey(bytes);
  return { kid, alg: 'HS256', signs: secret, verifies: secret };
}

function readDer(key: Buffer): Pick<TokenKey, 'signs' | 'verifies'> | undefined {
  // OpenSSL writes keys on a curve by SEC 1, when it is asked for DER and not for PKCS#8.
  const signs =
    attempt(() => createPrivateKey({ key, format: 'der', type: 'pkcs8' })) ??
    attempt(() => createPrivateKey({ key, format: 'der', type: 'sec1' }));
  const verifies = signs
    ? createPublicKey(signs)
    : attempt(() => createPublicKey({ key, format: 'der', type: 'spki' }));
  return verifies && { signs, verifies };
}

function attempt(read: () => KeyObject): KeyObject | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}

function algorithmOf({ asymmetricKeyType, asymmetricKeyDetails }: KeyObject): TokenAlgorithm | undefined {
  if (asymmetricKeyType === 'ed25519') return 'EdDSA';
  // The one curve of ES256; the library would take secp256k1 for it, too.
  return asymmetricKeyType === 'ec' && asymmetricKeyDetails?.namedCurve === 'prime256v1' ? 'ES256' : undefined;
}
