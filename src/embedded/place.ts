// Decides which user runs PostgreSQL, and in which folder. PostgreSQL refuses to run as root, so under root it needs a user and
// files that this user can reach.
import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, cp, mkdir, realpath, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { locateBinaries, type Binaries } from './binaries.js';
import { hasCode, run, type Account } from './run.js';

export interface Place {
  /** An absolute path without symbolic links. */
  readonly home: string;
  readonly dataDir: string;
  readonly binaries: Binaries;
  readonly account: Account;
}

/** Root keeps here what the user `postgres` could not reach at its proper place. */
const SHARED = '/var/lib/tenantry';

/**
 * Makes `home` if it is missing, and decides where the cluster is stored and which user runs it.
 *
 * @param from as for `locateBinaries`
 * @throws if the binaries are not installed or, under root, the OS user `postgres` does not exist and cannot be created.
 */
export async function settlePlace(home: string, log: { info(msg: string): void }, from?: string): Promise<Place> {
  const binaries = await locateBinaries(from);
  if (process.getuid?.() !== 0) {
    await mkdir(home, { recursive: true, mode: 0o700 });
    // A mounted volume may belong to another user and keep its mode. The data folder in it is private all the same.
    await chmod(home, 0o700).catch(() => undefined);
    const real = await realpath(home);
    return { home: real, dataDir: dataDirOf(real), binaries, account: {} };
  }

  await mkdir(home, { recursive: true, mode: 0o711 });
  const reachable = await reachableHome(await realpath(home), log);
  const dataDir = dataDirOf(reachable);
  return { home: reachable, dataDir, binaries: await reachableBinaries(binaries), account: await accountFor(dataDir) };
}

/** A data folder counts after initdb has finished it. Before that, it may be an empty mount point. */
export function isCluster(dataDir: string): boolean {
  return existsSync(join(dataDir, 'PG_VERSION'));
}

function dataDirOf(home: string): string {
  return join(home, 'postgres');
}

/**
 * `home`, or a folder of its own under /var/lib/tenantry if `home` is below a folder such as /root (0700). A cluster stays in the
 * folder where it was first made, even if modes change later. An empty cluster in another folder would look like lost data.
 */
async function reachableHome(home: string, log: { info(msg: string): void }): Promise<string> {
  const elsewhere = join(SHARED, createHash('sha256').update(home).digest('hex').slice(0, 16));
  const settled = [home, elsewhere].find((folder) => isCluster(dataDirOf(folder)));
  const chosen = settled ?? ((await othersReach(home)) ? home : elsewhere);
  // Root owns the home: root writes in it, so no other user may be able to put links there. With mode 0711, `postgres` can walk
  // through the home to its data, but can list nothing.
  for (const folder of chosen === elsewhere ? [SHARED, elsewhere] : [home]) {
    await mkdir(folder, { recursive: true });
    await chmod(folder, 0o711);
  }
  if (chosen === elsewhere)
    log.info(
      `The embedded PostgreSQL runs as the user postgres, which cannot enter ${home}; its files are in ${elsewhere}`,
    );
  return chosen;
}

/**
 * The binaries in their place, or a copy that is made once per version. `npm install` below /root makes the originals
 * unreachable.
 */
async function reachableBinaries(binaries: Binaries): Promise<Binaries> {
  if ((await othersReach(binaries.postgres)) && ((await stat(binaries.postgres)).mode & 0o005) === 0o005)
    return binaries;

  const copy = join(SHARED, `binaries-${binaries.version}`);
  if (!existsSync(copy)) {
    await mkdir(SHARED, { recursive: true });
    await chmod(SHARED, 0o711);
    // Copy to another name, then rename: an interrupted copy must not be taken for a complete one.
    const partial = `${copy}.${randomBytes(6).toString('hex')}`;
    try {
      await cp(binaries.native, partial, { recursive: true, verbatimSymlinks: true });
      await run('chmod', ['-R', 'a+rX', partial]);
      await rename(partial, copy);
    } catch (error) {
      await rm(partial, { recursive: true, force: true });
      // Another service on this machine made the same copy at the same time, and was faster.
      if (!hasCode(error, 'ENOTEMPTY', 'EEXIST')) throw error;
    }
  }
  const moved = (program: string): string => join(copy, relative(binaries.native, program));
  return {
    ...binaries,
    native: copy,
    initdb: moved(binaries.initdb),
    pgCtl: moved(binaries.pgCtl),
    postgres: moved(binaries.postgres),
  };
}

/** Whether any user may walk to this absolute path, whatever its own mode is. */
async function othersReach(path: string): Promise<boolean> {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    if (((await stat(folder)).mode & 0o001) === 0) return false;
    if (folder === dirname(folder)) return true;
  }
}

/**
 * The owner of the data runs PostgreSQL, which accepts no other user. The uid of `postgres` may differ in the next container
 * image, while the volume keeps the old uid. New data belongs to the user `postgres`.
 */
async function accountFor(dataDir: string): Promise<Account> {
  if (isCluster(dataDir)) {
    const { uid, gid } = await stat(dataDir);
    return { uid, gid };
  }
  return (await findPostgresUser()) ?? (await createPostgresUser());
}

async function findPostgresUser(): Promise<Account | undefined> {
  try {
    return { uid: Number(await run('id', ['-u', 'postgres'])), gid: Number(await run('id', ['-g', 'postgres'])) };
  } catch {
    return undefined; // `id` fails for an unknown user.
  }
}

async function createPostgresUser(): Promise<Account> {
  const refusal =
    'PostgreSQL refuses to run as root, and the OS user "postgres" that it should run as neither exists nor could be ' +
    'created. Create it, run the service as another user than root, or set DATABASE_URL to a PostgreSQL server of your own.';
  try {
    await run('useradd', ['--system', '--user-group', '--no-create-home', 'postgres']);
  } catch (cause) {
    throw new Error(refusal, { cause });
  }
  const account = await findPostgresUser();
  if (!account) throw new Error(refusal);
  return account;
}
