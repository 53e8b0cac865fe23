// The commands of README.md and docs/**/*.md that take too long for `npm test`, and what `npm run docs:try` does to try each.
// tests/process/docs.test.ts runs the others, and demands that each command is in one of the two places.
import { chmod, mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { ROOT } from './docs.js';
import { walkReadme } from './readme.js';
import { makeDataDir, signInOf } from './service-process.js';
import { runScript, startScript } from './shell.js';
import { copySource } from './source-copy.js';

/** Started programs that have not ended. */
const started: (() => Promise<void>)[] = [];

/** Ends what a slow command has started, after Ctrl-C. */
export async function interruptStarted(): Promise<void> {
  await Promise.all(started.map((interrupt) => interrupt()));
}

/** What tries each command, by its exact text on the page. It rejects if the command does not do what the page says. */
export const SLOW_COMMANDS: Readonly<Record<string, () => Promise<void>>> = {
  'npm ci && npm start': () =>
    inFreshCopy(async (folder) => {
      const data = await makeDataDir();
      try {
        await walkOn('npm ci && npm start', folder, { DATA_DIR: data.dir, PORT: '0' });
      } finally {
        await data.remove();
      }
    }),
  'npm ci && npm run build && npm prune --omit=dev': () =>
    inFreshCopy(async (folder) => {
      const data = await makeDataDir();
      try {
        await runScript('npm ci && npm run build && npm prune --omit=dev', { cwd: folder });
        await walkOn('npm start', folder, { DATA_DIR: data.dir, PORT: '0' });
      } finally {
        await data.remove();
      }
    }),
  'npm ci && npm run topology': () => walkOn('npm run topology', ROOT, {}),
  'npm run topology -- --nginx': () => walkOn('npm run topology -- --nginx', ROOT, {}),
  'npm run bench': () => bench('npm run bench --'),
  ...Object.fromEntries(
    [
      'npm run bench -- --scenario read --rounds 5',
      'npm run bench -- --scenario fleet,cold,noisy,flood-login,hung',
      'npm run bench -- --scenario read --env LOG_LEVEL=silent',
      'npm run bench -- --scenario read --env PREPARED_STATEMENTS=off',
      'npm run bench -- --scenario read --pool-max 2',
      'npm run bench -- --scenario read --rounds 1 --profile /tmp/profile',
      'npm run bench -- --scenario read,list,create',
      'npm run bench -- --scenario tenant',
      'npm run bench -- --scenario big',
      'npm run bench -- --scenario failover',
      'npm run bench -- --scenario rollout',
      'npm run bench -- --scenario overload,churn',
      'npm run bench -- --scenario cached,cached-fleet --warmup 5 --seconds 60',
    ].map((command) => [command, () => bench(command)]),
  ),
  'npm run profile:layers -- /tmp/profile': () =>
    bench('npm run bench -- --scenario read --profile /tmp/profile', 'npm run profile:layers -- /tmp/profile'),
  ...Object.fromEntries(
    [
      'npx vitest run tests/integration/users.test.ts',
      'npm run profile:jobs',
      'npm run profile:memory',
      'npm run profile:metrics',
      'npm run test:postgres -- 15 18',
      'npm run test:node -- 18 20.18 24 26',
      'npm run test:node -- --tests unit/ids 24',
      'npm run test:add-resource',
      'npm run topology -- --rolling 20',
      'npm run drill',
      'npm run topology -- --nginx --rolling 6',
      'npm run fuzz -- --requests 50000',
      'npm run fuzz -- --requests 5000 --seed 7',
      'npm run fuzz -- --requests 5000 --seed 7 --keep',
    ].map((command) => [
      command,
      async () => {
        await runScript(command, { cwd: ROOT });
      },
    ]),
  ),
  'npm run statements:record': async () => {
    const copy = await copySource();
    await runScript('npm run statements:record', { cwd: copy.folder }).finally(() => copy.remove());
  },
  'npm run proofs': async () => {
    await runScript('npm run proofs', { cwd: ROOT });
  },
  'npm run proofs -- poolers': async () => {
    await runScript('npm run proofs -- poolers', { cwd: ROOT });
  },
  'npm run proofs -- two-builds': async () => {
    await runScript('npm run proofs -- two-builds', { cwd: ROOT });
  },
  'npm run proofs -- upgrade': async () => {
    await runScript('npm run proofs -- upgrade', { cwd: ROOT });
  },
  'npm run histories -- --minutes 10': async () => {
    await runScript('npm run histories -- --minutes 1', { cwd: ROOT });
  },
  'npm run timing -- --samples 2000': async () => {
    await runScript('npm run timing -- --samples 50', { cwd: ROOT });
  },
};

/**
 * Runs as few and as short rounds as possible: this tries that each scenario runs to its end, not its figures. Such a run may find
 * the machine too slow for the given rate, and then prints a warning.
 *
 * @param behind a command that runs after the benchmark, on its output
 */
async function bench(command: string, behind = ''): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'tenantry-docs-bench-'));
  try {
    const quick = `--rounds 1 --seconds 1 --warmup 0 --tenants 60 --json ${path.join(folder, 'figures.json')}`;
    const profile = path.join(folder, 'profile');
    await runScript(`${command} ${quick}\n${behind}`.replaceAll('/tmp/profile', profile), { cwd: ROOT });
    const written = await readdir(folder);
    if (!written.includes('figures.json')) throw new Error('it wrote no figures');
    if (command.includes('--profile') && !(await readdir(profile)).some((name) => name.endsWith('.cpuprofile')))
      throw new Error('it wrote no profile');
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Starts a program that prints its address and the operator's sign-in, does the README's walk on it, and ends it. */
async function walkOn(command: string, cwd: string, env: Readonly<Record<string, string>>): Promise<void> {
  const ready = /Tenantry listens on|^URL=.*\n.*\n.*OPERATOR_PASSWORD=.*\n/m;
  const dataDir = env['DATA_DIR'];
  const terminal = await startScript(command, ready, { cwd, env }, 600_000);
  started.push(() => terminal.interrupt());
  try {
    const find = (pattern: RegExp): string => pattern.exec(terminal.output)?.[1] ?? '';
    const url = find(/(?:listens on |^URL=)(http:\/\/[\d.:]+)/m);
    const printed = { email: find(/OPERATOR_EMAIL=(\S+)/), password: find(/OPERATOR_PASSWORD=(\S+)/) };
    await walkReadme(url, (dataDir === undefined ? undefined : signInOf(dataDir)) ?? printed);
    await terminal.interrupt();
    const answers = await fetch(url).then(
      () => true,
      () => false,
    );
    if (answers) throw new Error(`${command} still answers after Ctrl-C`);
  } finally {
    await terminal.interrupt();
    started.pop();
  }
}

/** Runs work in a copy with only the files under version control, as a newcomer gets it. */
async function inFreshCopy(work: (folder: string) => Promise<void>): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'tenantry-fresh-'));
  try {
    // mkdtemp creates it with mode 0700, and under root PostgreSQL runs as another user.
    await chmod(folder, 0o755);
    await runScript(`git ls-files -z | xargs -0 cp --parents --target-directory='${folder}'`, { cwd: ROOT });
    await work(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
