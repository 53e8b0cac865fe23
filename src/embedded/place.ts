// Decides who runs PostgreSQL and where: PostgreSQL refuses to be root, so under root it needs a user, and files within that user's reach.
import { createHash, randomBytes } from 'node:crypto';
import { existsSync } from 'node:fs';
import { chmod, cp, mkdir, realpath, rename, rm, stat } from 'node:fs/promises';
import { dirname, join, relative } from 'node:path';
import { locateBinaries, type Binaries } from './binaries.js';
import { hasCode, run, type Account } from './run.js';

export interface Place {
  /** Absolute, without symbolic links. */
  readonly home: string;
  readonly dataDir: string;
  readonly binaries: Binaries;
  readonly account: Account;
}

/** Where root keeps what the user `postgres` could not reach at its proper place. */
const SHARED = '/var/lib/tenantry';

/**
 * Makes `home` where it is missing and settles where the cluster lives and as whom it runs.
 *
 * @param from as `locateBinaries` takes it
 * @throws when the binaries are not installed or, under root, the OS user `postgres` cannot be had.
 */
export async function settlePlace(home: string, log: { info(msg: string): void }, from?: string): Promise<Place> {
  const binaries = await locateBinaries(from);
  if (process.getuid?.() !== 0) {
    await mkdir(home, { recursive: true, mode: 0o700 });
    // A mounted volume may belong to somebody else and keep its mode; the data folder in it is private all the same.
    await chmod(home, 0o700).catch(() => undefined);
    const real = await realpath(home);
    return { home: real, dataDir: dataDirOf(real), binaries, account: {} };
  }

  await mkdir(home, { recursive: true, mode: 0o711 });
  const reachable = await reachableHome(await realpath(home), log);
  const dataDir = dataDirOf(reachable);
  return { home: reachable, dataDir, binaries: await reachableBinaries(binaries), account: await accountFor(dataDir) };
}

/** A data folder counts once initdb has finished it (a mount point may be there, empty). */
export function isCluster(dataDir: string): boolean {
  return existsSync(join(dataDir, 'PG_VERSION'));
}

function dataDirOf(home: string): string {
  return join(home, 'postgres');
}

/**
 * `home`, or a folder of its own under /var/lib/tenantry when `home` lies below something like /root (0700). A cluster
 * stays where it was first made, even if modes change later: an empty one in its stead would look like lost data.
 */
async function reachableHome(home: string, log: { info(msg: string): void }): Promise<string> {
  const elsewhere = join(SHARED, createHash('sha256').update(home).digest('hex').slice(0, 16));
  const settled = [home, elsewhere].find((folder) => isCluster(dataDirOf(folder)));
  const chosen = settled ?? ((await othersReach(home)) ? home : elsewhere);
  // The home stays root's: root writes in it, and must not be led astray by links that somebody else can put there.
  // 0711: `postgres` walks through it to its data and lists nothing.
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

/** The binaries where they are, or a copy made once per version: `npm install` below /root puts them out of reach. */
async function reachableBinaries(binaries: Binaries): Promise<Binaries> {
  if ((await othersReach(binaries.postgres)) && ((await stat(binaries.postgres)).mode & 0o005) === 0o005)
    return binaries;

  const copy = join(SHARED, `binaries-${binaries.version}`);
  if (!existsSync(copy)) {
    await mkdir(SHARED, { recursive: true });
    await chmod(SHARED, 0o711);
    // Copied aside and renamed: a copy that was cut short must not be taken for a whole one.
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

/** Whether any user may walk to this absolute path, whatever it is itself. */
async function othersReach(path: string): Promise<boolean> {
  for (let folder = dirname(path); ; folder = dirname(folder)) {
    if (((await stat(folder)).mode & 0o001) === 0) return false;
    if (folder === dirname(folder)) return true;
  }
}

/**
 * Whoever owns the data runs it, since PostgreSQL accepts nobody else: the number behind the name `postgres` may differ
 * in the next container image, while the volume keeps the old one. New data is for the user `postgres`.
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
