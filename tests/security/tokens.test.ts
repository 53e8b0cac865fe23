// Hostile access tokens over a real socket: each gets 401 in the same words, and neither a database nor anybody else is
// asked because of it. tests/unit/tokens.test.ts tries many more on the same rules.
import { createHmac, generateKeyPairSync, randomBytes, sign as signWith } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, inject, it, vi } from 'vitest';
import { asSuperuser, createRegistry, startService, type TestService, type TestTenant } from '../support/app.js';
import { exchange, expectProblem, listen } from '../support/wire.js';

/** For what PostgreSQL's log says a moment later, in ms: long, because a machine can be busy. */
const PATIENCE = 10_000;
const { logFile } = inject('cluster');

/** Where a token could make somebody fetch a key from. */
const keyServer = createServer((socket) => {
  fetched += 1;
  socket.destroy();
});
let fetched = 0;

let registry: string;
let service: TestService;
let tenant: TestTenant;
let port: number;
beforeAll(async () => {
  await new Promise<void>((resolve) => {
    keyServer.listen(0, '127.0.0.1', resolve);
  });
  registry = await createRegistry();
  await logStatementsOf(registry);
  const home = await startService({ registry });
  tenant = await home.createTenant('acme');
  const record = await home.app.tenantDirectory.find(tenant.id);
  await logStatementsOf(record?.dbName ?? '');
  await home.close();
  // A process that has heard of nobody yet: whatever it would want to know, it would have to ask.
  service = await startService({ registry });
  port = await listen(service);
});
afterAll(async () => {
  await service.close();
  keyServer.close();
});

/** What is run in the database from now on, by whoever connects to it, stands in PostgreSQL's log. */
async function logStatementsOf(database: string): Promise<void> {
  await asSuperuser('postgres', (db) => sql`alter database ${sql.id(database)} set log_statement = 'all'`.execute(db));
}

/** What replicas do all the time: they tell and hear one another, and renew the leases of their connections. */
const BY_ITSELF = /\blisten\b|pg_notify|slot_leases|advisory_xact_lock|set_config|: (?:begin|commit)$/i;

/** The statements that `work` makes the service run; what replicas tell one another all the time does not count. */
async function statementsOf(work: () => Promise<void>): Promise<string[]> {
  const from = `from-${randomBytes(8).toString('hex')}`;
  const to = `to-${randomBytes(8).toString('hex')}`;
  const mark = (text: string): Promise<unknown> =>
    asSuperuser(registry, (db) => sql`select ${sql.lit(text)}`.execute(db));
  await mark(from);
  await work();
  await mark(to);
  const log = await vi.waitFor(
    async () => {
      const text = await readFile(logFile ?? '', 'utf8');
      expect(text).toContain(to);
      return text;
    },
    { timeout: PATIENCE },
  );
  const [, between = ''] = log.split(from);
  return (between.split(to)[0] ?? '')
    .split('\n')
    .filter((line) => /LOG: {2}(?:statement|execute [^:]*):/.test(line))
    .filter((line) => !BY_ITSELF.test(line) && !line.endsWith("select '"));
}

type Json = Record<string, unknown>;
const encode = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');
const seconds = (): number => Math.floor(Date.now() / 1_000);
const HEADER = { alg: 'HS256', typ: 'JWT' };

function forge(header: unknown, payload: unknown, { secret = service.config.auth.jwtSecret, hash = 'sha256' } = {}) {
  const input = `${encode(header)}.${encode(payload)}`;
  return `${input}.${createHmac(hash, secret).update(input).digest('base64url')}`;
}

/** The claims of a good token of the tenant's admin. */
function claims(): Json {
  const [, payload = ''] = tenant.adminToken.split('.');
  return JSON.parse(Buffer.from(payload, 'base64url').toString()) as Json;
}
const without = (name: string): Json => Object.fromEntries(Object.entries(claims()).filter(([key]) => key !== name));
const withClaims = (changes: Json): string => forge(HEADER, { ...claims(), ...changes });
const withHeader = (changes: Json): string => forge({ ...HEADER, ...changes }, claims());
const keysAt = (path: string): string => `http://127.0.0.1:${(keyServer.address() as AddressInfo).port}/${path}`;

const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
const publicKey = rsa.publicKey.export({ type: 'spki', format: 'pem' }).toString();

function rs256(header: Json): string {
  const input = `${encode({ ...header, alg: 'RS256' })}.${encode(claims())}`;
  return `${input}.${signWith('RSA-SHA256', Buffer.from(input), rsa.privateKey).toString('base64url')}`;
}

const hostile: Readonly<Record<string, Readonly<Record<string, () => string>>>> = {
  'its algorithm': {
    none: () => `${encode({ alg: 'none', typ: 'JWT' })}.${encode(claims())}.`,
    nOnE: () => `${encode({ alg: 'nOnE', typ: 'JWT' })}.${encode(claims())}.`,
    'none, with a good signature': () => withHeader({ alg: 'none' }),
    HS384: () => forge({ ...HEADER, alg: 'HS384' }, claims(), { hash: 'sha384' }),
    HS512: () => forge({ ...HEADER, alg: 'HS512' }, claims(), { hash: 'sha512' }),
    'RS256 over an HMAC': () => withHeader({ alg: 'RS256' }),
    'RS256 of a stranger': () => rs256({}),
    'HS256 keyed with a public key': () => forge(HEADER, claims(), { secret: publicKey }),
  },
  'its times': {
    expired: () => withClaims({ exp: seconds() - 60 }),
    'exp missing': () => forge(HEADER, without('exp')),
    'exp text': () => withClaims({ exp: String(seconds() + 900) }),
    'exp 1e300': () => withClaims({ exp: 1e300 }),
    'nbf in the future': () => withClaims({ nbf: seconds() + 60 }),
    'iat in the future': () => withClaims({ iat: seconds() + 60 }),
  },
  'its issuer and audience': Object.fromEntries(
    ['iss', 'aud'].flatMap((name) => [
      [`${name} missing`, () => forge(HEADER, without(name))],
      [`${name} wrong`, () => withClaims({ [name]: 'another' })],
      [`${name} a number`, () => withClaims({ [name]: 1 })],
      [`${name} a list with the right one`, () => withClaims({ [name]: [claims()[name]] })],
    ]),
  ),
  'keys from elsewhere': {
    jku: () => withHeader({ jku: keysAt('jwks.json') }),
    'jku, signed by its key': () => rs256({ jku: keysAt('jwks.json'), kid: 'a' }),
    x5u: () => rs256({ x5u: keysAt('cert.pem') }),
    jwk: () => rs256({ jwk: rsa.publicKey.export({ format: 'jwk' }) }),
    'an unknown kid': () => withHeader({ kid: 'unknown' }),
    'a kid that is an address': () => withHeader({ kid: keysAt('key') }),
    'an issuer that is an address': () => withClaims({ iss: keysAt('') }),
    'an unknown crit': () => withHeader({ crit: ['exp2'], exp2: 1 }),
  },
  'what it is for': {
    'a refresh token': () => withClaims({ typ: 'refresh' }),
    'no kind': () => forge(HEADER, without('typ')),
    'an operator of a tenant': () => withClaims({ typ: 'operator' }),
    'a user without a tenant': () => forge(HEADER, without('tenantId')),
  },
};

const tenantRoutes = ['/users', '/products', '/auth/me'];
const operatorRoutes = ['/tenants', '/auth/me'];

describe('a token is refused with 401, whatever it is for, because of', () => {
  describe.each(Object.keys(hostile))('%s', (kind) => {
    const tokens = hostile[kind] ?? {};
    it.each(Object.keys(tokens))('%s', async (name) => {
      for (const path of new Set([...tenantRoutes, ...operatorRoutes])) {
        const authorization = `Bearer ${tokens[name]?.() ?? ''}`;
        const answer = await exchange(port, 'GET', path, { headers: { authorization } });
        expectProblem(answer, 401, 'unauthenticated');
        expect(answer.headers['www-authenticate']).toBe('Bearer');
        expect((JSON.parse(answer.text) as { detail: string }).detail).toBe(
          'The access token is not valid or has expired.',
        );
      }
    });
  });
});

describe('behind hostile tokens', () => {
  const everyToken = (): string[] =>
    Object.values(hostile).flatMap((tokens) => Object.values(tokens).map((make) => make()));
  async function get(token: string, paths: readonly string[], status: number): Promise<void> {
    for (const path of paths) {
      const answer = await exchange(port, 'GET', path, { headers: { authorization: `Bearer ${token}` } });
      expect([path, answer.status]).toEqual([path, status]);
    }
  }

  it.runIf(logFile)('no database is asked for anything, neither the registry nor the tenant’s', async () => {
    expect(
      await statementsOf(async () => {
        for (const token of everyToken()) await get(token, ['/products', '/tenants'], 401);
      }),
    ).toEqual([]);
  });

  it.runIf(logFile)('nor for a token that is good for other routes', async () => {
    const { operatorToken } = service;
    expect(
      await statementsOf(async () => {
        await get(tenant.adminToken, ['/tenants'], 403);
        await get(operatorToken, ['/users', '/products'], 403);
      }),
    ).toEqual([]);
  });

  it.runIf(logFile)('while a good token makes both be asked, so that the silence means something', async () => {
    const statements = await statementsOf(() => get(tenant.adminToken, ['/products'], 200));
    expect(statements.join('\n')).toMatch(/from "tenants"/);
    expect(statements.join('\n')).toMatch(/from "products"/);
  });

  it('nobody was asked for a key', async () => {
    for (const token of everyToken()) await get(token, ['/products'], 401);
    expect(fetched).toBe(0);
  });
});
