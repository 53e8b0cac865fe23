// Secrets that the configuration does not set. They are made at the first start and kept under DATA_DIR. This never happens in
// production: there a missing secret stops the start.
import { randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { link, mkdir, open, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import path from 'node:path';
import { z } from 'zod';
import { makeTokenKey } from '../auth/keyring.js';
import { hasCode } from '../embedded/run.js';
import { folderProblem, StartProblem } from './start-problem.js';

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

/** The end of a draft's name. */
const DRAFT = '.new';

/** Older builds signed tokens with a secret of another name. Those tokens are no longer valid. */
const storedSchema = secretsSchema.partial({ tokenKeys: true });

/**
 * Reads `<folder>/secrets.json`, or makes it (mode 0600) with fresh secrets. Processes that begin at once get the same secrets.
 *
 * @throws StartProblem if the file is damaged, or the folder cannot be used
 */
export async function localSecrets(folder: string): Promise<LocalSecrets> {
  try {
    return await readOrMake(folder);
  } catch (error) {
    throw folderProblem(error, folder);
  }
}

/** Whether a service has started with this folder. */
export function hasSecrets(folder: string): boolean {
  return existsSync(path.join(folder, 'secrets.json'));
}

async function readOrMake(folder: string): Promise<LocalSecrets> {
  const file = path.join(folder, 'secrets.json');
  const text = (await textOf(file)) ?? (await makeFirst(file));
  const stored = storedSchema.safeParse(parsed(text));
  if (!stored.success)
    throw new StartProblem(
      `${file} is damaged: restore it, because the databases beside it cannot be read without it.`,
    );
  const { tokenKeys, ...others } = stored.data;
  if (tokenKeys !== undefined) return { tokenKeys, ...others };
  const completed = { tokenKeys: makeTokenKey('local'), ...others };
  await rename(await draftOf(file, completed), file);
  return completed;
}

/** The content of a file; undefined if there is no such file. */
async function textOf(file: string): Promise<string | undefined> {
  return readFile(file, 'utf8').catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  });
}

/**
 * Makes the file, unless another process was faster: its secrets may encrypt passwords already, and a rename would replace them.
 *
 * @returns the content of the file
 */
async function makeFirst(file: string): Promise<string> {
  const draft = await draftOf(file, freshSecrets());
  await link(draft, file).catch((error: unknown) => {
    // ENOENT: the faster process has removed this draft.
    if (!hasCode(error, 'EEXIST', 'ENOENT')) throw error;
  });
  const text = await readFile(file, 'utf8');
  await removeDrafts(file);
  return text;
}

/** Removes the drafts of this process, of processes that were slower, and of processes that a crash ended. The file must exist. */
async function removeDrafts(file: string): Promise<void> {
  const folder = path.dirname(file);
  const names = await readdir(folder);
  const drafts = names.filter((name) => name.startsWith(path.basename(file)) && name.endsWith(DRAFT));
  await Promise.all(drafts.map((name) => rm(path.join(folder, name), { force: true })));
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

/** With its parents. Node's own `recursive` never returns in a folder that takes none, such as /proc. */
async function makeFolder(folder: string): Promise<void> {
  const make = (): Promise<void> =>
    mkdir(folder, { mode: 0o711 }).catch(async (error: unknown) => {
      if (!hasCode(error, 'EEXIST') || !(await stat(folder)).isDirectory()) throw error;
    });
  await make().catch(async (error: unknown) => {
    if (!hasCode(error, 'ENOENT') || path.dirname(folder) === folder) throw error;
    await makeFolder(path.dirname(folder));
    await make();
  });
}

/** Writes the secrets to a file of another name, and flushes it: a file cut short by a crash would lock every caller out. */
async function draftOf(file: string, secrets: LocalSecrets): Promise<string> {
  await makeFolder(path.dirname(file));
  const draft = `${file}.${randomBytes(6).toString('hex')}${DRAFT}`;
  const handle = await open(draft, 'wx', 0o600);
  try {
    await handle.writeFile(`${JSON.stringify(secrets, null, 2)}\n`);
    await handle.sync();
  } finally {
    await handle.close();
  }
  return draft;
}
