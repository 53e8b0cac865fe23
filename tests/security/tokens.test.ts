// Hostile access tokens over a real socket: each gets 401 with the same text, and causes no query to a database and no request to
// another server. tests/unit/tokens.test.ts tries many more on the same rules.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { sql } from 'kysely';
import { afterAll, beforeAll, describe, expect, inject, it, vi } from 'vitest';
import { parseTokenKeys, type TokenKey } from '../../src/auth/keyring.js';
import { asSuperuser, createRegistry, startService, type TestService, type TestTenant } from '../support/app.js';
import { forge, hmac, oneKeyOfEachKind, privateHalfOf, signature, signerOf, spellingsOf } from '../support/forged.js';
import { exchange, expectProblem, listen } from '../support/wire.js';

/** Deadline (ms) for lines in PostgreSQL's log, which come a moment later: long, because a machine can be busy. */
const PATIENCE = 10_000;
const { logFile } = inject('cluster');

const env = { JWT_KEYS: oneKeyOfEachKind() };
const keys = parseTokenKeys(env.JWT_KEYS);
const [ed, es, secret] = keys as [TokenKey, TokenKey, TokenKey];

/** A server from which a token could make a verifier fetch a key. */
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
  const home = await startService({ registry, env });
  tenant = await home.createTenant('acme');
  const record = await home.app.engine.tenantDirectory.find(tenant.id);
  await logStatementsOf(record?.dbName ?? '');
  await home.close();
  // A new process with empty caches: it would need a query for anything that it wants to know.
  service = await startService({ registry, env });
  // The jobs send queries by themselves.
  await service.app.engine.housekeeping.close();
  port = await listen(service);
});
afterAll(async () => {
  await service.close();
  keyServer.close();
});

/** From now on PostgreSQL logs every statement in the database, by any client. */
async function logStatementsOf(database: string): Promise<void> {
  await asSuperuser('postgres', (db) => sql`alter database ${sql.id(database)} set log_statement = 'all'`.execute(db));
}

/** The continuous statements of replicas: they read the feed of changes, renew their leases, show that
 * they live, and look for operations, rollouts and jobs that are due. */
const BY_ITSELF =
  /\blisten\b|pg_current_snapshot|pg_notify|slot_leases|\breplicas\b|\boperations\b|\brollouts\b|\bjobs\b|advisory_xact_lock|set_config|: (?:begin|commit)$/i;

/** The statements that `work` makes the service run, without the continuous statements of replicas. */
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
    .replaceAll('\n\t', ' ')
    .split('\n')
    .filter((line) => /LOG: {2}(?:statement|execute [^:]*):/.test(line))
    .filter((line) => !BY_ITSELF.test(line) && !line.endsWith("select '"));
}

type Json = Record<string, unknown>;
const seconds = (): number => Math.floor(Date.now() / 1_000);

/** The claims of a good token of the tenant's admin. */
function claims(): Json {
  const [, payload = ''] = tenant.adminToken.split('.');
  return JSON.parse(Buffer.from(payload, 'base64url').toString()) as Json;
}
const without = (name: string): Json => Object.fromEntries(Object.entries(claims()).filter(([key]) => key !== name));
const keysAt = (path: string): string => `http://127.0.0.1:${(keyServer.address() as AddressInfo).port}/${path}`;

const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 });
const rs256 = (header: Json): string =>
  forge({ typ: 'JWT', ...header, alg: 'RS256' }, claims(), signature(rsa.privateKey, 'sha256'));
const unsigned = (): Buffer => Buffer.alloc(0);

/** A good token by one of our keys. */
const by = (key: TokenKey): string => forge({ alg: key.alg, typ: 'JWT', kid: key.kid }, claims(), signerOf(key));

/** Hostile tokens that pretend to be signed by this key. */
function hostileTo(key: TokenKey): Readonly<Record<string, Readonly<Record<string, () => string>>>> {
  const HEADER = { alg: key.alg, typ: 'JWT', kid: key.kid };
  const withPayload = (payload: unknown): string => forge(HEADER, payload, signerOf(key));
  const withClaims = (changes: Json): string => withPayload({ ...claims(), ...changes });
  const withHeader = (changes: Json, sign = signerOf(key)): string => forge({ ...HEADER, ...changes }, claims(), sign);
  return {
    'its algorithm': {
      none: () => withHeader({ alg: 'none' }, unsigned),
      nOnE: () => withHeader({ alg: 'nOnE' }, unsigned),
      'none, with a good signature': () => withHeader({ alg: 'none' }),
      HS384: () => withHeader({ alg: 'HS384' }, hmac(privateHalfOf(secret), 'sha384')),
      HS512: () => withHeader({ alg: 'HS512' }, hmac(privateHalfOf(secret), 'sha512')),
      'RS256 over a signature of ours': () => withHeader({ alg: 'RS256' }),
      'RS256 of a stranger': () => rs256({ kid: key.kid }),
      ...Object.fromEntries(
        Object.entries({ Ed25519: ed.verifies, 'P-256': es.verifies, RSA: rsa.publicKey }).flatMap(([kind, known]) =>
          Object.entries(spellingsOf(known)).flatMap(([spelling, text]) => [
            [`HS256 keyed with a public key of ${kind} ${spelling}`, () => withHeader({ alg: 'HS256' }, hmac(text))],
            [`an HMAC keyed with a public key of ${kind} ${spelling}`, () => withHeader({}, hmac(text))],
          ]),
        ),
      ),
      ...Object.fromEntries(
        keys
          .filter((other) => other !== key)
          .flatMap((other) => [
            [`that of ${other.alg} with our key of it, under this kid`, () => withHeader({}, signerOf(other))],
            [`${other.alg} in its head, under this kid`, () => withHeader({ alg: other.alg }, signerOf(other))],
            [`signed as ever, under the kid of ${other.alg}`, () => withHeader({ kid: other.kid })],
          ]),
      ),
    },
    'its times': {
      expired: () => withClaims({ exp: seconds() - 60 }),
      'exp missing': () => withPayload(without('exp')),
      'exp text': () => withClaims({ exp: String(seconds() + 900) }),
      'exp 1e300': () => withClaims({ exp: 1e300 }),
      'nbf in the future': () => withClaims({ nbf: seconds() + 60 }),
      'iat in the future': () => withClaims({ iat: seconds() + 60 }),
    },
    'its issuer and audience': Object.fromEntries(
      ['iss', 'aud'].flatMap((name) => [
        [`${name} missing`, () => withPayload(without(name))],
        [`${name} wrong`, () => withClaims({ [name]: 'another' })],
        [`${name} a number`, () => withClaims({ [name]: 1 })],
        [`${name} a list with the right one`, () => withClaims({ [name]: [claims()[name]] })],
      ]),
    ),
    'keys from elsewhere': {
      jku: () => withHeader({ jku: keysAt('jwks.json') }),
      'jku, signed by its key': () => rs256({ jku: keysAt('jwks.json'), kid: 'a' }),
      x5u: () => withHeader({ x5u: keysAt('cert.pem') }),
      'x5u, signed by its key': () => rs256({ x5u: keysAt('cert.pem'), kid: key.kid }),
      jwk: () => withHeader({ jwk: key.verifies.export({ format: 'jwk' }) }),
      'jwk, signed by it': () => rs256({ jwk: rsa.publicKey.export({ format: 'jwk' }), kid: key.kid }),
      'no kid': () => forge({ alg: key.alg, typ: 'JWT' }, claims(), signerOf(key)),
      'an unknown kid': () => withHeader({ kid: 'unknown' }),
      'a kid that is an address': () => withHeader({ kid: keysAt('key') }),
      'an issuer that is an address': () => withClaims({ iss: keysAt('') }),
      'an unknown crit': () => withHeader({ crit: ['exp2'], exp2: 1 }),
    },
    'what it is for': {
      'a refresh token': () => withClaims({ typ: 'refresh' }),
      'no kind': () => withPayload(without('typ')),
      'an operator of a tenant': () => withClaims({ typ: 'operator' }),
      'a user without a tenant': () => withPayload(without('tenantId')),
    },
  };
}

const tenantRoutes = ['/users', '/products', '/auth/me'];
const operatorRoutes = ['/tenants', '/auth/me'];

describe.each(keys)('a token of $alg gets 401 on every route because of', (key) => {
  const hostile = hostileTo(key);
  describe.each(Object.keys(hostile))('%s', (kind) => {
    const tokens = hostile[kind] ?? {};
    it.each(Object.keys(tokens))('%s', async (name) => {
      for (const path of new Set([...tenantRoutes, ...operatorRoutes])) {
        const authorization = `Bearer ${tokens[name]?.() ?? ''}`;
        const answer = await exchange(port, 'GET', path, { headers: { authorization } });
        expectProblem(answer, 401, 'unauthenticated');
        expect(answer.headers['www-authenticate']).toBe('Bearer');
        expect((JSON.parse(answer.text) as { detail: string }).detail).toBe(
          'The access token is not valid or has expired. Refresh it, or sign in again.',
        );
      }
    });
  });
});

describe('the service', () => {
  const everyToken = (): string[] =>
    keys.flatMap((key) =>
      Object.values(hostileTo(key)).flatMap((tokens) => Object.values(tokens).map((make) => make())),
    );
  async function get(token: string, paths: readonly string[], status: number): Promise<void> {
    for (const path of paths) {
      const answer = await exchange(port, 'GET', path, { headers: { authorization: `Bearer ${token}` } });
      expect([path, answer.status]).toEqual([path, status]);
    }
  }

  it.runIf(logFile)('sends no query to the registry or the tenant’s database for a hostile token', async () => {
    expect(
      await statementsOf(async () => {
        for (const token of everyToken()) await get(token, ['/products', '/tenants'], 401);
      }),
    ).toEqual([]);
  });

  it.runIf(logFile)('sends no query for a token that is valid only for other routes', async () => {
    const { operatorToken } = service;
    expect(
      await statementsOf(async () => {
        await get(tenant.adminToken, ['/tenants'], 403);
        await get(operatorToken, ['/users', '/products'], 403);
      }),
    ).toEqual([]);
  });

  it.runIf(logFile)('queries both databases for a valid token, which shows that the log records queries', async () => {
    const statements = await statementsOf(() => get(tenant.adminToken, ['/products'], 200));
    expect(statements.join('\n')).toMatch(/from "tenants"/);
    expect(statements.join('\n')).toMatch(/from "products"/);
  });

  it('fetches no key from an address that a hostile token names', async () => {
    for (const token of everyToken()) await get(token, ['/products'], 401);
    expect(fetched).toBe(0);
  });
});

// After everything else: from here on the process knows the tenant.
it.each(keys)('a valid token by our key of $alg is accepted, unlike the hostile ones', async (key) => {
  const answer = await exchange(port, 'GET', '/products', { headers: { authorization: `Bearer ${by(key)}` } });
  expect(answer.status).toBe(200);
});
