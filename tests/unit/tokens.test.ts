// src/auth/tokens.ts, with the @fastify/jwt that plugins/authentication.ts sets up: what a token must be to count. Every
// hostile token below differs from a good one in the one thing that its name says.
import fastify, { type FastifyInstance } from 'fastify';
import fp from 'fastify-plugin';
import { createHmac, generateKeyPairSync, sign as signWith } from 'node:crypto';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { authentication } from '../../plugins/authentication.js';
import { CLOCK_TOLERANCE, createTokens, type Principal } from '../../src/auth/tokens.js';
import { AppError } from '../../src/errors.js';

const SECRET = 'canary-secret-of-the-token-tests-0123456789';
const TTL = 900;
const TENANT = '01890a5d-ac96-774b-bcce-b302099a8057';
const USER = '01890a5d-ac96-774b-bcce-b302099a8058';
const SESSION = '01890a5d-ac96-774b-bcce-b302099a8059';
const JTI = '5b0e3c8e-3f0a-4c8e-9d8a-0b9d6a7c1e2f';
const user: Principal = { kind: 'user', tenantId: TENANT, userId: USER, sessionId: SESSION };
const operator: Principal = { kind: 'operator', operatorId: USER, sessionId: SESSION };

async function start(): Promise<FastifyInstance> {
  const app = fastify();
  // The plugin wants to stand behind the rate limit; a token does not.
  await app.register(fp(async () => undefined, { name: 'rate-limit' }));
  await app.register(authentication, {
    config: {
      jwtSecret: SECRET,
      issuer: 'tenantry',
      audience: 'tenantry',
      accessTokenTtl: TTL,
      sessions: { idle: 60, absolute: 60 },
      hashConcurrency: 1,
    },
  });
  await app.ready();
  return app;
}

let app: FastifyInstance;
beforeAll(async () => {
  app = await start();
});
afterAll(() => app.close());
afterEach(() => {
  vi.useRealTimers();
});

type Json = Record<string, unknown>;
const encode = (value: unknown): string =>
  Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64url');
const seconds = (): number => Math.floor(Date.now() / 1_000);

const HEADER = { alg: 'HS256', typ: 'JWT' };
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

/** A token with any header (an object, or its text) and payload, signed by HMAC. */
function forge(header: unknown, payload: unknown, { secret = SECRET, hash = 'sha256' } = {}): string {
  const input = `${encode(header)}.${encode(payload)}`;
  return `${input}.${createHmac(hash, secret).update(input).digest('base64url')}`;
}
const withClaims = (changes: Json): string => forge(HEADER, { ...claims(), ...changes });
const withHeader = (changes: Json): string => forge({ ...HEADER, ...changes }, claims());

/** The error that a token is refused with; fails where it is accepted. */
function refusalOf(token: string, by = app.tokens): AppError {
  let principal: Principal;
  try {
    principal = by.verify(token);
  } catch (error) {
    if (error instanceof AppError) return error;
    throw error;
  }
  throw new Error(`accepted as ${JSON.stringify(principal)}`);
}

describe('a token of ours', () => {
  it('names its principal', () => {
    expect(app.tokens.verify(app.tokens.sign(user))).toEqual(user);
    expect(app.tokens.verify(app.tokens.sign(operator))).toEqual(operator);
  });

  it('holds what it needs and nothing else, and lives as long as it was told', () => {
    const [header = '', payload = ''] = app.tokens.sign(user).split('.');
    const parse = (part: string): Json => JSON.parse(Buffer.from(part, 'base64url').toString()) as Json;
    expect(parse(header)).toEqual(HEADER);
    const { jti, iat, exp, ...others } = parse(payload);
    expect(others).toEqual({
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

  it('has an id of its own, also within one second', () => {
    expect(new Set(Array.from({ length: 50 }, () => app.tokens.sign(user))).size).toBe(50);
  });

  it('gives a frozen principal, the same each time: no request can change the next one’s', () => {
    const token = app.tokens.sign(user);
    const principal = app.tokens.verify(token);
    expect(Object.isFrozen(principal)).toBe(true);
    expect(app.tokens.verify(token)).toBe(principal);
    expect(Object.isFrozen(app.tokens.verify(app.tokens.sign(operator)))).toBe(true);
  });

  it('is what the forger of this file makes, so that the refusals below mean something', () => {
    expect(app.tokens.verify(forge(HEADER, claims()))).toEqual(user);
    expect(app.tokens.verify(withClaims({ nbf: seconds() - 60 }))).toEqual(user);
    expect(app.tokens.verify(forge(HEADER, { ...without('tenantId'), typ: 'operator' }))).toEqual(operator);
  });
});

const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
const publicKey = rsa.publicKey.export({ type: 'spki', format: 'pem' }).toString();

function rs256(header: Json): string {
  const input = `${encode(header)}.${encode(claims())}`;
  return `${input}.${signWith('RSA-SHA256', Buffer.from(input), rsa.privateKey).toString('base64url')}`;
}

/** The same token with its signature changed. */
function resigned(change: (signature: string) => string): string {
  const [header = '', payload = '', signature = ''] = forge(HEADER, claims()).split('.');
  return `${header}.${payload}.${change(signature)}`;
}

const hostile: Readonly<Record<string, Readonly<Record<string, () => string>>>> = {
  'its algorithm': {
    'alg none, unsigned': () => `${encode({ alg: 'none', typ: 'JWT' })}.${encode(claims())}.`,
    'alg nOnE, unsigned': () => `${encode({ alg: 'nOnE', typ: 'JWT' })}.${encode(claims())}.`,
    'alg none, signed': () => withHeader({ alg: 'none' }),
    'alg HS384': () => forge({ ...HEADER, alg: 'HS384' }, claims(), { hash: 'sha384' }),
    'alg HS512': () => forge({ ...HEADER, alg: 'HS512' }, claims(), { hash: 'sha512' }),
    'alg HS256 over SHA-512': () => forge(HEADER, claims(), { hash: 'sha512' }),
    'alg hs256': () => withHeader({ alg: 'hs256' }),
    'alg RS256 over an HMAC': () => withHeader({ alg: 'RS256' }),
    'alg RS256, with a key of the attacker': () => rs256({ alg: 'RS256', typ: 'JWT' }),
    'alg HS256, keyed with a public key': () => forge(HEADER, claims(), { secret: publicKey }),
    'alg HS256 over an RSA signature': () => rs256(HEADER),
    'alg missing': () => forge({ typ: 'JWT' }, claims()),
    'alg a list': () => withHeader({ alg: ['HS256'] }),
    'alg null': () => withHeader({ alg: null }),
  },
  'its header': {
    'typ at+jwt': () => withHeader({ typ: 'at+jwt' }),
    'typ in lower case': () => withHeader({ typ: 'jwt' }),
    'typ missing': () => forge({ alg: 'HS256' }, claims()),
    'typ a number': () => withHeader({ typ: 1 }),
    'crit of something unknown': () => withHeader({ crit: ['exp2'], exp2: 1 }),
    'crit empty': () => withHeader({ crit: [] }),
    'crit false': () => withHeader({ crit: false }),
    'crit b64': () => withHeader({ crit: ['b64'], b64: false }),
    jku: () => withHeader({ jku: 'https://evil.example/keys' }),
    jwk: () => withHeader({ jwk: { kty: 'oct', k: encode(SECRET) } }),
    x5u: () => withHeader({ x5u: 'https://evil.example/cert' }),
    x5c: () => withHeader({ x5c: ['MIIB'] }),
    kid: () => withHeader({ kid: 'unknown' }),
    'kid that is a path': () => withHeader({ kid: '../../dev/null' }),
    cty: () => withHeader({ cty: 'JWT' }),
    'alg twice': () => forge('{"alg":"none","alg":"HS256","typ":"JWT"}', claims()),
    'another spelling': () => forge('{ "typ": "JWT", "alg": "HS256" }', claims()),
    'a list': () => forge([HEADER], claims()),
    'no JSON': () => forge('HS256', claims()),
  },
  'its signature': {
    missing: () => resigned(() => ''),
    'by another secret': () => forge(HEADER, claims(), { secret: `${SECRET}x` }),
    'by an empty secret': () => forge(HEADER, claims(), { secret: '' }),
    'with its first character changed': () => resigned((text) => (text.startsWith('A') ? 'B' : 'A') + text.slice(1)),
    'cut short': () => resigned((text) => text.slice(0, -2)),
    padded: () => resigned((text) => `${text}=`),
    'with a blank behind it': () => resigned((text) => `${text} `),
    'with a line break behind it': () => resigned((text) => `${text}\n`),
    'in hexadecimal': () => resigned((text) => Buffer.from(text, 'base64url').toString('hex')),
    'of another payload': () => {
      const [header = '', , signature = ''] = forge(HEADER, claims()).split('.');
      return `${header}.${encode({ ...claims(), tenantId: USER })}.${signature}`;
    },
  },
  'its times': {
    expired: () => withClaims({ exp: seconds() - CLOCK_TOLERANCE - 1 }),
    'exp missing': () => forge(HEADER, without('exp')),
    'exp null': () => withClaims({ exp: null }),
    'exp text': () => withClaims({ exp: String(seconds() + TTL) }),
    'exp 1e300': () => withClaims({ exp: 1e300 }),
    'exp not whole': () => withClaims({ exp: seconds() + TTL + 0.5 }),
    'exp beyond what a number holds exactly': () =>
      forge(HEADER, JSON.stringify(claims()).replace(/"exp":\d+/, '"exp":1e999')),
    'exp a list': () => withClaims({ exp: [seconds() + TTL] }),
    'nbf in the future': () => withClaims({ nbf: seconds() + CLOCK_TOLERANCE + 10 }),
    'nbf 1e300': () => withClaims({ nbf: 1e300 }),
    'nbf text': () => withClaims({ nbf: '0' }),
    'iat in the future': () => withClaims({ iat: seconds() + CLOCK_TOLERANCE + 10 }),
    'iat missing': () => forge(HEADER, without('iat')),
    'iat text': () => withClaims({ iat: '0' }),
    'iat -1e300': () => withClaims({ iat: -1e300 }),
  },
  'its issuer and audience': Object.fromEntries(
    ['iss', 'aud'].flatMap((name) => [
      [`${name} missing`, () => forge(HEADER, without(name))],
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
    'typ missing': () => forge(HEADER, without('typ')),
    'typ a list': () => withClaims({ typ: ['user'] }),
    'a user without a tenant': () => forge(HEADER, without('tenantId')),
    'a user of no tenant': () => withClaims({ tenantId: null }),
    'an operator with a tenant': () => withClaims({ typ: 'operator' }),
    'an operator with a null tenant': () => withClaims({ typ: 'operator', tenantId: null }),
    'sub missing': () => forge(HEADER, without('sub')),
    'sub no UUID': () => withClaims({ sub: "' or 1=1 --" }),
    'sub a list': () => withClaims({ sub: [USER] }),
    'tenantId no UUID': () => withClaims({ tenantId: `{${TENANT}}` }),
    'tenantId a list': () => withClaims({ tenantId: [TENANT] }),
    'sid missing': () => forge(HEADER, without('sid')),
    'sid no id': () => withClaims({ sid: 'x' }),
    'jti missing': () => forge(HEADER, without('jti')),
    'claims in __proto__ only': () => forge(HEADER, `{"__proto__":${JSON.stringify(claims())}}`),
  },
  'its shape': {
    'an empty text': () => '',
    'two dots': () => '..',
    'two parts': () => forge(HEADER, claims()).split('.').slice(0, 2).join('.'),
    'four parts': () => `${forge(HEADER, claims())}.x`,
    'a list as payload': () => forge(HEADER, [claims()]),
    'a text as payload': () => forge(HEADER, '"user"'),
    'null as payload': () => forge(HEADER, 'null'),
    'no JSON as payload': () => forge(HEADER, 'user'),
    'a header and nothing else': () => encode(HEADER),
    'a blank in front': () => ` ${forge(HEADER, claims())}`,
    '10 kB, properly signed': () => withClaims({ padding: 'x'.repeat(10_000) }),
    'a megabyte': () => 'e'.repeat(1_000_000),
  },
};

describe('a token is refused for', () => {
  describe.each(Object.keys(hostile))('%s', (kind) => {
    const tokens = hostile[kind] ?? {};
    it.each(Object.keys(tokens))('%s', (name) => {
      const token = tokens[name]?.() ?? '';
      const refusal = refusalOf(token);
      expect({ code: refusal.code, status: refusal.status, detail: refusal.detail }).toEqual({
        code: 'unauthenticated',
        status: 401,
        detail: 'The access token is not valid or has expired.',
      });
      // And again: a refusal is not remembered as anything else.
      expect(refusalOf(token).code).toBe('unauthenticated');
    });
  });

  it('each of these in the same words, which say nothing of the secret', () => {
    const messages = Object.values(hostile).flatMap((tokens) =>
      Object.values(tokens).map((make) => refusalOf(make()).message),
    );
    expect(new Set(messages)).toEqual(new Set(['The access token is not valid or has expired.']));
  });
});

describe('a clock that is a little off', () => {
  it('is tolerated, by some seconds in either direction', () => {
    const slack = CLOCK_TOLERANCE - 2;
    expect(app.tokens.verify(withClaims({ exp: seconds() - slack }))).toEqual(user);
    expect(app.tokens.verify(withClaims({ nbf: seconds() + slack, jti: 'nbf' }))).toEqual(user);
    expect(app.tokens.verify(withClaims({ iat: seconds() + slack, jti: 'iat' }))).toEqual(user);
  });
});

describe('a token whose check is remembered', () => {
  /** The tokens of the app, with what reaches the library counted. */
  function counted(): { tokens: ReturnType<typeof createTokens>; checks: string[] } {
    const checks: string[] = [];
    const tokens = createTokens({
      sign: (payload) => app.jwt.sign(payload),
      verify: (token) => {
        checks.push(token);
        return app.jwt.verify<object>(token);
      },
    });
    return { tokens, checks };
  }

  it('is not checked again', () => {
    const { tokens, checks } = counted();
    const token = tokens.sign(user);
    for (let use = 0; use < 5; use += 1) expect(tokens.verify(token)).toEqual(user);
    expect(checks).toHaveLength(1);
  });

  it('expires all the same, at the same moment as one that was never seen', () => {
    vi.useFakeTimers({ toFake: ['Date'], now: 1_750_000_000_000 });
    const { tokens } = counted();
    const token = tokens.sign(user);
    expect(tokens.verify(token)).toEqual(user);
    vi.setSystemTime(1_750_000_000_000 + (TTL + CLOCK_TOLERANCE) * 1_000 - 1);
    expect(tokens.verify(token)).toEqual(user);
    expect(counted().tokens.verify(token)).toEqual(user);
    vi.setSystemTime(1_750_000_000_000 + (TTL + CLOCK_TOLERANCE) * 1_000 + 1);
    expect(refusalOf(token, tokens).code).toBe('unauthenticated');
    expect(refusalOf(token, counted().tokens).code).toBe('unauthenticated');
  });

  it('is found by its exact text, not by a part of it', () => {
    const { tokens } = counted();
    const token = tokens.sign(user);
    tokens.verify(token);
    const [header = '', payload = ''] = token.split('.');
    expect(refusalOf(`${header}.${payload}.`, tokens).code).toBe('unauthenticated');
    expect(refusalOf(`${token}=`, tokens).code).toBe('unauthenticated');
  });

  it('is checked again behind 10,000 others: what is remembered has a bound', () => {
    const checks: string[] = [];
    const tokens = createTokens({
      sign: () => '',
      verify: (token) => {
        checks.push(token);
        return claims();
      },
    });
    const nth = (number: number): string => `${encode(HEADER)}.${number}.x`;
    for (let number = 0; number <= 10_000; number += 1) tokens.verify(nth(number));
    tokens.verify(nth(0));
    tokens.verify(nth(10_000));
    expect(checks.filter((token) => token === nth(0))).toHaveLength(2);
    expect(checks.filter((token) => token === nth(10_000))).toHaveLength(1);
  });
});

describe('a token that cannot be ours', () => {
  it('is refused before any work is done on it: too long, or with another header', () => {
    const verify = vi.fn();
    const tokens = createTokens({ sign: () => '', verify });
    refusalOf(withClaims({ padding: 'x'.repeat(10_000) }), tokens);
    for (const make of Object.values(hostile['its header'] ?? {})) refusalOf(make(), tokens);
    expect(verify).not.toHaveBeenCalled();
  });
});
