// REDIS_URL and REDIS_CA_FILE: which values are accepted, and how others are refused.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { describe, expect, it, onTestFinished } from 'vitest';
import { ConfigError, readSettings } from '../../src/config/index.js';
import { parseRedisUrl, type RedisSettings } from '../../src/replicas/redis-settings.js';
import { selfSigned } from '../support/certificate.js';

const PASSWORD = 'a-long-password-of-redis';

function parse(url: string, options: { ca?: string; production?: boolean } = {}): RedisSettings | readonly string[] {
  const problems: string[] = [];
  const settings = parseRedisUrl(url, { timeout: 250, production: false, ...options }, problems);
  return problems.length > 0 || !settings ? problems : settings;
}

/** The problems of an environment; empty if there are none. */
function problemsOf(env: Readonly<Record<string, string>>): readonly string[] {
  try {
    readSettings(env);
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.problems;
  }
}

function fileWith(text: string): string {
  const folder = mkdtempSync(path.join(tmpdir(), 'tenantry-ca-'));
  onTestFinished(() => {
    rmSync(folder, { recursive: true });
  });
  const file = path.join(folder, 'ca.pem');
  writeFileSync(file, text);
  return file;
}

describe('REDIS_URL', () => {
  it('names host, port, user, password and database; the default port is 6379 and the default database 0', () => {
    expect(parse('redis://cache.internal')).toEqual({
      host: 'cache.internal',
      port: 6_379,
      user: undefined,
      password: undefined,
      database: 0,
      tls: false,
      timeout: 250,
    });
    expect(parse('redis://app:pw@cache:7000/3')).toMatchObject({
      port: 7_000,
      user: 'app',
      password: 'pw',
      database: 3,
    });
    expect(parse('redis://:p%40ss%2F@[::1]/')).toMatchObject({ host: '::1', password: 'p@ss/', user: undefined });
  });

  it('uses TLS with rediss://, with the given CA or else Node’s own list', () => {
    expect(parse('rediss://cache')).toMatchObject({ tls: {} });
    expect(parse('rediss://cache', { ca: 'PEM' })).toMatchObject({ tls: { ca: 'PEM' } });
  });

  it.each(['http://cache', 'cache:6379', 'redis://', 'redis://:pw@/0', 'redis://cache/x', 'redis://:p#w@cache'])(
    'is refused if it is not a URL of Redis, and is not repeated: %s',
    (url) => {
      expect(parse(url)).toEqual([
        'REDIS_URL must be a URL such as redis://:password@host:6379/0, or rediss://… for TLS',
      ]);
    },
  );

  it('is refused with options after "?", which would have no effect', () => {
    expect(parse('redis://cache?db=3')).toEqual(['REDIS_URL must have no options after "?"']);
  });

  it('is refused with a user and no password, and with a "%" that is not written as %25', () => {
    expect(parse('redis://app@cache')).toEqual(['REDIS_URL has a user and no password']);
    expect(parse('redis://:100%@cache')).toEqual([
      'REDIS_URL has a "%" in its user or password that must be written as %25',
    ]);
  });

  it('needs a password of at least 16 characters in production', () => {
    expect(parse('redis://cache', { production: true })).toEqual([
      'REDIS_URL must hold a password in production: make one with: openssl rand -hex 32',
    ]);
    expect(parse('redis://:changeme@cache', { production: true })).toEqual([
      'REDIS_URL has a password of less than 16 characters: make one with: openssl rand -hex 32',
    ]);
    expect(parse(`redis://:${PASSWORD}@cache`, { production: true })).toMatchObject({ password: PASSWORD });
  });

  it('can come from a file', () => {
    const REDIS_URL_FILE = fileWith(`redis://:${PASSWORD}@cache\n`);
    expect(readSettings({ REDIS_URL_FILE }).redis).toMatchObject({ host: 'cache', password: PASSWORD });
  });

  it('is optional: without it there is no Redis', () => {
    expect(readSettings({}).redis).toBeUndefined();
  });
});

describe('REDIS_CA_FILE', () => {
  it('is refused without TLS, which would not be encrypted, and without REDIS_URL', () => {
    const REDIS_CA_FILE = fileWith(selfSigned('cache').certificate);
    expect(problemsOf({ REDIS_URL: 'redis://cache', REDIS_CA_FILE })).toEqual([
      'REDIS_CA_FILE is set and REDIS_URL has no TLS: write rediss://',
    ]);
    expect(problemsOf({ REDIS_CA_FILE })).toEqual(['REDIS_CA_FILE is set and REDIS_URL is not: set both, or neither']);
  });

  it('gives its certificates to the connection', () => {
    const { certificate } = selfSigned('cache');
    const settings = readSettings({ REDIS_URL: 'rediss://cache', REDIS_CA_FILE: fileWith(certificate) });
    expect(settings.redis?.tls).toEqual({ ca: certificate });
  });
});

describe('a file of CA certificates', () => {
  it.each([
    ['REDIS_CA_FILE', { REDIS_URL: 'rediss://cache' }],
    ['DATABASE_CA_FILE', { DATABASE_URL: 'postgres://u:p@h/d', DATABASE_TLS: 'verify-full' }],
  ])('is refused if it contains no certificate, which would trust no server: %s', (name, env) => {
    const file = fileWith('no certificate');
    expect(problemsOf({ ...env, [name]: file })).toEqual([`${name} holds no certificate in PEM: ${file}`]);
  });
});
