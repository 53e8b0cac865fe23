// Access tokens: what is in them, and what a token must be to count. Signing and checking the signature are done by
// @fastify/jwt, which is handed in, key by key.
import { LRUCache } from 'lru-cache';
import { v4, validate } from 'uuid';
import { AppError } from '../errors.js';
import type { TokenKey } from './keyring.js';

/** Who makes a request. */
export type Principal =
  | { readonly kind: 'user'; readonly tenantId: string; readonly userId: string; readonly sessionId: string }
  | { readonly kind: 'operator'; readonly operatorId: string; readonly sessionId: string };

/** The claims of an access token (RFC 7519). `typ` tells a user's token from an operator's. */
export interface AccessClaims {
  readonly typ: Principal['kind'];
  readonly sub: string;
  readonly tenantId?: string;
  /** The session that the token belongs to. */
  readonly sid: string;
  readonly jti: string;
}

/** A key in the hands of @fastify/jwt, which does nothing with it but its one algorithm. */
export interface JwtKey extends Pick<TokenKey, 'kid' | 'alg'> {
  sign(claims: AccessClaims): string;
  /** Checks algorithm, signature, iss, aud and the times. */
  verify(token: string): unknown;
}

export interface Tokens {
  sign(principal: Principal): string;
  /** @throws AppError `unauthenticated`, whatever is wrong with the token */
  verify(token: string): Principal;
}

/** Clock skew that is tolerated between replicas, in seconds. */
export const CLOCK_TOLERANCE = 5;

/** Tokens whose verification is remembered: some 1 kB each. */
const REMEMBERED_TOKENS = 10_000;

/** Longer than any token that is signed here; a longer one is refused before any work is done on it. */
const MAX_TOKEN_LENGTH = 2_048;

/** Characters of a token's end, which are its signature's, that it is looked up by: hashing all of it costs four times as much. */
const LOOKED_UP_BY = 43;

interface Verified {
  readonly token: string;
  readonly principal: Principal;
  /** Seconds since 1970. */
  readonly expiresAt: number;
}

/**
 * @param signer signs what is signed from now on
 * @param keys all that verify; they are what they are for the life of the process
 */
export function createTokens(signer: JwtKey, keys: readonly JwtKey[]): Tokens {
  const keyByHeader = new Map(keys.map((key) => [headerOf(key), key]));

  // Verifying a signature costs more than the rest of the request path. A token is remembered only after the full check, and
  // recognized by its exact text; its principal is frozen, and its expiry is looked at every time. No key is ever removed from a
  // process that runs, so none lives on in here.
  const verified = new LRUCache<string, Verified>({ max: REMEMBERED_TOKENS });

  return {
    sign: (principal) =>
      signer.sign({
        typ: principal.kind,
        sub: principal.kind === 'user' ? principal.userId : principal.operatorId,
        ...(principal.kind === 'user' && { tenantId: principal.tenantId }),
        sid: principal.sessionId,
        jti: v4(),
      }),

    verify(token) {
      const now = Date.now() / 1000;
      // Not counted as a use, which costs more than the look-up: one that is forgotten in its turn is verified once more.
      const end = token.slice(-LOOKED_UP_BY);
      let known = verified.peek(end);
      if (known?.token !== token) {
        known = { token, ...check(keyByHeader, token, now) };
        verified.set(end, known);
      }
      if (known.expiresAt + CLOCK_TOLERANCE <= now) throw invalidToken();
      return known.principal;
    },
  };
}

/**
 * The one header (RFC 7515) that a token of a key may have: what is signed here, to the letter. It is looked up and never
 * read, so a key is used with its own algorithm only, and no `jku`, `jwk`, `x5u` or `crit` is seen, let alone followed.
 */
function headerOf({ kid, alg }: JwtKey): string {
  return Buffer.from(JSON.stringify({ alg, typ: 'JWT', kid })).toString('base64url');
}

function check(keyByHeader: ReadonlyMap<string, JwtKey>, token: string, now: number): Omit<Verified, 'token'> {
  const key = token.length > MAX_TOKEN_LENGTH ? undefined : keyByHeader.get(token.slice(0, token.indexOf('.')));
  if (!key) throw invalidToken();
  let claims: unknown;
  try {
    claims = key.verify(token);
  } catch {
    throw invalidToken();
  }
  if (typeof claims !== 'object' || claims === null) throw invalidToken();
  const { typ, sub, aud, tenantId, sid, iat, exp } = claims as Record<string, unknown>;
  // fast-jwt accepts a list of audiences, an iat in the future, and any finite number as a time.
  if (typeof aud !== 'string') throw invalidToken();
  if (!Number.isSafeInteger(iat) || !Number.isSafeInteger(exp) || (iat as number) > now + CLOCK_TOLERANCE)
    throw invalidToken();
  if (!isId(sub) || !isId(sid)) throw invalidToken();
  const expiresAt = exp as number;
  if (typ === 'user' && isId(tenantId)) {
    return { principal: Object.freeze({ kind: 'user', tenantId, userId: sub, sessionId: sid }), expiresAt };
  }
  if (typ === 'operator' && tenantId === undefined) {
    return { principal: Object.freeze({ kind: 'operator', operatorId: sub, sessionId: sid }), expiresAt };
  }
  throw invalidToken();
}

function isId(value: unknown): value is string {
  return typeof value === 'string' && validate(value);
}

function invalidToken(): AppError {
  return new AppError('unauthenticated', {
    detail: 'The access token is not valid or has expired. Refresh it, or sign in again.',
  });
}
