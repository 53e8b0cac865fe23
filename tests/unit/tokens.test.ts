// src/auth/tokens.ts, with the @fastify/jwt that plugins/caller/authentication.ts sets up: which tokens are valid. Every hostile
// token below differs from a valid one only in the property that its name says, and is tried with a key of each kind.
import fastify, { type FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it, onTestFinished, vi } from 'vitest';
import { authentication } from '../../plugins/caller/authentication.js';
import type { AdmissionSteps } from '../../src/http/admission-steps.js';
import { parseTokenKeys, type TokenAlgorithm, type TokenKey } from '../../src/auth/keyring.js';
import { CLOCK_TOLERANCE, createTokens, type JwtKey, type Principal } from '../../src/auth/tokens.js';
import { AppError } from '../../src/errors.js';
import {
  encode,
  forge,
  hmac,
  oneKeyOfEachKind,
  privateHalfOf,
  signature,
  signerOf,
  spellingsOf,
} from '../support/forged.js';

const TTL = 900;
const TENANT = '01890a5d-ac96-774b-bcce-b302099a8057';
const USER = '01890a5d-ac96-774b-bcce-b302099a8058';
const SESSION = '01890a5d-ac96-774b-bcce-b302099a8059';
const JTI = '5b0e3c8e-3f0a-4c8e-9d8a-0b9d6a7c1e2f';
const user: Principal = { kind: 'user', tenantId: TENANT, userId: USER, sessionId: SESSION };
const operator: Principal = { kind: 'operator', operatorId: USER, sessionId: SESSION };

/** Every app below has all keys, and signs with the first. */
const keys = parseTokenKeys(oneKeyOfEachKind());
const algorithms = keys.map(({ alg }) => alg);

function keyOf(alg: TokenAlgorithm): TokenKey {
  const [key] = keys.filter((each) => each.alg === alg);
  if (!key) throw new Error(`there is no key of ${alg}`);
  return key;
}

/** @param signing of the key that signs */
async function start(signing: TokenAlgorithm): Promise<FastifyInstance> {
  const app = fastify();
  app.decorate('steps', {} as AdmissionSteps);
  // The plugin requires the rate limit's plugin; a token does not.
  await app.register(fp(async () => undefined, { name: 'rate-limit' }));
  await app.register(authentication, {
    config: {
      keys: [keyOf(signing), ...keys.filter(({ alg }) => alg !== signing)],
      issuer: 'tenantry',
      audience: 'tenantry',
      accessTokenTtl: TTL,
      sessions: { idle: 60, absolute: 60 },
      refreshTokenKeys: [],
      hashConcurrency: 1,
      passwordBudgets: { account: 1, tenant: 1 },
    },
  });
  await app.ready();
  return app;
}

afterEach(() => {
  vi.useRealTimers();
});

type Json = Record<string, unknown>;
const seconds = (): number => Math.floor(Date.now() / 1_000);

const claims = (): Json => ({
  typ: 'user',
  sub: USER,
  tenantId: TENANT,
  sid: SESSION,
  jti: JTI,
  iat: seconds(),
  exp: seconds() + TTL,
  iss: 'tenantry',
  aud: 'tenantry',
});
const without = (name: string): Json => Object.fromEntries(Object.entries(claims()).filter(([key]) => key !== name));

/** Makes tokens by a key, valid ones and others. */
function forger(key: TokenKey) {
  const HEADER = { alg: key.alg, typ: 'JWT', kid: key.kid };
  const sign = signerOf(key);
  const withHeaderText = (header: unknown, by = sign): string => forge(header, claims(), by);
  return {
    HEADER,
    withHeaderText,
    good: () => forge(HEADER, claims(), sign),
    withPayload: (payload: unknown) => forge(HEADER, payload, sign),
    withClaims: (changes: Json) => forge(HEADER, { ...claims(), ...changes }, sign),
    withHeader: (changes: Json, by = sign) => withHeaderText({ ...HEADER, ...changes }, by),
    /** The header without one of its members. */
    withoutHeader: (name: string) =>
      withHeaderText(Object.fromEntries(Object.entries(HEADER).filter(([member]) => member !== name))),
    /** The valid token with its signature changed. */
    resigned: (change: (signature: string) => string) => {
      const [header = '', payload = '', text = ''] = forge(HEADER, claims(), sign).split('.');
      return `${header}.${payload}.${change(text)}`;
    },
  };
}

/** The error for a refused token; fails if the token is accepted. */
function refusalOf(token: string, by: FastifyInstance['tokens']): AppError {
  let principal: Principal;
  try {
    principal = by.read(token).principal;
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
  throw new Error(`accepted as ${JSON.stringify(principal)}`);
}

const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });

type Hostile = Readonly<Record<string, Readonly<Record<string, () => string>>>>;

/** Hostile tokens that pretend to be signed by this key. */
function hostileTo(alg: TokenAlgorithm): Hostile {
  const key = keyOf(alg);
  const { HEADER, good, withHeader, withHeaderText, withoutHeader, withClaims, withPayload, resigned } = forger(key);
  const others = keys.filter((other) => other !== key);
  const stranger = {
    EdDSA: signature(generateKeyPairSync('ed25519').privateKey, null),
    ES256: signature(generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey, 'sha256'),
    HS256: hmac('another secret'),
  }[alg];
  const byRsa = signature(rsa.privateKey, 'sha256');
  const unsigned = (): Buffer => Buffer.alloc(0);

  return {
    'its algorithm': {
      'alg none, unsigned': () => withHeader({ alg: 'none' }, unsigned),
      'alg nOnE, unsigned': () => withHeader({ alg: 'nOnE' }, unsigned),
      'alg none, signed': () => withHeader({ alg: 'none' }),
      ...Object.fromEntries(
        ['HS256', 'HS384', 'HS512', 'RS256', 'PS256', 'ES256', 'ES256K', 'ES384', 'EdDSA', 'Ed25519', alg.toLowerCase()]
          .filter((name) => name !== alg)
          .map((name) => [`alg ${name}, with the signature of ${alg}`, () => withHeader({ alg: name })]),
      ),
      'alg RS256, with a key of the attacker': () => withHeader({ alg: 'RS256' }, byRsa),
      'an RSA signature': () => withHeader({}, byRsa),
      'alg missing': () => withoutHeader('alg'),
      'alg a list': () => withHeader({ alg: [alg] }),
      'alg null': () => withHeader({ alg: null }),
    },
    'a key that it is not by': {
      'one of the attacker, of the same kind': () => withHeader({}, stranger),
      ...Object.fromEntries(
        others.flatMap((other) => [
          [`${other.kid}, which is another of ours`, () => withHeader({}, signerOf(other))],
          [`${other.kid}, under its alg and this kid`, () => withHeader({ alg: other.alg }, signerOf(other))],
          [`${other.kid}, under this alg and its kid`, () => withHeader({ kid: other.kid }, signerOf(other))],
          [`this one, under the name of ${other.kid}`, () => withHeader({ alg: other.alg, kid: other.kid })],
        ]),
      ),
      ...Object.fromEntries(
        // Every client knows every public key, including that of RSA.
        [...keys.map(({ verifies }) => verifies), rsa.publicKey]
          .filter(({ type }) => type === 'public')
          .flatMap((known) =>
            Object.entries(spellingsOf(known)).flatMap(([spelling, secret]) => [
              [
                `an HMAC keyed with the ${known.asymmetricKeyType ?? ''} key ${spelling}`,
                () => withHeader({}, hmac(secret)),
              ],
              [
                `alg HS256, keyed with the ${known.asymmetricKeyType ?? ''} key ${spelling}`,
                () => withHeader(alg === 'HS256' ? { kid: 'ed' } : { alg: 'HS256' }, hmac(secret)),
              ],
            ]),
          ),
      ),
    },
    'its header': {
      'typ at+jwt': () => withHeader({ typ: 'at+jwt' }),
      'typ in lower case': () => withHeader({ typ: 'jwt' }),
      'typ missing': () => withoutHeader('typ'),
      'typ a number': () => withHeader({ typ: 1 }),
      'crit of something unknown': () => withHeader({ crit: ['exp2'], exp2: 1 }),
      'crit empty': () => withHeader({ crit: [] }),
      'crit false': () => withHeader({ crit: false }),
      'crit b64': () => withHeader({ crit: ['b64'], b64: false }),
      jku: () => withHeader({ jku: 'https://evil.example/keys' }),
      'jwk of our own': () => withHeader({ jwk: key.verifies.export({ format: 'jwk' }) }),
      'jwk of the attacker, signed by it': () =>
        withHeader({ alg: 'RS256', jwk: rsa.publicKey.export({ format: 'jwk' }) }, byRsa),
      x5u: () => withHeader({ x5u: 'https://evil.example/cert' }),
      x5c: () => withHeader({ x5c: ['MIIB'] }),
      'kid missing': () => withoutHeader('kid'),
      'kid unknown': () => withHeader({ kid: 'unknown' }),
      'kid in upper case': () => withHeader({ kid: key.kid.toUpperCase() }),
      'kid with a blank behind it': () => withHeader({ kid: `${key.kid} ` }),
      'kid with NUL behind it': () => withHeader({ kid: `${key.kid}\0` }),
      'kid empty': () => withHeader({ kid: '' }),
      'kid null': () => withHeader({ kid: null }),
      'kid a list': () => withHeader({ kid: [key.kid] }),
      'kid that is a path': () => withHeader({ kid: '../../dev/null' }),
      'kid that every object has': () => withHeader({ kid: '__proto__' }),
      cty: () => withHeader({ cty: 'JWT' }),
      'alg twice': () => withHeaderText(`{"alg":"none","alg":"${alg}","typ":"JWT","kid":"${key.kid}"}`),
      'kid twice': () => withHeaderText(`{"alg":"${alg}","typ":"JWT","kid":"unknown","kid":"${key.kid}"}`),
      'another order': () => withHeaderText({ kid: key.kid, typ: 'JWT', alg }),
      'another spelling': () => withHeaderText(`{ "alg": "${alg}", "typ": "JWT", "kid": "${key.kid}" }`),
      'a list': () => withHeaderText([HEADER]),
      'no JSON': () => withHeaderText(alg),
    },
    'its signature': {
      missing: () => resigned(() => ''),
      'all zeros': () => withHeader({}, (input) => Buffer.alloc(signerOf(key)(input).length)),
      'by an empty secret': () => withHeader({}, hmac('')),
      ...(alg === 'ES256' && { 'in DER': () => withHeader({}, signature(privateHalfOf(key), 'sha256', 'der')) }),
      ...(alg === 'HS256' && { 'over SHA-512': () => withHeader({}, hmac(privateHalfOf(key), 'sha512')) }),
      'with its first character changed': () => resigned((text) => (text.startsWith('A') ? 'B' : 'A') + text.slice(1)),
      'cut short': () => resigned((text) => text.slice(0, -2)),
      padded: () => resigned((text) => `${text}=`),
      'with a blank behind it': () => resigned((text) => `${text} `),
      'with a line break behind it': () => resigned((text) => `${text}\n`),
      'in hexadecimal': () => resigned((text) => Buffer.from(text, 'base64url').toString('hex')),
      'of another payload': () => {
        const [header = '', , text = ''] = good().split('.');
        return `${header}.${encode({ ...claims(), tenantId: USER })}.${text}`;
      },
    },
    'its times': {
      expired: () => withClaims({ exp: seconds() - CLOCK_TOLERANCE - 1 }),
      'exp missing': () => withPayload(without('exp')),
      'exp null': () => withClaims({ exp: null }),
      'exp text': () => withClaims({ exp: String(seconds() + TTL) }),
      'exp 1e300': () => withClaims({ exp: 1e300 }),
      'exp not whole': () => withClaims({ exp: seconds() + TTL + 0.5 }),
      'exp beyond what a number holds exactly': () =>
        withPayload(JSON.stringify(claims()).replace(/"exp":\d+/, '"exp":1e999')),
      'exp a list': () => withClaims({ exp: [seconds() + TTL] }),
      'nbf in the future': () => withClaims({ nbf: seconds() + CLOCK_TOLERANCE + 10 }),
      'nbf 1e300': () => withClaims({ nbf: 1e300 }),
      'nbf text': () => withClaims({ nbf: '0' }),
      'iat in the future': () => withClaims({ iat: seconds() + CLOCK_TOLERANCE + 10 }),
      'iat missing': () => withPayload(without('iat')),
      'iat text': () => withClaims({ iat: '0' }),
      'iat -1e300': () => withClaims({ iat: -1e300 }),
      'auth_time in the future': () => withClaims({ auth_time: seconds() + CLOCK_TOLERANCE + 10 }),
      'auth_time 1e300': () => withClaims({ auth_time: 1e300 }),
      'auth_time text': () => withClaims({ auth_time: String(seconds()) }),
      'auth_time null': () => withClaims({ auth_time: null }),
      'auth_time a list': () => withClaims({ auth_time: [seconds()] }),
    },
    'its issuer and audience': Object.fromEntries(
      ['iss', 'aud'].flatMap((name) => [
        [`${name} missing`, () => withPayload(without(name))],
        [`${name} another`, () => withClaims({ [name]: 'tenantry.evil.example' })],
        [`${name} in upper case`, () => withClaims({ [name]: 'TENANTRY' })],
        [`${name} empty`, () => withClaims({ [name]: '' })],
        [`${name} null`, () => withClaims({ [name]: null })],
        [`${name} true`, () => withClaims({ [name]: true })],
        [`${name} a number`, () => withClaims({ [name]: 1 })],
        [`${name} an object`, () => withClaims({ [name]: { tenantry: 1 } })],
        [`${name} an empty list`, () => withClaims({ [name]: [] })],
        [`${name} a list with ours`, () => withClaims({ [name]: ['tenantry'] })],
        [`${name} a list with ours and another`, () => withClaims({ [name]: ['other', 'tenantry'] })],
      ]),
    ),
    'whom it names': {
      'a refresh token': () => withClaims({ typ: 'refresh' }),
      'typ missing': () => withPayload(without('typ')),
      'typ a list': () => withClaims({ typ: ['user'] }),
      'a user without a tenant': () => withPayload(without('tenantId')),
      'a user of no tenant': () => withClaims({ tenantId: null }),
      'an operator with a tenant': () => withClaims({ typ: 'operator' }),
      'an operator with a null tenant': () => withClaims({ typ: 'operator', tenantId: null }),
      'sub missing': () => withPayload(without('sub')),
      'sub no UUID': () => withClaims({ sub: "' or 1=1 --" }),
      'sub a list': () => withClaims({ sub: [USER] }),
      'tenantId no UUID': () => withClaims({ tenantId: `{${TENANT}}` }),
      'tenantId a list': () => withClaims({ tenantId: [TENANT] }),
      'sid missing': () => withPayload(without('sid')),
      'sid no id': () => withClaims({ sid: 'x' }),
      'jti missing': () => withPayload(without('jti')),
      'claims in __proto__ only': () => withPayload(`{"__proto__":${JSON.stringify(claims())}}`),
    },
    'its shape': {
      'an empty text': () => '',
      'two dots': () => '..',
      'two parts': () => good().split('.').slice(0, 2).join('.'),
      'four parts': () => `${good()}.x`,
      'a list as payload': () => withPayload([claims()]),
      'a text as payload': () => withPayload('"user"'),
      'null as payload': () => withPayload('null'),
      'no JSON as payload': () => withPayload('user'),
      'a header and nothing else': () => encode(HEADER),
      'a header and one more character': () => `${encode(HEADER)}x`,
      'a blank in front': () => ` ${good()}`,
      '10 kB, properly signed': () => withClaims({ padding: 'x'.repeat(10_000) }),
      'a megabyte': () => 'e'.repeat(1_000_000),
    },
  };
}

describe.each(algorithms)('if %s signs,', (alg) => {
  const key = keyOf(alg);
  const { HEADER, good, withClaims, withPayload } = forger(key);
  const hostile = hostileTo(alg);

  let app: FastifyInstance;
  beforeAll(async () => {
    app = await start(alg);
  });
  afterAll(() => app.close());

  describe('a token of the service', () => {
    it('identifies its principal', () => {
      expect(app.tokens.read(app.tokens.sign(user)).principal).toEqual(user);
      expect(app.tokens.read(app.tokens.sign(operator)).principal).toEqual(operator);
    });

    it('contains the necessary claims only, and lives for the configured time', () => {
      const [header = '', payload = ''] = app.tokens.sign(user).split('.');
      const parse = (part: string): Json => JSON.parse(Buffer.from(part, 'base64url').toString()) as Json;
      expect(parse(header)).toEqual(HEADER);
      const { jti, iat, exp, ...rest } = parse(payload);
      expect(rest).toEqual({
        typ: 'user',
        sub: USER,
        tenantId: TENANT,
        sid: SESSION,
        iss: 'tenantry',
        aud: 'tenantry',
      });
      expect(jti).toMatch(/^[0-9a-f-]{36}$/);
      expect(Number(exp) - Number(iat)).toBe(TTL);
    });

    it('says when the password was proved, by the clock of its other times, and says nothing if that is not known', () => {
      const signedInAt = (provedAgo?: number): number | undefined =>
        app.tokens.read(app.tokens.sign(user, provedAgo)).signedInAt;
      vi.useFakeTimers({ now: 1_800_000_000_900, toFake: ['Date'] });
      expect(signedInAt(0)).toBe(1_800_000_000);
      expect(signedInAt(60_000)).toBe(1_799_999_940);
      // The clock of the database was set back since the sign-in.
      expect(signedInAt(-60_000)).toBe(1_800_000_000);
      expect(signedInAt()).toBeUndefined();
    });

    it('has a unique id, even within one second', () => {
      expect(new Set(Array.from({ length: 50 }, () => app.tokens.sign(user))).size).toBe(50);
    });

    it('has a frozen principal, the same each time: no request can change that of the next', () => {
      const token = app.tokens.sign(user);
      const { principal } = app.tokens.read(token);
      expect(Object.isFrozen(principal)).toBe(true);
      expect(app.tokens.read(token).principal).toBe(principal);
      expect(Object.isFrozen(app.tokens.read(app.tokens.sign(operator)).principal)).toBe(true);
    });

    it('equals that of this file’s forger, which shows that the refusals below are about the hostile parts', () => {
      expect(app.tokens.read(good()).principal).toEqual(user);
      expect(app.tokens.read(withClaims({ nbf: seconds() - 60 })).principal).toEqual(user);
      expect(app.tokens.read(withPayload({ ...without('tenantId'), typ: 'operator' })).principal).toEqual(operator);
    });

    it('is also valid if another key of the keyring signed it', () => {
      for (const other of keys) expect(app.tokens.read(forger(other).good()).principal, other.kid).toEqual(user);
    });
  });

  describe('a token is refused for', () => {
    describe.each(Object.keys(hostile))('%s', (kind) => {
      const tokens = hostile[kind] ?? {};
      it.each(Object.keys(tokens))('%s', (name) => {
        const token = tokens[name]?.() ?? '';
        const refusal = refusalOf(token, app.tokens);
        expect({ code: refusal.code, status: refusal.status, detail: refusal.detail }).toEqual({
          code: 'unauthenticated',
          status: 401,
          detail: 'The access token is not valid or has expired. Refresh it, or sign in again.',
        });
        // And again: a refusal is not cached as anything else.
        expect(refusalOf(token, app.tokens).code).toBe('unauthenticated');
      });
    });

    it('all of these in the same words, which reveal nothing about the key', () => {
      const messages = Object.values(hostile).flatMap((tokens) =>
        Object.values(tokens).map((make) => refusalOf(make(), app.tokens).message),
      );
      expect(new Set(messages)).toEqual(
        new Set(['The access token is not valid or has expired. Refresh it, or sign in again.']),
      );
    });
  });
});

describe('whatever key signs,', () => {
  const alg = 'EdDSA';
  const { HEADER, withClaims } = forger(keyOf(alg));
  let app: FastifyInstance;
  beforeAll(async () => {
    app = await start(alg);
  });
  afterAll(() => app.close());

  /** The key of the app, with another function that verifies. */
  function jwtKey(verify: (token: string) => unknown): JwtKey {
    return { kid: HEADER.kid, alg, sign: () => '', verify };
  }

  describe('a difference of clocks', () => {
    it('is tolerated, by some seconds in either direction', () => {
      const slack = CLOCK_TOLERANCE - 2;
      expect(app.tokens.read(withClaims({ exp: seconds() - slack })).principal).toEqual(user);
      expect(app.tokens.read(withClaims({ nbf: seconds() + slack, jti: 'nbf' })).principal).toEqual(user);
      expect(app.tokens.read(withClaims({ iat: seconds() + slack, jti: 'iat' })).principal).toEqual(user);
    });
  });

  describe('a token whose check is cached', () => {
    /** Tokens with a separate cache, with the checks of signatures counted. */
    function counted(): { tokens: ReturnType<typeof createTokens>; checks: string[] } {
      const checks: string[] = [];
      const library = jwtKey((token) => {
        checks.push(token);
        app.tokens.read(token);
        return JSON.parse(Buffer.from(token.split('.')[1] ?? '', 'base64url').toString());
      });
      return { tokens: createTokens(library, [library]), checks };
    }

    it('is not checked again', () => {
      const { tokens, checks } = counted();
      const token = app.tokens.sign(user);
      for (let use = 0; use < 5; use += 1) expect(tokens.read(token).principal).toEqual(user);
      expect(checks).toHaveLength(1);
    });

    it('expires at the same moment as a token that was never checked', async () => {
      const [before, after] = [await start(alg), await start(alg)];
      onTestFinished(async () => {
        await Promise.all([before.close(), after.close()]);
      });
      vi.useFakeTimers({ toFake: ['Date'], now: 1_750_000_000_000 });
      const token = app.tokens.sign(user);
      expect(app.tokens.read(token).principal).toEqual(user);
      vi.setSystemTime(1_750_000_000_000 + (TTL + CLOCK_TOLERANCE) * 1_000 - 1);
      expect(app.tokens.read(token).principal).toEqual(user);
      expect(before.tokens.read(token).principal).toEqual(user);
      vi.setSystemTime(1_750_000_000_000 + (TTL + CLOCK_TOLERANCE) * 1_000 + 1);
      expect(refusalOf(token, app.tokens).code).toBe('unauthenticated');
      expect(refusalOf(token, after.tokens).code).toBe('unauthenticated');
    });

    it('is found by its exact text only', () => {
      const { tokens } = counted();
      const token = app.tokens.sign(user);
      tokens.read(token);
      const [header = '', payload = '', signature = ''] = token.split('.');
      const [, others = ''] = app.tokens.sign({ ...user, userId: randomUUID() }).split('.');
      expect(refusalOf(`${header}.${payload}.`, tokens).code).toBe('unauthenticated');
      expect(refusalOf(`${header}.${others}.${signature}`, tokens).code).toBe('unauthenticated');
      expect(tokens.read(token).principal).toEqual(user);
      expect(refusalOf(`${token}=`, tokens).code).toBe('unauthenticated');
    });

    it('is checked again after 10,000 others, because the cache is bounded', () => {
      const checks: string[] = [];
      const library = jwtKey((token) => {
        checks.push(token);
        return claims();
      });
      const tokens = createTokens(library, [library]);
      const nth = (number: number): string => `${encode(HEADER)}.${number}.x`;
      for (let number = 0; number <= 10_000; number += 1) tokens.read(nth(number));
      tokens.read(nth(0));
      tokens.read(nth(10_000));
      expect(checks.filter((token) => token === nth(0))).toHaveLength(2);
      expect(checks.filter((token) => token === nth(10_000))).toHaveLength(1);
    });
  });

  describe('a token that cannot be the service’s', () => {
    it('is refused before any cryptography: too long, or with another header', () => {
      const verify = vi.fn();
      const library = jwtKey(verify);
      const tokens = createTokens(library, [library]);
      refusalOf(withClaims({ padding: 'x'.repeat(10_000) }), tokens);
      const { 'its header': headers = {} } = hostileTo(alg);
      expect(Object.keys(headers).length).toBeGreaterThan(20);
      for (const make of Object.values(headers)) refusalOf(make(), tokens);
      expect(verify).not.toHaveBeenCalled();
    });
  });
});
