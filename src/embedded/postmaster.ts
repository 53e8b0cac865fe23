// Starts and stops one run of the PostgreSQL server process (the postmaster), and clears away one that an earlier service left.
import { spawn } from 'node:child_process';
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
  /** How it ended, e.g. `signal SIGKILL`; undefined while it runs. */
  readonly end: string | undefined;
  /** Resolves to `end` when it has ended. */
  readonly ended: Promise<string>;
  /** Stops it if it still runs, ever less politely, and resolves when it is gone; safe to call again. */
  stop(): Promise<void>;
}

const POLL_MS = 20;
const PROGRESS_MS = 5_000;
/** Recovery after a crash reads the whole write-ahead log since the last checkpoint. */
const READY_DEADLINE_MS = 120_000;
const LEFTOVER_DEADLINE_MS = 15_000;
/** Fast: end sessions and write everything out. Then immediate: the next start recovers from the log. Then nobody is asked. */
const STOP_LADDER = [
  ['SIGINT', 20_000],
  ['SIGQUIT', 5_000],
  ['SIGKILL', 5_000],
] as const;

/**
 * Resolves when the server accepts connections. If a former postmaster was killed and its backends are still dying,
 * which PostgreSQL detects and refuses, it tries again for 15 s.
 * @throws with the end of the server's log when it stops early or is not ready within 120 s, and when `signal` aborts;
 *   nothing of it runs then.
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
  // Without a look at the command line a stranger that was given the old process id would be stopped.
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
      // A process group of its own: Ctrl-C in a terminal must reach the service alone, which drains before it stops this.
      detached: true,
      // The file itself, no pipe: when the service is killed, a pipe would break under the server's next log line.
      stdio: ['ignore', output, output],
      windowsHide: true,
      cwd: '/',
      env: {
        ...CHILD_ENV,
        // PostgreSQL takes postmaster.pid for live when any process of ours has that id, as a thread of this service
        // easily does in a restarted container; an id named here it ignores. What truly keeps two servers off one
        // folder, the shared memory check, it does all the same.
        ...(formerPid === undefined ? {} : { PG_GRANDPARENT_PID: String(formerPid) }),
      },
      ...account,
    },
  );
  child.unref();

  let end: string | undefined;
  const ended = new Promise<string>((resolve) => {
    const finish = (how: string): void => {
      end ??= how;
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
    // Windows has no signals; PostgreSQL imitates them, and pg_ctl knows how to send one.
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
      child.ref(); // Someone waits for the end now: the process must not run out of things to do before it comes.
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

/** postmaster.pid: line 1 is the process id, line 8 (written last) the state. It outlives a postmaster that was killed. */
async function readStatusFile(dataDir: string): Promise<{ pid: number; isReady: boolean } | undefined> {
  const text = await readFile(join(dataDir, 'postmaster.pid'), 'utf8').catch((error: unknown) => {
    // EBUSY, EPERM: Windows, while the server writes it.
    if (hasCode(error, 'ENOENT', 'EBUSY', 'EPERM')) return '';
    throw error;
  });
  const lines = text.split('\n');
  const pid = Number(lines[0]);
  return pid > 0 ? { pid, isReady: lines[7]?.trim() === 'ready' } : undefined;
}

/** Empty when no such process runs. */
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

/** The last ten lines, at most 4 KiB, of what was logged since `start` (bytes). */
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
