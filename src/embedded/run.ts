// Runs a helper program (initdb, pg_ctl, useradd …) to its end, in a fixed environment and within a deadline.
import { execFile } from 'node:child_process';
import { promisify } from 'node:util';

/** The OS user that runs a program; if it is empty, the user that runs the service. */
export interface Account {
  uid?: number;
  gid?: number;
}

/**
 * The environment of our programs, instead of the caller's. PGPORT, PGDATA, PGOPTIONS or a locale of the user's shell would
 * change the behaviour of PostgreSQL. On Windows Node itself adds PATH, SystemRoot and the like.
 */
export const CHILD_ENV: NodeJS.ProcessEnv = {
  LC_ALL: 'C',
  TZ: 'UTC',
  ...(process.platform === 'win32' ? {} : { PATH: '/usr/sbin:/usr/bin:/sbin:/bin' }),
};

/**
 * Resolves to what the program wrote on stdout.
 * @throws if the program cannot be started, exits other than 0 (the message then ends with its stderr) or takes over two minutes.
 */
export async function run(program: string, args: readonly string[], account: Account = {}): Promise<string> {
  // cwd: a program that runs as another user may have no access to our current folder.
  const options = { cwd: '/', env: CHILD_ENV, timeout: 120_000, ...account };
  return (await promisify(execFile)(program, args, options)).stdout;
}

/** Whether this is a system error with one of the codes, e.g. `ENOENT`. */
export function hasCode(error: unknown, ...codes: string[]): boolean {
  return error instanceof Error && 'code' in error && codes.includes(String(error.code));
}
