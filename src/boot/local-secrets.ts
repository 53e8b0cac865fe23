// Secrets that nobody gave, made on the first start and kept under DATA_DIR. Never in production: there a missing secret
// stops the start.
import { randomBytes } from 'node:crypto';
import { mkdir, open, readFile, rename } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { makeTokenKey } from '../auth/keyring.js';

const secretsSchema = z.object({
  /** In the form of JWT_KEYS. */
  tokenKeys: z.string(),
  /** In the form of ENCRYPTION_KEYS. */
  encryptionKeys: z.string(),
  operatorPassword: z.string(),
  superuserPassword: z.string(),
  registryPassword: z.string(),
  provisionerPassword: z.string(),
});

export type LocalSecrets = z.output<typeof secretsSchema>;

/** Older builds signed tokens with a secret of another name, and none of those tokens is good any more. */
const storedSchema = secretsSchema.partial({ tokenKeys: true });

/** Reads `<folder>/secrets.json`, or makes it (mode 0600) with fresh secrets. @throws Error where the file is damaged */
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
  // Under another name first, and on disk: a file cut short by a crash would lock everybody out of the databases.
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
