// src/config/secret-files.ts: every secret of the service can come from a file.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { makeTokenKey } from '../../src/auth/keyring.js';
import { ConfigError, readSettings, secretVariables, variables } from '../../src/config/index.js';

const KEYS = `k1:${Buffer.from(Array.from({ length: 32 }, (_, index) => index * 7)).toString('base64')}`;

const secrets: Readonly<Record<string, string>> = {
  DATABASE_URL: 'postgres://service:pw@db.internal:5432/registry',
  MIGRATION_DATABASE_URL: 'postgres://owner:pw@db.internal:5432/registry',
  TENANT_DATABASE_URL: 'postgres://provisioner:pw@db.internal:5432/postgres',
  REDIS_URL: 'redis://:password-of-redis@cache.internal:6379/1',
  JWT_KEYS: makeTokenKey('t1'),
  JWT_SECRET: 'a-secret-with-many-different-characters',
  REFRESH_TOKEN_KEYS: KEYS,
  ENCRYPTION_KEYS: KEYS,
  OPERATOR_PASSWORD: 'correct horse battery staple',
};
const plain = { NODE_ENV: 'production', DATABASE_TLS: 'off', OPERATOR_EMAIL: 'you@example.com' };

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(path.join(tmpdir(), 'tenantry-secrets-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true });
});

function fileWith(content: string | Buffer): string {
  const file = path.join(folder, String(Math.random()));
  writeFileSync(file, content, { mode: 0o600 });
  return file;
}

function problemsOf(env: Readonly<Record<string, string>>): readonly string[] {
  try {
    readSettings(env);
    return [];
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    return error.problems;
  }
}

describe('secrets from files', () => {
  it('can set every variable with a password, a secret or a key, and no other', () => {
    const carries = Object.keys(variables).filter(
      (name) => /(?:PASSWORD|SECRET|KEYS|_URL)$/.test(name) && !name.startsWith('PASSWORD_BUDGET'),
    );
    expect(secretVariables).toEqual(carries);
    expect(Object.keys(secrets).sort()).toEqual([...secretVariables].sort());
  });

  it('give the same settings as the environment', () => {
    const files: Record<string, string> = {};
    for (const [name, secret] of Object.entries(secrets)) files[`${name}_FILE`] = fileWith(`${secret}\n`);
    const comparable = (env: NodeJS.ProcessEnv): string => JSON.stringify(readSettings(env));
    expect(comparable({ ...plain, ...files })).toBe(comparable({ ...plain, ...secrets }));
  });

  it('keep spaces at their ends, and lose one line break', () => {
    const read = (content: string): string | undefined =>
      readSettings({ ...plain, ...secrets, OPERATOR_PASSWORD: '', OPERATOR_PASSWORD_FILE: fileWith(content) })
        .firstOperator?.password;
    expect(read(' twelve or more ')).toBe(' twelve or more ');
    expect(read('twelve or more\r\n')).toBe('twelve or more');
  });

  it('are refused if the variable is set too, without repeating either', () => {
    const file = fileWith('another secret with many characters');
    expect(problemsOf({ ...plain, ...secrets, JWT_SECRET_FILE: file })).toEqual([
      'JWT_SECRET and JWT_SECRET_FILE are both set: set one of them',
    ]);
  });

  it.each([
    ['is not there', () => path.join(folder, 'nothing'), 'names a file that cannot be read (ENOENT)'],
    ['is a folder', () => folder, 'names a file that cannot be read (EISDIR)'],
    ['is empty', () => fileWith('\n'), 'names a file that is empty'],
    ['holds two lines', () => fileWith('one\ntwo\n'), 'names a file that must hold one line'],
    ['holds a NUL', () => fileWith('one\0two'), 'names a file that must hold one line'],
    ['is too long', () => fileWith('x'.repeat(70_000)), 'names a file of more than 64 KiB'],
  ])('stop the start with a sentence if the file %s', (_, make, problem) => {
    const file = make();
    const env = { ...plain, ...secrets, JWT_SECRET: '', JWT_SECRET_FILE: file };
    expect(problemsOf(env)).toEqual([`JWT_SECRET_FILE ${problem}: ${file}`]);
  });

  it('are checked as the variable is', () => {
    const env = { ...plain, ...secrets, ENCRYPTION_KEYS: '', ENCRYPTION_KEYS_FILE: fileWith('k1:short') };
    expect(problemsOf(env)).toEqual([expect.stringMatching(/^ENCRYPTION_KEYS must be kid:base64 pairs/)]);
  });
});
