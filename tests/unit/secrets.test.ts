// src/boot/local-secrets.ts: the secrets that a first start generates, and how they are stored.
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { parseKeyring } from '../../src/config/index.js';
import { parseTokenKeys } from '../../src/auth/keyring.js';
import { localSecrets } from '../../src/boot/local-secrets.js';

let home = '';
let folder = '';
beforeEach(async () => {
  home = await mkdtemp(path.join(tmpdir(), 'tenantry-secrets-'));
  folder = path.join(home, 'deep', 'data');
});
afterEach(() => rm(home, { recursive: true }));

const file = (): string => path.join(folder, 'secrets.json');

describe('the secrets of a first start', () => {
  it('are kept: the next start has the same secrets', async () => {
    expect(await localSecrets(folder)).toEqual(await localSecrets(folder));
  });

  it('are the same for processes that begin at once, also for the one that is slowest', async () => {
    const all = await Promise.all(Array.from({ length: 8 }, () => localSecrets(folder)));
    expect(all).toEqual(all.map(() => all[0]));
    expect(await localSecrets(folder)).toEqual(all[0]);
    expect(await readdir(folder)).toEqual(['secrets.json']);
  });

  it('differ from those in another folder', async () => {
    const [here, there] = [await localSecrets(folder), await localSecrets(path.join(home, 'other'))];
    const values = [...Object.values(here), ...Object.values(there)];
    expect(new Set(values).size).toBe(values.length);
  });

  it('are strong, and in the form that the configuration needs', async () => {
    const { tokenKeys, encryptionKeys, operatorPassword, ...others } = await localSecrets(folder);
    expect(parseTokenKeys(tokenKeys)).toMatchObject([{ kid: 'local', alg: 'EdDSA', signs: { type: 'private' } }]);
    expect(parseKeyring(encryptionKeys)).toMatchObject([{ kid: 'local' }]);
    expect(Buffer.from(operatorPassword, 'base64url')).toHaveLength(15);
    expect(Object.keys(others)).toHaveLength(3);
    for (const secret of Object.values(others)) expect(Buffer.from(secret, 'base64url')).toHaveLength(32);
  });

  it('are stored in a file that only its owner can read, whatever the umask', async () => {
    const before = process.umask(0);
    try {
      await localSecrets(folder);
    } finally {
      process.umask(before);
    }
    expect((await stat(file())).mode & 0o777).toBe(0o600);
    expect((await stat(folder)).mode & 0o022).toBe(0);
  });

  it('leave no draft', async () => {
    await localSecrets(folder);
    expect(await readdir(folder)).toEqual(['secrets.json']);
  });

  it('are generated again if a crash left only a draft', async () => {
    await mkdir(folder, { recursive: true });
    await writeFile(`${file()}.new`, '{"tokenKeys": "cut sho');
    const secrets = await localSecrets(folder);
    expect(await localSecrets(folder)).toEqual(secrets);
    expect(await readdir(folder)).toEqual(['secrets.json']);
  });
});

describe('the secrets of an older build, with a secret for tokens and no key', () => {
  beforeEach(async () => {
    const { tokenKeys: _younger, ...others } = await localSecrets(folder);
    await writeFile(file(), JSON.stringify({ jwtSecret: 'canary', ...others }));
  });

  it('get a key, which is kept, and stay otherwise the same', async () => {
    const { jwtSecret: _gone, ...others } = JSON.parse(await readFile(file(), 'utf8')) as Record<string, string>;
    const { tokenKeys, ...kept } = await localSecrets(folder);
    expect(kept).toEqual(others);
    expect(parseTokenKeys(tokenKeys)).toMatchObject([{ kid: 'local', alg: 'EdDSA' }]);
    expect(await localSecrets(folder)).toEqual({ tokenKeys, ...kept });
    expect(await readFile(file(), 'utf8')).not.toContain('canary');
  });

  it('are stored in a file that only its owner can read, whatever its mode before', async () => {
    await chmod(file(), 0o644);
    await localSecrets(folder);
    expect((await stat(file())).mode & 0o777).toBe(0o600);
    expect(await readdir(folder)).toEqual(['secrets.json']);
  });
});

describe('a damaged file of secrets', () => {
  it.each(['', '{', 'null', '[]', '{}', '{"tokenKeys": "canary"}', '{"tokenKeys": 5}'])(
    'is an error that names the file, and is neither replaced nor repeated: %j',
    async (text) => {
      await mkdir(folder, { recursive: true });
      await writeFile(file(), text);
      const refused = localSecrets(folder);
      await expect(refused).rejects.toThrow(`${file()} is damaged`);
      await expect(refused).rejects.not.toThrow('canary');
      expect(await readFile(file(), 'utf8')).toBe(text);
    },
  );

  it('without one of the secrets is an error, too', async () => {
    const { encryptionKeys: _missing, ...others } = await localSecrets(folder);
    await writeFile(file(), JSON.stringify(others));
    await expect(localSecrets(folder)).rejects.toThrow('is damaged');
  });

  it('that cannot be read is an error, and causes no new secrets', async () => {
    await mkdir(file(), { recursive: true });
    await expect(localSecrets(folder)).rejects.toThrow(/EISDIR/);
  });
});
