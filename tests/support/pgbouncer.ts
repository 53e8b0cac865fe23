// A real PgBouncer in front of a PostgreSQL server of the tests, on a free port and in a temporary folder. The file is the installed
// program's, or one that scripts/build-pgbouncer.sh built.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmod, chown, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import type { ConnectionSettings } from '../../db/driver/client.js';
import { run } from '../../src/embedded/run.js';
import { eventually } from './service-process.js';

export interface PgBouncer {
  readonly host: string;
  readonly port: number;
  /** Changes settings, and reloads them as SIGHUP does. */
  reload(settings: Settings): Promise<void>;
  /** Everything that it has logged. */
  log(): Promise<string>;
  close(): Promise<void>;
}

/** Lines of its section [pgbouncer]; undefined leaves a line out. */
export type Settings = Readonly<Record<string, string | undefined>>;

/** What docs/guide/poolers.md tells to set. */
export const RECOMMENDED: Settings = {
  pool_mode: 'session',
  ignore_startup_parameters: 'options, statement_timeout, lock_timeout, idle_in_transaction_session_timeout',
  server_idle_timeout: '1',
};

/**
 * @param program its file
 * @param server as the superuser, whom PgBouncer asks for the passwords of roles (auth_query)
 * @param target the line of [databases] after `* =`, besides the server's address
 */
export async function startPgBouncer(
  program: string,
  server: ConnectionSettings,
  settings: Settings,
  target = '',
): Promise<PgBouncer> {
  const folder = await mkdtemp(path.join(tmpdir(), 'tenantry-pgbouncer-'));
  await chmod(folder, 0o755);
  const port = await freePort();
  const file = (name: string): string => path.join(folder, name);
  const configure = async (given: Settings): Promise<void> => {
    const all: Settings = {
      listen_addr: '127.0.0.1',
      listen_port: String(port),
      unix_socket_dir: '',
      auth_type: 'scram-sha-256',
      auth_file: file('users.txt'),
      auth_user: server.user,
      auth_query: 'select usename, passwd from pg_shadow where usename = $1',
      max_client_conn: '500',
      default_pool_size: '50',
      logfile: file('log'),
      ...given,
    };
    const lines = Object.entries(all).flatMap(([name, value]) => (value === undefined ? [] : [`${name} = ${value}`]));
    const databases = `[databases]\n* = host=${server.host} port=${server.port} ${target}\n`;
    await writeFile(file('pgbouncer.ini'), `${databases}[pgbouncer]\n${lines.join('\n')}\n`);
  };
  await writeFile(file('users.txt'), `"${server.user}" "${server.password}"\n`);
  await writeFile(file('log'), '');
  await configure(settings);
  // PgBouncer refuses to run as root.
  const account = process.getuid?.() === 0 ? await nobody() : undefined;
  if (account)
    for (const name of ['log', 'users.txt', 'pgbouncer.ini']) await chown(file(name), account.uid, account.gid);
  const child = spawn(program, ['-q', file('pgbouncer.ini')], { cwd: '/', stdio: 'ignore', ...account });
  const ended = once(child, 'exit');
  const close = async (): Promise<void> => {
    if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
    await ended;
    await rm(folder, { recursive: true, force: true });
  };
  const log = (): Promise<string> => readFile(file('log'), 'utf8');
  const logged = async (text: string, times = 1): Promise<void> => {
    await eventually(`PgBouncer logs "${text}"`, async () => {
      if (child.exitCode !== null) throw new Error(`PgBouncer ended:\n${await log()}`);
      return (await log()).split(text).length > times;
    });
  };
  try {
    await logged('process up');
  } catch (error) {
    await close();
    throw error;
  }
  let reloads = 0;
  return {
    host: '127.0.0.1',
    port,
    async reload(changed) {
      await configure(changed);
      child.kill('SIGHUP');
      await logged('got SIGHUP', (reloads += 1));
    },
    log,
    close,
  };
}

async function nobody(): Promise<{ uid: number; gid: number }> {
  return { uid: Number(await run('id', ['-u', 'nobody'])), gid: Number(await run('id', ['-g', 'nobody'])) };
}

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port is free');
  return address.port;
}
