// Makes the data folder of a new cluster, completely or not at all.
import { chown, mkdtemp, open, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isCluster, type Place } from './place.js';
import { run } from './run.js';

const DRAFT_PREFIX = 'postgres.init-';

/**
 * Runs initdb unless `dataDir` holds a cluster already. initdb works in a draft folder next to `dataDir`, which is renamed when
 * it is complete. So a start that was killed halfway leaves nothing that looks like a cluster. The password is in the draft
 * folder too while initdb runs.
 *
 * @param onInit called before initdb runs, which takes seconds
 * @throws if the cluster belongs to another major version of PostgreSQL, or initdb fails; the message then ends with its reason
 */
export async function initializeDataDir(
  { home, dataDir, binaries, account }: Place,
  superuserPassword: string,
  onInit: () => void = () => undefined,
): Promise<void> {
  await removeDrafts(home);
  if (isCluster(dataDir)) {
    await refuseOtherVersion(dataDir, binaries.version);
    return;
  }
  onInit();

  // The name is new each time: an initdb whose service was killed may still be writing into the earlier draft.
  const draft = await mkdtemp(join(home, DRAFT_PREFIX));
  try {
    const passwordFile = join(draft, 'password');
    await writeFile(passwordFile, superuserPassword, { mode: 0o600 });
    for (const path of [passwordFile, draft]) await chown(path, account.uid ?? -1, account.gid ?? -1);

    const data = join(draft, 'data');
    await run(
      binaries.initdb,
      [
        `--pgdata=${data}`,
        '--username=postgres',
        `--pwfile=${passwordFile}`,
        '--auth=scram-sha-256',
        '--encoding=UTF8',
        '--locale=C',
        ...localeOf(binaries.version),
        '--data-checksums',
        '--no-instructions',
      ],
      account,
    ).catch((cause: unknown) => {
      throw new Error(`The files of the embedded PostgreSQL could not be made in ${home}: ${reasonOf(cause)}`, {
        cause,
      });
    });
    await rename(data, dataDir);
    await flushFolder(home);
  } finally {
    await rm(draft, { recursive: true, force: true });
  }
}

/** PostgreSQL reads the files of its own major version only. */
async function refuseOtherVersion(dataDir: string, version: string): Promise<void> {
  const found = (await readFile(join(dataDir, 'PG_VERSION'), 'utf8')).trim();
  const own = version.split('.')[0] ?? '';
  if (found === own) return;
  throw new Error(
    `${dataDir} has the files of PostgreSQL ${found}, and this build brings PostgreSQL ${own}, which cannot read them. ` +
      'Start the build that made them, or set DATA_DIR to another folder',
  );
}

/** What initdb wrote last about its failure, without the time and the name of the program before it. */
function reasonOf(error: unknown): string {
  const { stderr = '', message } = error as Error & { stderr?: string };
  const lines = stderr.split('\n').filter((line) => /error:|fatal:|panic:/i.test(line));
  return lines.at(-1)?.replace(/^.*?(?:error|fatal|panic):\s*/i, '') ?? message;
}

async function removeDrafts(home: string): Promise<void> {
  const drafts = (await readdir(home)).filter((name) => name.startsWith(DRAFT_PREFIX));
  for (const name of drafts) await rm(join(home, name), { recursive: true, force: true, maxRetries: 5 });
}

/** Without this, a power cut could undo the rename. The next start would then remove the draft with acknowledged rows in it. */
async function flushFolder(folder: string): Promise<void> {
  if (process.platform === 'win32') return; // Windows can flush files only.
  const handle = await open(folder);
  await handle.sync();
  await handle.close();
}

/** PostgreSQL's own UTF-8 locale, from version 17 on: it exists on every machine and sorts the same on all of them. */
function localeOf(version: string): readonly string[] {
  return Number.parseInt(version) >= 17 ? ['--locale-provider=builtin', '--builtin-locale=C.UTF-8'] : [];
}
