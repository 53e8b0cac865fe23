// Keeps a second service out of a home in use. Otherwise each service would stop the other's PostgreSQL as a left-over.
import { createHash } from 'node:crypto';
import { rmSync } from 'node:fs';
import { connect, createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { hasCode } from './run.js';

export interface Lock {
  release(): Promise<void>;
}

/** Another running service holds the lock. The message names the folder. */
export class HomeInUse extends Error {
  constructor(home: string) {
    super(`${home} is in use by another running service: stop that one, or give this one a folder of its own`);
    this.name = 'HomeInUse';
  }
}

/**
 * Takes the lock of `home` (a real path) until this process ends. The lock is a listening local socket, because the system closes
 * the socket however the process ends. A file with a process id would survive `kill -9`, and the id may be given to another
 * process.
 * @throws HomeInUse if another running service holds the lock
 */
export async function lockHome(home: string): Promise<Lock> {
  const path = lockPath(home);
  const server = createServer((visitor) => visitor.destroy()).unref();
  if (!(await listens(server, path))) {
    if (await answers(path)) throw new HomeInUse(home);
    // A service that ended by kill -9 left this socket. It is removed right after the refusal, so that no new lock of another
    // service is removed.
    rmSync(path, { force: true });
    if (!(await listens(server, path))) throw new HomeInUse(home);
  }
  return {
    release: () =>
      new Promise((resolve) => {
        server.close(() => {
          resolve(); // An error means that the server was closed before.
        });
      }),
  };
}

/**
 * The lock is in `home` itself, so that containers that share `home` as a volume find it. Socket paths are short (104 bytes on
 * macOS).
 */
function lockPath(home: string): string {
  const hash = createHash('sha256').update(home).digest('hex').slice(0, 16);
  if (process.platform === 'win32') return `\\\\.\\pipe\\tenantry-${hash}`;
  const inHome = join(home, 'postgres.lock');
  return Buffer.byteLength(inHome) < 100 ? inHome : join(tmpdir(), `tenantry-${hash}.sock`);
}

/** False if the path is taken. */
async function listens(server: Server, path: string): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const onError = (error: Error): void => {
      if (hasCode(error, 'EADDRINUSE')) resolve(false);
      else
        reject(
          new Error(`Cannot lock the embedded PostgreSQL's folder with ${path}: ${error.message}`, { cause: error }),
        );
    };
    server.once('error', onError);
    // exclusive: otherwise, in a worker of node:cluster, the primary would share one socket among all workers, and exclude none.
    server.listen({ path, exclusive: true }, () => {
      server.off('error', onError);
      resolve(true);
    });
  });
}

/** Whether a service listens at the path. If this process is not allowed to ask, the answer is yes. */
async function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.once('error', (error) => {
      resolve(!hasCode(error, 'ECONNREFUSED', 'ENOENT'));
    });
  });
}
