// The `tenantry` command on the databases of a test: within the process of the test, as a process of its own from the build, and on a
// terminal.
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { Readable } from 'node:stream';
import { inject, vi } from 'vitest';
import { runTenantry } from '../../src/cli/tenantry.js';
import { within } from '../../src/lib/deadline.js';
import { urlOf } from './app.js';
import type { TestCluster } from './cluster.js';
import { ROOT } from './docs.js';
import { eventually } from './service-process.js';

export interface Ran {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** The environment of a command on a registry, with the keys of the services of tests. */
export function environmentFor(
  registry: string,
  dataDir: string,
  { superuser, registryService, provisioner }: TestCluster = inject('cluster'),
): Record<string, string> {
  return {
    DATA_DIR: dataDir,
    DATABASE_URL: urlOf({ ...superuser, ...registryService, database: registry }),
    TENANT_DATABASE_URL: urlOf(provisioner),
    ENCRYPTION_KEYS: `test:${Buffer.alloc(32, 7).toString('base64')}`,
    STANDBY_DATABASES: '0',
  };
}

/** Longest run (ms) of a command. The tests after one that hangs would wait for ever. */
const DEADLINE = 150_000;

/** The command before the one that runs: two would share the environment and the output of this process. */
let former: Promise<unknown> = Promise.resolve();

/**
 * Runs `tenantry` to its end within this process, without a terminal. A process of its own would first load the service, which takes a
 * second.
 *
 * @param input what it reads from standard input
 */
export async function tenantry(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  input = '',
): Promise<Ran> {
  const ran = former.then(() => withinThisProcess(args, env, input));
  former = ran.catch(() => undefined);
  return ran;
}

async function withinThisProcess(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  input: string,
): Promise<Ran> {
  const written = { stdout: '', stderr: '' };
  const caught =
    (name: keyof typeof written) =>
    (text: string | Uint8Array, ...rest: unknown[]): boolean => {
      written[name] += typeof text === 'string' ? text : Buffer.from(text).toString();
      const told = rest.at(-1);
      if (typeof told === 'function') process.nextTick(told);
      return true;
    };
  const outside = { env: process.env, stdin: Object.getOwnPropertyDescriptor(process, 'stdin') ?? {} };
  const spies = [
    vi.spyOn(process.stdout, 'write').mockImplementation(caught('stdout')),
    vi.spyOn(process.stderr, 'write').mockImplementation(caught('stderr')),
  ];
  process.env = { PATH: process.env['PATH'], HOME: process.env['HOME'], ...env };
  Object.defineProperty(process, 'stdin', {
    value: Readable.from(input === '' ? [] : [Buffer.from(input)]),
    configurable: true,
  });
  try {
    const code = await within(runTenantry(args), DEADLINE, () => new Error(`tenantry ${args.join(' ')} did not end`));
    return { code: code ?? null, ...written };
  } finally {
    process.env = outside.env;
    Object.defineProperty(process, 'stdin', outside.stdin);
    for (const spy of spies) spy.mockRestore();
  }
}

/** Runs `tenantry` to its end as a process of its own, without a terminal. @param input what it reads from standard input */
export async function tenantryProcess(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  input = '',
  nodeArguments: readonly string[] = [],
): Promise<Ran> {
  return startTenantry(args, env, input, nodeArguments).ended;
}

/** Starts `tenantry` without a terminal, for a test that ends it by a signal. */
export function startTenantry(
  args: readonly string[],
  env: Readonly<Record<string, string>>,
  input = '',
  nodeArguments: readonly string[] = [],
): { readonly signal: (signal: NodeJS.Signals) => void; readonly ended: Promise<Ran> } {
  const child = spawn(process.execPath, [...nodeArguments, 'dist/src/cli.js', ...args], {
    cwd: ROOT,
    env: { PATH: process.env['PATH'], HOME: process.env['HOME'], ...env },
  });
  child.stdin.on('error', () => undefined);
  child.stdin.end(input);
  const output = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output.stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (output.stderr += text));
  return {
    signal: (signal) => void child.kill(signal),
    ended: once(child, 'close').then(([code]) => ({ code: code as number | null, ...output })),
  };
}

export interface TerminalRun {
  /** Everything that the terminal shows so far, without colours. */
  readonly text: string;
  type(text: string): void;
  shows(what: string): Promise<void>;
  /** The exit code. */
  readonly ended: Promise<number | null>;
}

/** Runs `tenantry` on a pseudo-terminal, by the program `script`. @param args as they are typed in a shell */
export function tenantryOnTerminal(args: string, env: Readonly<Record<string, string>>): TerminalRun {
  const command = `stty cols 200; exec '${process.execPath}' dist/src/cli.js ${args}`;
  const child: ChildProcess = spawn('script', ['--quiet', '--return', '--flush', '--command', command, '/dev/null'], {
    cwd: ROOT,
    env: { PATH: process.env['PATH'], SHELL: '/bin/sh', ...env },
    // A session of its own: the terminal of the tests is another one.
    detached: true,
  });
  let output = '';
  child.stdout?.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stdin?.on('error', () => undefined);
  // eslint-disable-next-line no-control-regex
  const plain = (): string => output.replaceAll(/\u001b\[[\d;]*\w/g, '').replaceAll('\r\n', '\n');
  return {
    get text() {
      return plain();
    },
    type: (text) => void child.stdin?.write(text),
    shows: (what) => eventually(`${what} in:\n${plain()}`, () => plain().includes(what), 60_000),
    ended: once(child, 'close').then(([code]) => code as number | null),
  };
}
