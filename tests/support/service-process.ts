// The service as its own process, started from the build as `npm start` does.
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { chmod, mkdtemp, readdir, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { parseEnv, promisify } from 'node:util';

const root = path.resolve(import.meta.dirname, '../..');

/** Compiles changed files: the tests must not run an old build. */
export async function build(): Promise<void> {
  if (await isBuilt()) return;
  await promisify(execFile)('npm', ['run', '--silent', 'build'], { cwd: root });
}

/** Whether no file is newer than the last build: the compiler needs seconds to find out. */
async function isBuilt(): Promise<boolean> {
  const changedAt = async (file: string): Promise<number> => (await stat(path.join(root, file))).mtimeMs;
  const builtAt = await changedAt('dist/.tsbuildinfo').catch(() => 0);
  const folders = ['src', 'plugins', 'routes', 'db'];
  const listed = await Promise.all(
    folders.map(async (folder) => {
      const names = await readdir(path.join(root, folder), { recursive: true });
      // A folder is newer if a file of it was removed.
      return [folder, ...names.map((name) => path.join(folder, name))];
    }),
  );
  const sources = [...listed.flat(), 'tsconfig.json', 'tsconfig.build.json'];
  const times = await Promise.all(sources.map(changedAt));
  return times.every((time) => time < builtAt);
}

/** A new DATA_DIR. Under root, PostgreSQL runs as another user, who must be able to enter the folder. */
export async function makeDataDir(): Promise<{ dir: string; remove(): Promise<void> }> {
  const dir = await mkdtemp(path.join(tmpdir(), 'tenantry-data-'));
  await chmod(dir, 0o755);
  return { dir, remove: () => rm(dir, { recursive: true, force: true }) };
}

/** The caller's environment variables do not reach the process: they could change the tested behaviour. */
function environment(env: Readonly<Record<string, string>>): NodeJS.ProcessEnv {
  // The process shares the processor with other tests.
  return { PATH: process.env['PATH'], HOME: process.env['HOME'], MAX_EVENT_LOOP_DELAY_MS: '0', ...env };
}

/** Runs a program of the build to its end. @param folder of another source tree, with its build */
export async function runProgram(
  script: string,
  env: Readonly<Record<string, string>>,
  args: readonly string[] = [],
  folder = root,
): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, [path.join(folder, 'dist', script), ...args], {
    cwd: folder,
    env: environment(env),
  });
  const output = collect(child);
  const code = await exitOf(child);
  return { code, stdout: output.stdout, stderr: output.stderr };
}

export interface ServiceProcess {
  readonly url: string;
  readonly pid: number;
  /** Everything that it has written to standard output so far. */
  readonly stdout: string;
  /** The first operator's, if a start in its DATA_DIR made it up. */
  readonly operatorPassword: string | undefined;
  signal(signal: NodeJS.Signals): void;
  /** The exit code, or null if a signal ended it. */
  readonly exited: Promise<number | null>;
}

/**
 * Starts the service on a free port and waits until it listens.
 *
 * @param folder of another source tree, with its build
 * @param program the file in the build, with its arguments
 * @throws Error with its output if it ends first
 */
export async function startProcess(
  env: Readonly<Record<string, string>>,
  folder = root,
  [script = '', ...args]: readonly string[] = ['src/server.js'],
): Promise<ServiceProcess> {
  const child = spawn(process.execPath, [path.join(folder, 'dist', script), ...args], {
    cwd: folder,
    env: environment({
      PORT: '0',
      RATE_LIMIT_MAX: '1000000',
      PASSWORD_BUDGET_ACCOUNT: '1000000',
      PASSWORD_BUDGET_TENANT: '1000000',
      SIGN_IN_LIMIT: '1000000',
      SIGN_IN_FAILURES_ACCOUNT: '1000000',
      SIGN_IN_FAILURES_ADDRESS: '1000000',
      SIGN_IN_FAILURES_TENANT: '1000000',
      ...env,
    }),
  });
  const output = collect(child);
  const exited = exitOf(child);
  let url: string | undefined;
  while (url === undefined) {
    if (child.exitCode !== null || child.signalCode !== null)
      throw new Error(`the service ended:\n${output.stdout}${output.stderr}`);
    url = /Tenantry listens on (http:[^;]+);/.exec(output.stdout)?.[1];
    await sleep(20);
  }
  const { pid } = child;
  if (pid === undefined) throw new Error('the service has no pid');
  return {
    url,
    pid,
    get stdout() {
      return output.stdout;
    },
    get operatorPassword() {
      return signInOf(env['DATA_DIR'] ?? path.join(folder, '.data'))?.password;
    },
    signal: (signal) => void process.kill(pid, signal),
    exited,
  };
}

/** The first operator's sign-in, as a start without a terminal leaves it in DATA_DIR. */
export function signInOf(dataDir: string): { email: string; password: string } | undefined {
  const file = path.join(dataDir, 'operator.env');
  if (!existsSync(file)) return undefined;
  const { OPERATOR_EMAIL: email = '', OPERATOR_PASSWORD: password = '' } = parseEnv(readFileSync(file, 'utf8'));
  return { email, password };
}

/** Waits until `condition` holds, at most `deadline` ms. */
export async function eventually(
  what: string,
  condition: () => Promise<boolean> | boolean,
  deadline = 20_000,
): Promise<void> {
  const until = performance.now() + deadline;
  while (!(await condition())) {
    if (performance.now() > until) throw new Error(`did not happen in ${deadline} ms: ${what}`);
    await sleep(50);
  }
}

/** Whether a process of that id runs. A zombie does not count. */
export function isRunning(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  const status = `/proc/${pid}/status`;
  return !existsSync(status) || !/^State:\s+Z/m.test(readFileSync(status, 'utf8'));
}

function collect(child: ChildProcess): { stdout: string; stderr: string } {
  const output = { stdout: '', stderr: '' };
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (output.stdout += text));
  child.stderr?.setEncoding('utf8').on('data', (text: string) => (output.stderr += text));
  return output;
}

function exitOf(child: ChildProcess): Promise<number | null> {
  return new Promise((resolve) => child.once('close', resolve));
}
