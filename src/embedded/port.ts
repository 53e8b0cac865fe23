// Gives a cluster one TCP port for life. The registry's rows contain the port, so it must not change at the next start.
import { randomInt } from 'node:crypto';
import { readFile, rename, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { hasCode } from './run.js';

/** These are below the ranges of outgoing ports (from 32768 or 49152). Otherwise a client's socket could take our port. */
const FIRST_PORT = 20_000;
const LAST_PORT = 29_999;

/**
 * The port in `file`. If there is no such file yet, a free port is chosen at random and written there.
 * @throws if that port is taken by another program, or the file contains no port.
 */
export async function portOf(file: string): Promise<number> {
  const port = await rememberedPort(file);
  if (port === undefined) return choosePort(file);
  if (!(await isFree(port))) {
    throw new Error(
      `Port ${port}, which the embedded PostgreSQL uses at every start (${file}), is taken by another program: stop that program and start again`,
    );
  }
  return port;
}

/** The port in `file`; undefined if there is no such file. @throws if the file contains no port */
export async function rememberedPort(file: string): Promise<number | undefined> {
  const remembered = await readFile(file, 'utf8').catch((error: unknown) => {
    if (hasCode(error, 'ENOENT')) return undefined;
    throw error;
  });
  if (remembered === undefined) return undefined;
  const port = Number(remembered);
  if (!Number.isInteger(port) || port < 1 || port > 65_535)
    throw new Error(`${file} should hold the port of the embedded PostgreSQL, and holds none`);
  return port;
}

async function choosePort(file: string): Promise<number> {
  for (let attempt = 0; attempt < 100; attempt++) {
    const port = randomInt(FIRST_PORT, LAST_PORT + 1);
    if (!(await isFree(port))) continue;
    // The file must be complete and on disk before the port can be written into a registry row.
    await writeFile(`${file}.new`, `${port}\n`, { flush: true });
    await rename(`${file}.new`, file);
    return port;
  }
  throw new Error(`No free port between ${FIRST_PORT} and ${LAST_PORT} was found in 100 tries`);
}

async function isFree(port: number): Promise<boolean> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once('error', (error) => {
      if (hasCode(error, 'EADDRINUSE', 'EACCES')) resolve(false);
      else reject(error);
    });
    probe.listen({ host: '127.0.0.1', port, exclusive: true }, () => {
      probe.close(() => {
        resolve(true);
      });
    });
  });
}
