// Access tokens: their claims, and the rules for a valid token. @fastify/jwt signs and verifies signatures; it is passed in, one
// instance for each key.
import { recentMap } from '../lib/recent-map.js';
import { v4, validate } from 'uuid';
import { AppError } from '../errors.js';
import type { TokenKey } from './keyring.js';

/** The caller of a request. */
export type Principal =
  | { readonly kind: 'user'; readonly tenantId: string; readonly userId: string; readonly sessionId: string }
  | { readonly kind: 'operator'; readonly operatorId: string; readonly sessionId: string };

/** The claims of an access token (RFC 7519). `typ` distinguishes a user's token from an operator's. */
export interface AccessClaims {
  readonly typ: Principal['kind'];
  readonly sub: string;
  readonly tenantId?: string;
  /** The session that the token belongs to. */
  readonly sid: string;
  readonly jti: string;
  /** Seconds since 1970. `exp` is counted from it. */
  readonly iat: number;
  /**
   * When the password was proved (OpenID Connect Core, section 2), in seconds since 1970 by the clock that also gives `iat`.
   * Absent: the token counts as one of an old sign-in.
   */
  readonly auth_time?: number;
}

/** A key as @fastify/jwt uses it, with its one algorithm only. */
export interface JwtKey extends Pick<TokenKey, 'kid' | 'alg'> {
  sign(claims: AccessClaims): string;
  /** Checks algorithm, signature, iss and aud. It checks no time: its clock may be wrong. */
  verify(token: string): unknown;
}

/** What a valid token says. */
export interface VerifiedToken {
  readonly principal: Principal;
  /** When the password was proved, in seconds since 1970; undefined if the token does not say. */
  readonly signedInAt: number | undefined;
}

export interface Tokens {
  /** @param provedAgo time (ms) since the password was proved; without it the token counts as one of an old sign-in */
  sign(principal: Principal, provedAgo?: number): string;
  /** @throws AppError `unauthenticated` for every invalid token; its cause is EXPIRED if that is all that is wrong */
  read(token: string): VerifiedToken;
}

/** The cause of the error for a token that was valid, for those who count. */
export const EXPIRED = 'expired';

/** Clock skew between replicas that is tolerated, in seconds. */
export const CLOCK_TOLERANCE = 5;

/**
 * A clock that differs by more than this (ms) from the registry's is wrong. Two replicas may be wrong in opposite directions, and
 * each accepts tokens of the other only within CLOCK_TOLERANCE.
 */
export const MAX_CLOCK_SKEW = (CLOCK_TOLERANCE * 1_000) / 2;

/** Verified tokens that are cached: about 1 kB each. */
const REMEMBERED_TOKENS = 10_000;

/** Longer than any token that is signed here. Longer tokens are refused before any work. */
const MAX_TOKEN_LENGTH = 2_048;

/**
 * A token is looked up by this many characters at its end, which are part of its signature. Hashing the whole token costs four
 * times as much.
 */
const LOOKED_UP_BY = 43;

interface Verified extends VerifiedToken {
  readonly token: string;
  /** Seconds since 1970. */
  readonly expiresAt: number;
}

/**
 * @param signer signs all new tokens
 * @param keys all keys that verify; they do not change while the process runs
 * @param clock the time (ms since 1970)
 */
export function createTokens(signer: JwtKey, keys: readonly JwtKey[], clock: () => number = () => Date.now()): Tokens {
  const keyByHeader = new Map(keys.map((key) => [headerOf(key), key]));

  // Verifying a signature costs more than the rest of the request path. A token is cached only after the full check, and found by
  // its exact text. Its principal is frozen, and its expiry is checked every time. No key is removed while the process runs, so
  // the cache never outlives a key.
  const verified = recentMap<string, Verified>(REMEMBERED_TOKENS);

  function read(token: string): VerifiedToken {
    const now = clock() / 1_000;
    // Uses peek, because counting a use costs more than the look-up. A token that drops out of the cache is verified again.
    const end = token.slice(-LOOKED_UP_BY);
    const known = verified.peek(end);
    const current = known?.token === token ? known : { token, ...check(keyByHeader, token, now) };
    if (current.expiresAt + CLOCK_TOLERANCE <= now) throw invalidToken(null);
    if (current !== known) verified.set(end, current);
    return current;
  }

  return {
    sign(principal, provedAgo) {
      const now = clock();
      return signer.sign({
        typ: principal.kind,
        sub: principal.kind === 'user' ? principal.userId : principal.operatorId,
        ...(principal.kind === 'user' && { tenantId: principal.tenantId }),
        sid: principal.sessionId,
        jti: v4(),
        iat: Math.floor(now / 1_000),
        // An age, and not the time of the sign-in: the database and this process can have different clocks.
        ...(provedAgo !== undefined && { auth_time: Math.floor((now - Math.max(0, provedAgo)) / 1_000) }),
      });
    },
    read,
  };
}

/**
 * The only header (RFC 7515) that a token of this key may have: exactly the header that is signed here. The header is looked up
 * and never parsed. So a key is used only with its own algorithm, and `jku`, `jwk`, `x5u` and `crit` are never read.
 */
function headerOf({ kid, alg }: JwtKey): string {
  return Buffer.from(JSON.stringify({ alg, typ: 'JWT', kid })).toString('base64url');
}

function check(keyByHeader: ReadonlyMap<string, JwtKey>, token: string, now: number): Omit<Verified, 'token'> {
  const key = token.length > MAX_TOKEN_LENGTH ? undefined : keyByHeader.get(token.slice(0, token.indexOf('.')));
  if (!key) throw invalidToken('header');
  let claims: unknown;
  try {
    claims = key.verify(token);
  } catch (error) {
    throw invalidToken(reasonOf(error));
  }
  if (typeof claims !== 'object' || claims === null) throw invalidToken('claims');
  const { typ, sub, aud, tenantId, sid, iat, exp, nbf, auth_time: signedInAt } = claims as Record<string, unknown>;
  // fast-jwt accepts a list of audiences, an iat in the future, and any finite number as a time.
  if (typeof aud !== 'string') throw invalidToken('claims');
  if (!Number.isSafeInteger(iat) || !Number.isSafeInteger(exp) || (iat as number) > now + CLOCK_TOLERANCE)
    throw invalidToken('claims');
  if (!isId(sub) || !isId(sid)) throw invalidToken('claims');
  if (!isPastTime(signedInAt, now) || !isPastTime(nbf, now)) throw invalidToken('claims');
  const expiresAt = exp as number;
  if (typ === 'user' && isId(tenantId)) {
    return { principal: Object.freeze({ kind: 'user', tenantId, userId: sub, sessionId: sid }), signedInAt, expiresAt };
  }
  if (typ === 'operator' && tenantId === undefined) {
    return { principal: Object.freeze({ kind: 'operator', operatorId: sub, sessionId: sid }), signedInAt, expiresAt };
  }
  throw invalidToken('claims');
}

/** Whether the value is a time (seconds since 1970) that is not in the future, or is absent. */
function isPastTime(value: unknown, now: number): value is number | undefined {
  return value === undefined || (Number.isSafeInteger(value) && (value as number) <= now + CLOCK_TOLERANCE);
}

function isId(value: unknown): value is string {
  return typeof value === 'string' && validate(value);
}

/** Why a token is refused: no key has its header, or the signature or the claims are wrong. */
type RefusedFor = 'header' | 'signature' | 'claims';

function reasonOf(error: unknown): RefusedFor {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  return /CLAIM|INACTIVE/.test(code) ? 'claims' : 'signature';
}

/** @param reason null for an expired token, which is no attack */
function invalidToken(reason: RefusedFor | null): AppError {
  return new AppError('unauthenticated', {
    cause: reason === null ? EXPIRED : undefined,
    detail: 'The access token is not valid or has expired. Refresh it, or sign in again.',
    event: reason && { name: 'access-token-refused', reason },
  });
}
