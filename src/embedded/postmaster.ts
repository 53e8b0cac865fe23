// Starts and stops one run of the PostgreSQL server process (the postmaster), and stops a postmaster that an earlier service
// left.
import { spawn, type ChildProcess } from 'node:child_process';
import { open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Place } from './place.js';
import { CHILD_ENV, hasCode, run } from './run.js';

export interface ServerSpec extends Place {
  readonly port: number;
  readonly logFile: string;
  readonly settings: Readonly<Record<string, string>>;
  readonly log: { info(msg: string): void; warn(msg: string): void };
}

export interface Postmaster {
  readonly pid: number | undefined;
  /** How the process ended, e.g. `signal SIGKILL`; undefined while it runs. */
  readonly end: string | undefined;
  /** Resolves to `end` when the process has ended. */
  readonly ended: Promise<string>;
  /**
   * Stops the process if it still runs, with harder and harder signals. Resolves when the process is gone. Safe to call again.
   */
  stop(): Promise<void>;
}

const POLL_MS = 20;
const PROGRESS_MS = 5_000;
/** Recovery after a crash reads the whole write-ahead log since the last checkpoint. */
const READY_DEADLINE_MS = 120_000;
const LEFTOVER_DEADLINE_MS = 15_000;
/**
 * First a fast shutdown: end sessions and write everything to disk. Then an immediate one: the next start recovers from the log.
 * Then a kill.
 */
const STOP_LADDER = [
  ['SIGINT', 20_000],
  ['SIGQUIT', 5_000],
  ['SIGKILL', 5_000],
] as const;

/** Every postmaster that this process has started and that has not ended. */
const alive = new Set<ChildProcess>();

// The last chance, and synchronous: however this process ends, its PostgreSQL ends too. A start that fails, and a command that is
// interrupted, get here while the server is starting.
process.on('exit', () => {
  for (const child of alive) child.kill('SIGINT');
});

/**
 * Resolves when the server accepts connections. If an earlier postmaster was killed and its backends are still ending, PostgreSQL
 * refuses to start. In that case this tries again for 15 s.
 * @throws with the end of the server's log, if the server stops early or is not ready within 120 s, and if `signal` aborts; then
 *   no process of it is left.
 */
export async function startPostmaster(spec: ServerSpec, signal: AbortSignal): Promise<Postmaster> {
  const deadline = performance.now() + LEFTOVER_DEADLINE_MS;
  for (;;) {
    try {
      return await startOnce(spec, signal);
    } catch (error) {
      const isLeftover = error instanceof Error && error.message.includes('pre-existing shared memory block');
      if (!isLeftover || performance.now() > deadline) throw error;
      await sleep(200, undefined, { signal });
    }
  }
}

/** Stops the postmaster that still runs on this data folder because its service was killed. */
export async function stopOrphan(
  { dataDir, binaries, account }: Place,
  log: { warn(msg: string): void },
): Promise<void> {
  const pid = (await readStatusFile(dataDir))?.pid;
  // Without a check of the command line, an unrelated process with the old process id would be stopped.
  if (pid === undefined || !(await commandLine(pid)).includes(dataDir)) return;
  log.warn(`Stopping the embedded PostgreSQL that an earlier run left running (pid ${pid})`);
  const stop = (mode: string): Promise<string> =>
    run(binaries.pgCtl, ['stop', '-D', dataDir, '-m', mode, '-w', '-t', '30'], account);
  await stop('fast').catch(() => stop('immediate'));
}

async function startOnce(spec: ServerSpec, signal: AbortSignal): Promise<Postmaster> {
  const { dataDir, logFile } = spec;
  const formerPid = (await readStatusFile(dataDir))?.pid;
  const output = await open(logFile, 'a', 0o600);
  try {
    const logStart = (await output.stat()).size;
    signal.throwIfAborted();
    const postmaster = spawnPostmaster(spec, output.fd, formerPid);
    try {
      await untilReady(postmaster, spec, signal, () => readLogEnd(logFile, logStart));
    } catch (error) {
      await postmaster.stop();
      throw error;
    }
    return postmaster;
  } finally {
    await output.close();
  }
}

function spawnPostmaster(
  { binaries, dataDir, port, settings, account }: ServerSpec,
  output: number,
  formerPid: number | undefined,
): Postmaster {
  const effective = { ...settings, listen_addresses: '127.0.0.1', unix_socket_directories: '', port: String(port) };
  const child = spawn(
    binaries.postgres,
    ['-D', dataDir, ...Object.entries(effective).flatMap(([name, value]) => ['-c', `${name}=${value}`])],
    {
      // A separate process group: Ctrl-C in a terminal must reach only the service, which drains before it stops PostgreSQL.
      detached: true,
      // The file itself and no pipe: when the service is killed, a pipe would break at the server's next log line.
      stdio: ['ignore', output, output],
      windowsHide: true,
      cwd: '/',
      env: {
        ...CHILD_ENV,
        // PostgreSQL takes postmaster.pid for live if any process of ours has that id. In a restarted container, a thread of this
        // service easily has it. PostgreSQL ignores an id that is named here. It still does the shared memory check, which
        // reliably keeps two servers off one folder.
        ...(formerPid === undefined ? {} : { PG_GRANDPARENT_PID: String(formerPid) }),
      },
      ...account,
    },
  );
  child.unref();
  alive.add(child);

  let end: string | undefined;
  const ended = new Promise<string>((resolve) => {
    const finish = (how: string): void => {
      end ??= how;
      alive.delete(child);
      resolve(end);
    };
    child.once('exit', (code, signal) => {
      finish(signal === null ? `exit code ${String(code)}` : `signal ${signal}`);
    });
    child.on('error', (error) => {
      if (child.pid === undefined) finish(error.message);
    });
  });

  const send = async (signal: NodeJS.Signals): Promise<void> => {
    // Windows has no signals. PostgreSQL imitates them, and pg_ctl can send such a signal.
    if (process.platform === 'win32' && signal !== 'SIGKILL')
      await run(binaries.pgCtl, ['kill', signal.slice(3), String(child.pid)]);
    else child.kill(signal);
  };
  return {
    pid: child.pid,
    ended,
    get end() {
      return end;
    },
    async stop() {
      child.ref(); // The caller waits for the end now, so the event loop must stay alive until then.
      for (const [signal, patienceMs] of STOP_LADDER) {
        if (end !== undefined) return;
        await send(signal);
        await Promise.race([ended, sleep(patienceMs, undefined, { ref: false })]);
      }
      if (end === undefined)
        throw new Error(`The embedded PostgreSQL (pid ${String(child.pid)}) did not end, not even by SIGKILL`);
    },
  };
}

async function untilReady(
  postmaster: Postmaster,
  { dataDir, logFile, log }: ServerSpec,
  signal: AbortSignal,
  logEnd: () => Promise<string>,
): Promise<void> {
  const started = performance.now();
  let progressAt = PROGRESS_MS;
  for (;;) {
    signal.throwIfAborted();
    if (postmaster.end !== undefined) {
      throw new Error(
        `The embedded PostgreSQL stopped while it was starting (${postmaster.end}). The end of ${logFile}:\n${await logEnd()}`,
      );
    }
    const status = await readStatusFile(dataDir);
    if (status?.pid === postmaster.pid && status?.isReady) return;

    const waited = performance.now() - started;
    if (waited > READY_DEADLINE_MS) {
      throw new Error(
        `The embedded PostgreSQL was not ready within ${READY_DEADLINE_MS / 1_000} s. The end of ${logFile}:\n${await logEnd()}`,
      );
    }
    if (waited > progressAt) {
      log.info(
        `The embedded PostgreSQL is still starting after ${progressAt / 1_000} s: ${(await logEnd()).split('\n').at(-1) ?? ''}`,
      );
      progressAt += PROGRESS_MS;
    }
    await sleep(POLL_MS);
  }
}

/** postmaster.pid: line 1 is the process id, line 8 (written last) the state. The file remains after a postmaster was killed. */
async function readStatusFile(dataDir: string): Promise<{ pid: number; isReady: boolean } | undefined> {
  const text = await readFile(join(dataDir, 'postmaster.pid'), 'utf8').catch((error: unknown) => {
    // EBUSY and EPERM occur on Windows while the server writes the file.
    if (hasCode(error, 'ENOENT', 'EBUSY', 'EPERM')) return '';
    throw error;
  });
  const lines = text.split('\n');
  const pid = Number(lines[0]);
  return pid > 0 ? { pid, isReady: lines[7]?.trim() === 'ready' } : undefined;
}

/** Empty if no such process runs. */
async function commandLine(pid: number): Promise<string> {
  const read = {
    linux: () => readFile(`/proc/${pid}/cmdline`, 'utf8'), // Slim images have no ps.
    win32: () =>
      run('powershell', [
        '-NoProfile',
        '-Command',
        `(Get-CimInstance Win32_Process -Filter 'ProcessId=${pid}').CommandLine`,
      ]),
  }[process.platform as string];
  return (read ?? (() => run('ps', ['-ww', '-o', 'command=', '-p', String(pid)])))().catch(() => '');
}

/** The last ten lines, at most 4 KiB, that were logged since `start` (bytes). */
async function readLogEnd(file: string, start: number): Promise<string> {
  const handle = await open(file);
  try {
    const { size } = await handle.stat();
    const from = Math.max(start, size - 4_096);
    const { buffer, bytesRead } = await handle.read(Buffer.alloc(Math.max(0, size - from)), 0, null, from);
    return buffer.toString('utf8', 0, bytesRead).trimEnd().split('\n').slice(-10).join('\n');
  } finally {
    await handle.close();
  }
}
