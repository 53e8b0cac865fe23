// The keys that sign and verify access tokens: their format, the signing key, and the published key set. docs/guide/keys.md
// explains how keys are made and changed.
import {
  createPrivateKey,
  createPublicKey,
  createSecretKey,
  generateKeyPairSync,
  hkdfSync,
  type JsonWebKey,
  type KeyObject,
} from 'node:crypto';

/** From RFC 7518 and RFC 8037: Ed25519, ECDSA over P-256, and an HMAC. With the HMAC every verifier could also sign. */
export type TokenAlgorithm = 'EdDSA' | 'ES256' | 'HS256';

/** One key. Logs and JSON show neither half. A secret is used as both halves. */
export interface TokenKey {
  /** In the header of every token that the key signs. */
  readonly kid: string;
  readonly alg: TokenAlgorithm;
  /** Undefined for a public key, which can only verify. */
  readonly signs: KeyObject | undefined;
  readonly verifies: KeyObject;
}

/** A public key in the format of RFC 7517. */
export interface PublicJwk {
  readonly kty: string;
  readonly crv: string;
  readonly x: string;
  readonly y?: string;
  readonly kid: string;
  readonly alg: TokenAlgorithm;
  readonly use: 'sig';
}

/** `kid:base64` or `kid:HS256:base64`; neither can contain a comma. */
const WRITTEN_KEY = /^([\w-]{1,32}):(HS256:)?([A-Za-z0-9+/]+={0,2})$/;

/** Minimum bytes of an HMAC secret: the length of its hash (RFC 7518, section 3.2). */
const MIN_SECRET = 32;

/**
 * Parses keys in the form of JWT_KEYS, `kid:base64,kid:base64`. After the id comes a key of Ed25519 or P-256 in DER, which
 * contains its own type: PKCS#8 or SEC 1 (private), or SPKI (public). A bare secret has no type, and is written
 * `kid:HS256:base64`.
 *
 * @throws Error (or adds a zod issue, inside a schema) if a key is of another kind, or an id repeats
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

/** JWT_SECRET as a key. Its id is derived from the secret, so all processes with the secret use the same id. */
export function keyOfSecret(secret: string): TokenKey {
  const id = Buffer.from(hkdfSync('sha256', secret, '', 'tenantry kid of JWT_SECRET v1', 9));
  return secretKey(`secret-${id.toString('base64url')}`, Buffer.from(secret));
}

/** The key that signs: the first key that can sign. */
export function signingKey(keys: readonly TokenKey[]): TokenKey | undefined {
  return keys.find(({ signs }) => signs !== undefined);
}

/** A new Ed25519 key, in the form of JWT_KEYS. */
export function makeTokenKey(kid: string): string {
  const { privateKey } = generateKeyPairSync('ed25519');
  return `${kid}:${privateKey.export({ type: 'pkcs8', format: 'der' }).toString('base64')}`;
}

/** The JWK Set (RFC 7517, RFC 8037) of a keyring. It contains only public keys, so no private key and no secret. */
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
  // A DER or PEM key must not be used as a secret: everyone who knows the public half could sign.
  return pair || isPem(bytes.toString('latin1')) || bytes.length < MIN_SECRET ? undefined : secretKey(kid, bytes);
}

/** Whether a text is or contains a key in PEM. */
export function isPem(text: string): boolean {
  return text.includes('-----BEGIN ');
}

function secretKey(kid: string, bytes: Buffer): TokenKey {
  const secret = createSecretKey(bytes);
  return { kid, alg: 'HS256', signs: secret, verifies: secret };
}

function readDer(key: Buffer): Pick<TokenKey, 'signs' | 'verifies'> | undefined {
  // OpenSSL writes elliptic-curve keys in SEC 1 if DER is requested without PKCS#8.
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
  // ES256 allows only this curve; the library would accept secp256k1 too.
  return asymmetricKeyType === 'ec' && asymmetricKeyDetails?.namedCurve === 'prime256v1' ? 'ES256' : undefined;
}
