// Keys of access tokens: the JWK Set, and the change of keys in docs/guide/keys.md, one replica after the other, while users sign
// in on both without being signed out.
import { createPublicKey, verify, type JsonWebKey } from 'node:crypto';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { keyOfSecret, makeTokenKey, parseTokenKeys } from '../../src/auth/keyring.js';
import { createRegistry, OPERATOR, startService, startServiceForTest, tokenSecretsOf } from '../support/app.js';
import type { TestService } from '../support/app.js';
import { oneKeyOfEachKind } from '../support/forged.js';

type Environment = Readonly<Record<string, string>>;

interface KeySet {
  readonly keys: readonly ({ readonly kid: string } & JsonWebKey)[];
}

let registry: string;
let service: TestService;
beforeAll(async () => {
  registry = await createRegistry();
  service = await startService({ registry, env: { JWT_KEYS: oneKeyOfEachKind() } });
});
afterAll(() => service.close());

function kidOf(token: string): string {
  const [header = ''] = token.split('.');
  return (JSON.parse(Buffer.from(header, 'base64url').toString()) as { kid: string }).kid;
}

async function signIn({ send }: TestService): Promise<string> {
  const { status, body } = await send<{ accessToken: string }>('POST', '/auth/operator/login', { body: OPERATOR });
  expect(status).toBe(200);
  return body.accessToken;
}

const statusOf = async ({ send }: TestService, token: string): Promise<number> =>
  (await send('GET', '/auth/me', { token })).status;

describe('GET /.well-known/jwks.json', () => {
  it('needs no token, and can be cached for five minutes', async () => {
    const { status, headers, body } = await service.send<KeySet>('GET', '/.well-known/jwks.json');
    expect(status).toBe(200);
    expect(headers['cache-control']).toBe('public, max-age=300');
    expect(body.keys.map(({ kid }) => kid)).toEqual(['ed', 'es']);
  });

  it('is sufficient to verify a token', async () => {
    const [header = '', payload = '', signature = ''] = service.operatorToken.split('.');
    const { body } = await service.send<KeySet>('GET', '/.well-known/jwks.json');
    const jwk = body.keys.find(({ kid }) => kid === kidOf(service.operatorToken));
    const key = createPublicKey({ key: jwk ?? {}, format: 'jwk' });
    const text = Buffer.from(`${header}.${payload}`);
    expect(verify(null, text, key, Buffer.from(signature, 'base64url'))).toBe(true);
  });

  it('contains no private key and no secret', async () => {
    const { text } = await service.send('GET', '/.well-known/jwks.json');
    const secret = service.config.auth.keys.find(({ alg }) => alg === 'HS256');
    expect(secret?.verifies.export({ format: 'jwk' }).k).toHaveLength(64);
    for (const each of [...Object.values(tokenSecretsOf(service.config)), secret?.verifies.export({ format: 'jwk' }).k])
      expect(text).not.toContain(each);
    // Quoted, because two letters can occur in any key by chance.
    expect(text).not.toContain(`"${secret?.kid}"`);
    expect(text).not.toMatch(/"(?:d|k)":/);
  });

  it('is empty if tokens are signed with a secret, and stays at the root under API_PREFIX', async () => {
    const env = { JWT_SECRET: 'a-secret-with-many-different-characters', API_PREFIX: '/v1' };
    const { send } = await startServiceForTest({ registry, env });
    expect((await send('GET', '/.well-known/jwks.json')).body).toEqual({ keys: [] });
    expect((await send('GET', '/v1/.well-known/jwks.json')).status).toBe(404);
  });
});

const [OLD, NEW] = [makeTokenKey('old'), makeTokenKey('new')];
const SECRET = 'a-secret-with-many-different-characters';

/** The public half of an entry of JWT_KEYS, as one. */
const publicHalf = (text: string): string =>
  parseTokenKeys(text)
    .map(({ kid, verifies }) => `${kid}:${verifies.export({ type: 'spki', format: 'der' }).toString('base64')}`)
    .join();

/** Each step of docs/guide/keys.md, as the environment of every replica. */
const changes: readonly { readonly what: string; readonly oldKid: string; readonly steps: readonly Environment[] }[] = [
  {
    what: 'one key for another',
    oldKid: 'old',
    steps: [
      { JWT_KEYS: OLD },
      { JWT_KEYS: `${OLD},${publicHalf(NEW)}` },
      { JWT_KEYS: `${NEW},${publicHalf(OLD)}` },
      { JWT_KEYS: NEW },
    ],
  },
  {
    what: 'a secret for a key',
    oldKid: keyOfSecret(SECRET).kid,
    steps: [
      { JWT_SECRET: SECRET },
      { JWT_SECRET: SECRET, JWT_KEYS: publicHalf(NEW) },
      { JWT_SECRET: SECRET, JWT_KEYS: NEW },
      { JWT_KEYS: NEW },
    ],
  },
];

/** Two replicas that are replaced one after the other. They are closed with the test. */
async function twoReplicas(env: Environment) {
  const start = (): Promise<TestService> => startService({ registry, env });
  const replicas: [TestService, TestService] = [await start(), await start()];
  onTestFinished(async () => {
    await Promise.all(replicas.map((replica) => replica.close()));
  });
  return {
    replicas,
    /** @param between is checked whenever a replica was replaced */
    replace: async (next: Environment, between: () => Promise<void>): Promise<void> => {
      for (const place of [0, 1] as const) {
        const former = replicas[place];
        replicas[place] = await startService({ registry, env: next });
        await former.close();
        await between();
      }
    },
  };
}

describe('a change of keys', () => {
  it.each(changes)('of $what signs no user out, on any replica at any step', async ({ oldKid, steps }) => {
    const [before = {}, learn = {}, change = {}, forget = {}] = steps;
    const { replicas, replace } = await twoReplicas(before);
    const tokens: string[] = [];
    const everybodyIsIn = async (): Promise<void> => {
      for (const replica of replicas) tokens.push(await signIn(replica));
      for (const replica of replicas)
        for (const token of tokens) expect([kidOf(token), await statusOf(replica, token)]).toEqual([kidOf(token), 200]);
    };

    await everybodyIsIn();
    await replace(learn, everybodyIsIn);
    expect(new Set(tokens.map(kidOf))).toEqual(new Set([oldKid]));
    await replace(change, everybodyIsIn);
    expect(kidOf(tokens.at(-1) ?? '')).toBe('new');

    // Every user has a token of the new key by now, or an expired token.
    const [late = ''] = tokens.filter((token) => kidOf(token) === oldKid);
    tokens.splice(0, tokens.length, ...tokens.filter((token) => kidOf(token) === 'new'));
    await replace(forget, everybodyIsIn);
    for (const replica of replicas) expect(await statusOf(replica, late)).toBe(401);
  });

  it('without its first step signs users out, which shows that the step is needed', async () => {
    const { replicas } = await twoReplicas({ JWT_KEYS: OLD });
    const hasty = await startServiceForTest({ registry, env: { JWT_KEYS: `${NEW},${publicHalf(OLD)}` } });
    const token = await signIn(hasty);
    expect(await statusOf(hasty, token)).toBe(200);
    for (const replica of replicas) expect(await statusOf(replica, token)).toBe(401);
  });

  it('lets a list continue at its next page', async () => {
    const { replicas, replace } = await twoReplicas({ JWT_KEYS: OLD });
    for (const slug of ['first', 'second', 'third']) await replicas[0].createTenant(`${slug}-of-a-list`);
    const page = (from: TestService, token: string, cursor?: string) =>
      from.send<{ nextCursor: string | null }>('GET', `/tenants?limit=1${cursor ? `&cursor=${cursor}` : ''}`, {
        token,
      });
    const { body } = await page(replicas[0], await signIn(replicas[0]));
    await replace({ JWT_KEYS: NEW }, () => Promise.resolve());
    expect((await page(replicas[0], await signIn(replicas[0]), body.nextCursor ?? '')).status).toBe(200);
  });
});
