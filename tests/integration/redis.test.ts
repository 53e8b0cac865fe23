// Redis beside a service that does not need it: how the service connects, what it reports, and that no start waits for it.
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from 'vitest';
import { openApp } from '../support/service.js';
import { script, type SharedStore } from '../../src/replicas/shared-store.js';
import { createRegistry, sender, startServiceForTest, testConfig, type TestService } from '../support/app.js';
import { selfSigned } from '../support/certificate.js';
import { noRedis, redisNote, startRedis, type RedisServer } from '../support/redis.js';

const ECHO = script('return {KEYS[1], ARGV[1]}');
/** With a margin for the machine. */
const SOON = { timeout: 30_000, interval: 20 };

describe.skipIf(noRedis !== undefined)(`Redis${redisNote}`, () => {
  const certificate = selfSigned('127.0.0.1');
  let plain: RedisServer;
  let encrypted: RedisServer;
  beforeAll(async () => {
    [plain, encrypted] = await Promise.all([startRedis(), startRedis({ tls: certificate })]);
  });
  afterAll(() => Promise.all([plain.close(), encrypted.close()]));

  interface Started {
    readonly app: TestService['app'];
    readonly store: SharedStore;
    /** The log. */
    readonly log: () => string;
  }

  /** A service whose Redis is what `env` says, on a registry of its own. */
  async function start(env: Readonly<Record<string, string>>): Promise<Started> {
    const config = testConfig(await createRegistry(), { LOG_LEVEL: 'info', ...env });
    let text = '';
    const app = await openApp(config, { logStream: { write: (line: string) => void (text += line) } });
    onTestFinished(() => app.close());
    const { sharedStore } = app.engine;
    if (!sharedStore) throw new Error('there is no store');
    return { app, store: sharedStore, log: () => text };
  }

  async function fileWith(text: string): Promise<string> {
    const folder = await mkdtemp(path.join(tmpdir(), 'tenantry-redis-ca-'));
    onTestFinished(() => rm(folder, { recursive: true }));
    await writeFile(path.join(folder, 'ca.pem'), text);
    return path.join(folder, 'ca.pem');
  }

  it('is optional: without REDIS_URL the service works and has no store', async () => {
    const { app, send, operatorToken: token } = await startServiceForTest();
    expect(app.engine.sharedStore).toBeUndefined();
    expect(app.hasDecorator('redis')).toBe(false);
    expect((await send('GET', '/health/ready')).status).toBe(200);
    expect((await send('GET', '/pools', { token })).body).toMatchObject({ redis: null });
  });

  it('is used with its password from the first request, with keys of this installation', async () => {
    const { app, store, log } = await start({ REDIS_URL: plain.url });
    expect(store.available).toBe(true);
    const [key, value] = await store.run<string[]>(ECHO, ['a'], ['b']);
    expect(key).toMatch(/^tenantry:[\da-f-]{36}:a$/);
    expect(value).toBe('b');
    await store.send('SET', ['k'], ['v', 'PX', 60_000]);
    expect(await store.send('MGET', ['k', 'none'])).toEqual(['v', null]);
    expect(await plain.command('GET', `${key?.slice(0, -1) ?? ''}k`)).toBe('v');
    expect(await app.redis.ping()).toBe('PONG');
    expect(log()).toContain('"msg":"Redis is available"');
  });

  it('keeps two installations apart that share it', async () => {
    const [one, other] = await Promise.all([start({ REDIS_URL: plain.url }), start({ REDIS_URL: plain.url })]);
    await one.store.send('SET', ['shared'], ['of the one']);
    expect(await other.store.send('GET', ['shared'])).toBeNull();
  });

  it('can be used as a user with few rights, in another database', async () => {
    await plain.command('ACL', 'SETUSER', 'app', 'on', '>password-of-the-app', '~tenantry:*', '+@all', '-@dangerous');
    const { store } = await start({ REDIS_URL: `redis://app:password-of-the-app@${plain.host}:${plain.port}/3` });
    await store.send('SET', ['k'], ['v']);
    expect(await plain.command('DBSIZE')).not.toBe(0);
    expect(await store.send('GET', ['k'])).toBe('v');
  });

  it.each([
    [
      'with another password',
      () => `redis://:${randomBytes(8).toString('hex')}@127.0.0.1:${plain.port}`,
      'refused the user or the password of REDIS_URL',
    ],
    ['without a password', () => `redis://127.0.0.1:${plain.port}`, 'wants a password: set one in REDIS_URL'],
    ['by TLS where Redis has none', () => plain.url.replace('redis:', 'rediss:'), ''],
  ])('is reported if it refuses a connection %s, and the service runs', async (_, url, words) => {
    const { app, store, log } = await start({ REDIS_URL: url() });
    await expect.poll(() => store.state.reason, SOON).toContain(words);
    expect(log()).toContain('Redis is not available: this replica continues without it');
    expect(log()).not.toContain(plain.password);
    await expect(store.send('GET', ['k'])).rejects.toThrow('Redis cannot be used: ');
    expect((await sender(app)('GET', '/health/ready')).status).toBe(200);
  });

  it('is used over rediss:// if the CA of REDIS_CA_FILE signed its certificate', async () => {
    const REDIS_CA_FILE = await fileWith(certificate.certificate);
    const { store } = await start({ REDIS_URL: encrypted.url, REDIS_CA_FILE });
    await expect.poll(() => store.available, SOON).toBe(true);
    expect(await store.run(ECHO, ['a'], ['b'])).toHaveLength(2);
  });

  it.each([
    ['another CA', () => fileWith(selfSigned('127.0.0.1').certificate)],
    ['no CA', async () => ''],
  ])(
    'is not used if its certificate is not trusted, with %s: the log says so and names the variable to set',
    async (_, file) => {
      const { store, log } = await start({ REDIS_URL: encrypted.url, REDIS_CA_FILE: await file() });
      await expect.poll(log, SOON).toContain('its certificate is not trusted: set REDIS_CA_FILE');
      expect(store.available).toBe(false);
    },
  );

  it('is not used if its certificate is for another name', async () => {
    const REDIS_CA_FILE = await fileWith(certificate.certificate);
    const { log } = await start({ REDIS_URL: encrypted.url.replace('127.0.0.1', 'localhost'), REDIS_CA_FILE });
    await expect.poll(log, SOON).toContain('its certificate is for another name');
  });

  it('is shown to operators, and does not decide whether the service is ready', async () => {
    const service = await startServiceForTest({ env: { REDIS_URL: 'redis://127.0.0.1:1' } });
    const { send, operatorToken: token } = service;
    expect((await send('GET', '/health/ready')).status).toBe(200);
    const { body } = await send<{ redis: unknown }>('GET', '/pools', { token });
    expect(body.redis).toEqual({
      available: false,
      since: expect.any(Number) as number,
      reason: 'it refused the connection',
    });
  });
});
