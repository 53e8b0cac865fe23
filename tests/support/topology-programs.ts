// Starts programs of a topology as processes of this machine, and ends them.
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { accessSync, constants } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { connect } from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';

/** Deadline (ms) for a process to become ready: an idle machine needs one second, a busy one some more. */
const READY_DEADLINE = 30_000;

const root = path.resolve(import.meta.dirname, '../..');
const ignore = (): void => undefined;

export interface Program {
  readonly pid: number | undefined;
  readonly logFile: string;
  /** Whether it has ended. */
  readonly ended: boolean;
  stop(signal: NodeJS.Signals): Promise<number | null>;
}

/** Processes that this process started. */
export const running = new Set<{ readonly pid?: number | undefined }>();

// The last chance to end them, and it must be synchronous. SIGINT means "at once" to PostgreSQL and "soon" to the others.
process.on('exit', () => {
  for (const { pid } of running) if (pid !== undefined) process.kill(pid, 'SIGINT');
});

export function startProgram(
  program: string,
  args: readonly string[],
  { env, logFile }: { env: Readonly<Record<string, string>>; logFile: string },
): Program {
  const child = spawn(findProgram(program) ?? program, args, {
    cwd: root,
    env: environment(env),
    // Its own process group: a terminal's Ctrl-C then reaches only this process, which ends the others in order.
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  running.add(child);
  const log = open(logFile, 'a', 0o600);
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => void log.then((file) => file.appendFile(chunk)).catch(ignore));
  let ended = false;
  const exit = new Promise<number | null>((resolve) => {
    child.once('error', () => {
      resolve(null);
    });
    child.once('close', resolve);
  }).then(async (code) => {
    ended = true;
    running.delete(child);
    await (await log).close();
    return code;
  });
  return {
    pid: child.pid,
    logFile,
    get ended() {
      return ended;
    },
    stop(signal) {
      if (!ended) child.kill(signal);
      return exit;
    },
  };
}

/** Waits for /health/ready. @throws Error with the end of the program's log if it ends first or takes too long */
export async function untilReady(url: string, program: Program): Promise<void> {
  await untilTrue(url, program, () =>
    fetch(`${url}/health/ready`).then(
      ({ status }) => status === 200,
      () => false,
    ),
  );
}

/** Waits for a port of this machine to accept connections. @throws Error as untilReady() */
export async function untilAccepting(port: number, program: Program): Promise<void> {
  await untilTrue(`port ${port}`, program, async () => {
    const socket = connect(port, '127.0.0.1');
    try {
      await once(socket, 'connect');
      return true;
    } catch {
      return false;
    } finally {
      socket.destroy();
    }
  });
}

async function untilTrue(what: string, program: Program, isReady: () => Promise<boolean>): Promise<void> {
  const deadline = performance.now() + READY_DEADLINE;
  for (;;) {
    if (await isReady()) return;
    if (program.ended || performance.now() > deadline) {
      const log = await readFile(program.logFile, 'utf8');
      throw new Error(`${what} did not become ready:\n${log.split('\n').slice(-20).join('\n')}`);
    }
    await sleep(50);
  }
}

/** Runs a command to its end. @throws Error with its output on stderr */
export async function command(
  program: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<void> {
  await promisify(execFile)(program, args, { cwd: root, env: environment(env), timeout: 60_000 });
}

/** The caller's own variables, PGHOST and NODE_OPTIONS among them, do not reach the started processes. */
function environment(env: Readonly<Record<string, string>>): NodeJS.ProcessEnv {
  return { PATH: process.env['PATH'], HOME: process.env['HOME'], LC_ALL: 'C', ...env };
}

/** Debian keeps haproxy in sbin, which is often not on PATH. */
export function findProgram(name: string): string | undefined {
  if (path.isAbsolute(name)) return name;
  return [...(process.env['PATH'] ?? '').split(path.delimiter), '/usr/sbin', '/usr/local/sbin']
    .map((folder) => path.join(folder, name))
    .find((file) => {
      try {
        accessSync(file, constants.X_OK);
        return true;
      } catch {
        return false;
      }
    });
}
