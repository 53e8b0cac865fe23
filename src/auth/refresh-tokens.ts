// Refresh tokens: opaque to whoever holds one, 256 random bits that only their holder has. A token says whose session it
// belongs to, so that no table of tokens is needed; what makes it work is that the session holds its hash.
import { createHash, createHmac, hkdfSync, randomBytes, timingSafeEqual } from 'node:crypto';
import { parse, stringify } from 'uuid';

/** Whose session: a user's in its tenant's database, or an operator's in the registry. */
export type SessionOwner = { readonly kind: 'user'; readonly tenantId: string } | { readonly kind: 'operator' };

export interface RefreshToken {
  readonly owner: SessionOwner;
  readonly sessionId: string;
  readonly secret: Buffer;
  /** Whether one of the keys signed it: if it does not work any more, it was used before and is no guess, however old it is. */
  readonly genuine: boolean;
}

export interface RefreshTokens {
  write(owner: SessionOwner, sessionId: string, secret: Buffer): string;
  /** Undefined for what no refresh token looks like. */
  read(text: string): RefreshToken | undefined;
}

/** Characters of a refresh token. */
export const REFRESH_TOKEN_LENGTH = 108;

const KINDS = ['user', 'operator'] as const;
const ID_BYTES = 16;
const SECRET_BYTES = 32;
const MAC_BYTES = 16;
const BODY_BYTES = 1 + ID_BYTES + ID_BYTES + SECRET_BYTES;

/** @param keys the first signs, all are tried: tokens outlive a change of keys */
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
      // Buffer skips what is not base64url: one token could otherwise be spelt in many ways.
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
        // What stands in an id's place is no UUID.
        return undefined;
      }
    },
  };
}

export function newSecret(): Buffer {
  return randomBytes(SECRET_BYTES);
}

/** What is stored of a secret. Of 256 random bits a plain hash tells nothing. */
export function hashOf(secret: Buffer): string {
  return createHash('sha256').update(secret).digest('base64url');
}

/**
 * The secret that follows, the same for everybody who presents the same one: requests in parallel, or one whose answer was
 * lost, get one successor and not one each. Without `step`, which the session holds, the old secret does not lead to it.
 *
 * @param step 256 random bits, base64url
 */
export function successorOf(secret: Buffer, step: string): Buffer {
  return createHmac('sha256', Buffer.from(step, 'base64url')).update(secret).digest();
}
