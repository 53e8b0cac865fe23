// Starts and stops the processes of the benchmark. Each runs compiled JavaScript under plain Node: a loader that compiles at run
// time would add to the process's memory and CPU time.
import { spawn, type ChildProcess } from 'node:child_process';
import { createServer, type AddressInfo } from 'node:net';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Cleanup } from '../cleanup.js';

export interface Program {
  readonly pid: number;
  readonly child: ChildProcess;
  /** Resolves to how the process ended, e.g. `exit code 0`. */
  readonly ended: Promise<string>;
  /** Asks the process to end, and kills it after three seconds. Resolves when it has ended. Safe to call again. */
  readonly stop: () => Promise<void>;
}

export interface ProgramOptions {
  readonly cleanup: Cleanup;
  readonly env?: Readonly<Record<string, string>>;
  /** File descriptor for its output; default: the terminal's standard error. */
  readonly output?: number;
  /** Options of Node itself. */
  readonly node?: readonly string[];
  /** Whether the process has an IPC channel to the benchmark. */
  readonly ipc?: boolean;
}

/** The measured code is built into its own folder, so that the build disturbs no service that runs from `dist`. */
export const BUILD = path.resolve(import.meta.dirname, '../..');

/** The project's folder: the compiled file is dist/benchmark/bench/measuring/program.js. */
export const root = path.resolve(BUILD, '../..');

const PATIENCE_MS = 3_000;

/** Maximum wait (ms) for a server to listen. */
const START_DEADLINE = 60_000;

/** @param file relative to `dist/benchmark/` */
export function startProgram(file: string, options: ProgramOptions): Promise<Program> {
  return options.cleanup.start(
    () => launch(file, options),
    (program) => program.stop(),
  );
}

/** Runs a program to its end. @throws Error if its exit code is not 0 */
export async function runProgram(file: string, options: ProgramOptions): Promise<void> {
  const { ended } = await startProgram(file, options);
  const how = await ended;
  if (how !== 'exit code 0') throw new Error(`${file} ended with ${how}`);
}

/**
 * Resolves as `started` does, unless the program ends or the deadline passes first. `started` gets a signal that aborts when its
 * result is no longer needed.
 */
export async function within<T>(
  program: Program,
  name: string,
  started: (over: AbortSignal) => Promise<T>,
): Promise<T> {
  const over = new AbortController();
  const late = sleep(START_DEADLINE, undefined, { signal: over.signal }).then(() => 'does not listen');
  try {
    return await Promise.race([
      started(over.signal),
      Promise.race([late, program.ended]).then((how) => {
        throw new Error(`${name}: ${how}`);
      }),
    ]);
  } finally {
    over.abort();
  }
}

/** A port on which no process listens at this moment. */
export function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer();
    server.once('error', reject);
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address() as AddressInfo;
      server.close(() => {
        resolve(port);
      });
    });
  });
}

function launch(file: string, { env = {}, output, node = [], ipc = false }: ProgramOptions): Program {
  const to = output ?? 2;
  const child = spawn(process.execPath, [...node, path.join(BUILD, file)], {
    cwd: root,
    // Exactly this environment: the caller's NODE_OPTIONS or PG* would change what is measured.
    env: { ...env },
    stdio: ['ignore', to, to, ...(ipc ? (['ipc'] as const) : [])],
    // Its own process group: Ctrl-C in a terminal reaches the benchmark alone, which stops the other processes in order.
    detached: true,
  });
  const ended = new Promise<string>((resolve) => {
    child.once('error', (error) => {
      resolve(error.message);
    });
    child.once('exit', (code, signal) => {
      resolve(signal === null ? `exit code ${String(code)}` : `signal ${signal}`);
    });
  });
  if (child.pid === undefined) throw new Error(`${file} did not start`);
  return { pid: child.pid, child, ended, stop: () => stop(child, ended) };
}

async function stop(child: ChildProcess, ended: Promise<string>): Promise<void> {
  const isRunning = (): boolean => child.exitCode === null && child.signalCode === null;
  if (!isRunning()) return;
  child.kill('SIGTERM');
  const timer = setTimeout(() => {
    child.kill('SIGKILL');
  }, PATIENCE_MS);
  await ended;
  clearTimeout(timer);
}
