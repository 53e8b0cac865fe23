// Runs commands of the documentation as they are typed: in bash, which stops at the first failure.
import { execFile, spawn } from 'node:child_process';
import { promisify } from 'node:util';
import { eventually } from './service-process.js';

export interface Where {
  readonly cwd: string;
  /** The whole environment, besides PATH and HOME: the caller's settings do not reach the commands. */
  readonly env?: Readonly<Record<string, string>>;
}

/** Bytes. The OpenAPI document alone has hundreds of kilobytes. */
const MAX_OUTPUT = 16 * 1024 * 1024;

/** Runs a script to its end and returns its output. @throws Error with its output if a command fails */
export async function runScript(script: string, where: Where): Promise<string> {
  const options = { ...settings(where), maxBuffer: MAX_OUTPUT };
  const { stdout } = await promisify(execFile)('bash', ['-euo', 'pipefail', '-c', script], options);
  return stdout;
}

export interface RunningScript {
  /** Everything that it has written so far. */
  readonly output: string;
  /** Sends Ctrl-C, and waits until everything that the script started has ended. Safe to call again. */
  interrupt(): Promise<void>;
}

/**
 * Starts a script whose last command keeps running. Waits until its output matches `ready`, at most `deadline` ms.
 *
 * @throws Error with its output if it ends before
 */
export async function startScript(
  script: string,
  ready: RegExp,
  where: Where,
  deadline: number,
): Promise<RunningScript> {
  // Its own process group: Ctrl-C in a terminal reaches all of it.
  const child = spawn('bash', ['-euo', 'pipefail', '-c', script], { ...settings(where), detached: true });
  let output = '';
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding('utf8').on('data', (text: string) => (output += text));
  let ended = false;
  const closed = new Promise<void>((resolve) => {
    child.once('close', () => {
      ended = true;
      resolve();
    });
  });
  const interrupt = async (): Promise<void> => {
    if (!ended && child.pid !== undefined) process.kill(-child.pid, 'SIGINT');
    await closed;
  };
  try {
    await eventually(`output that matches ${String(ready)}`, () => ended || ready.test(output), deadline);
    if (!ready.test(output)) throw new Error('it ended');
  } catch (error) {
    await interrupt();
    throw new Error(`${script}\n${output}`, { cause: error });
  }
  return {
    get output() {
      return output;
    },
    interrupt,
  };
}

function settings({ cwd, env }: Where): { cwd: string; env: NodeJS.ProcessEnv } {
  // The commands share the processor with other tests.
  const own = { PATH: process.env['PATH'], HOME: process.env['HOME'], MAX_EVENT_LOOP_DELAY_MS: '0' };
  return { cwd, env: { ...own, ...env } };
}
