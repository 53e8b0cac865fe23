// Secrets that the configuration does not set. They are made at the first start and kept under DATA_DIR. This never happens in
// production: there a missing secret stops the start.
import { randomBytes } from 'node:crypto';
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { makeTokenKey } from '../auth/keyring.js';

const secretsSchema = z.object({
  /** In the format of JWT_KEYS. */
  tokenKeys: z.string(),
  /** In the format of ENCRYPTION_KEYS. */
  encryptionKeys: z.string(),
  operatorPassword: z.string(),
  superuserPassword: z.string(),
  registryPassword: z.string(),
  provisionerPassword: z.string(),
});

export type LocalSecrets = z.output<typeof secretsSchema>;

/** Older builds signed tokens with a secret of another name. Those tokens are no longer valid. */
const storedSchema = secretsSchema.partial({ tokenKeys: true });

/** Reads `<folder>/secrets.json`, or makes it (mode 0600) with fresh secrets. @throws Error if the file is damaged */
export async function localSecrets(folder: string): Promise<LocalSecrets> {
  const file = path.join(folder, 'secrets.json');
  const text = await readFile(file, 'utf8').catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  });
  if (text === undefined) return keep(file, freshSecrets());
  const stored = storedSchema.safeParse(parsed(text));
  if (!stored.success)
    throw new Error(`${file} is damaged: restore it, because the databases beside it cannot be read without it`);
  const { tokenKeys, ...others } = stored.data;
  return tokenKeys === undefined
    ? keep(file, { tokenKeys: makeTokenKey('local'), ...others })
    : { tokenKeys, ...others };
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

function freshSecrets(): LocalSecrets {
  const random = (): string => randomBytes(32).toString('base64url');
  return {
    tokenKeys: makeTokenKey('local'),
    encryptionKeys: `local:${randomBytes(32).toString('base64')}`,
    operatorPassword: randomBytes(15).toString('base64url'),
    superuserPassword: random(),
    registryPassword: random(),
    provisionerPassword: random(),
  };
}

async function keep(file: string, secrets: LocalSecrets): Promise<LocalSecrets> {
  await mkdir(path.dirname(file), { recursive: true, mode: 0o711 });
  // Write to another name first, and flush: a file cut short by a crash would lock every caller out of the databases.
  const draft = `${file}.new`;
  const handle = await open(draft, 'w', 0o600);
  try {
    await handle.writeFile(`${JSON.stringify(secrets, null, 2)}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  await rename(draft, file);
  return secrets;
}
