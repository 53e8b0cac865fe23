// Refresh tokens: 256 random bits that only the client has, in a format that is opaque to the client. A token names the owner of
// its session, so no table of tokens is needed. The session stores the hash of the valid token.
import { createHash, createHmac, hkdfSync, randomBytes, timingSafeEqual } from 'node:crypto';
import { parse, stringify } from 'uuid';

/** The owner of a session: a user (in its tenant's database) or an operator (in the registry). */
export type SessionOwner = { readonly kind: 'user'; readonly tenantId: string } | { readonly kind: 'operator' };

export interface RefreshToken {
  readonly owner: SessionOwner;
  readonly sessionId: string;
  readonly secret: Buffer;
  /**
   * Whether one of the keys signed the token. Such a token is no guess: if it does not work any more, it was used before, however
   * old it is.
   */
  readonly genuine: boolean;
}

export interface RefreshTokens {
  write(owner: SessionOwner, sessionId: string, secret: Buffer): string;
  /** Undefined if the text does not have the form of a refresh token. */
  read(text: string): RefreshToken | undefined;
}

/** Characters of a refresh token. */
export const REFRESH_TOKEN_LENGTH = 108;

const KINDS = ['user', 'operator'] as const;
const ID_BYTES = 16;
const SECRET_BYTES = 32;
const MAC_BYTES = 16;
const BODY_BYTES = 1 + ID_BYTES + ID_BYTES + SECRET_BYTES;

/** @param keys the first key signs, and all keys verify: tokens outlive a change of keys */
export function createRefreshTokens(keys: readonly Buffer[]): RefreshTokens {
  const macKeys = keys.map((key) => Buffer.from(hkdfSync('sha256', key, '', 'tenantry refresh tokens v1', 32)));
  const macOf = (key: Buffer, body: Buffer): Buffer =>
    createHmac('sha256', key).update(body).digest().subarray(0, MAC_BYTES);
  const [current] = macKeys;
  if (!current) throw new Error('refresh tokens need a key');
  return {
    write(owner, sessionId, secret) {
      const tenant = owner.kind === 'user' ? parse(owner.tenantId) : new Uint8Array(ID_BYTES);
      const body = Buffer.concat([Buffer.of(KINDS.indexOf(owner.kind)), tenant, parse(sessionId), secret]);
      return Buffer.concat([body, macOf(current, body)]).toString('base64url');
    },

    read(text) {
      const bytes = Buffer.from(text, 'base64url');
      // Buffer skips characters that are not base64url. Without this check one token could be written in many ways.
      if (bytes.length !== BODY_BYTES + MAC_BYTES || bytes.toString('base64url') !== text) return undefined;
      const kind = KINDS[bytes[0] ?? -1];
      if (!kind) return undefined;
      const body = bytes.subarray(0, BODY_BYTES);
      const mac = bytes.subarray(BODY_BYTES);
      const id = (start: number): string => stringify(body.subarray(start, start + ID_BYTES));
      try {
        return {
          owner: kind === 'user' ? { kind, tenantId: id(1) } : { kind },
          sessionId: id(1 + ID_BYTES),
          secret: Buffer.from(body.subarray(1 + ID_BYTES + ID_BYTES)),
          genuine: macKeys.some((key) => timingSafeEqual(macOf(key, body), mac)),
        };
      } catch {
        // The bytes of an id are not a UUID.
        return undefined;
      }
    },
  };
}

export function newSecret(): Buffer {
  return randomBytes(SECRET_BYTES);
}

/** The stored hash of a secret. A plain hash is enough, because the secret has 256 random bits. */
export function hashOf(secret: Buffer): string {
  return createHash('sha256').update(secret).digest('base64url');
}

/**
 * The secret that follows. It is the same for every request with the same old secret: parallel requests, and a request whose
 * answer was lost, get the same successor. The old secret alone does not reveal the successor: this needs `step`, which the
 * session stores.
 *
 * @param step 256 random bits, base64url
 */
export function successorOf(secret: Buffer, step: string): Buffer {
  return createHmac('sha256', Buffer.from(step, 'base64url')).update(secret).digest();
}
