// A Redis server for the service: on loopback, and without persistence.
import { randomBytes } from 'node:crypto';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import type { Cleanup } from '../cleanup.js';
import { freePort } from '../measuring/program.js';

export interface RedisServer {
  /** For REDIS_URL. */
  readonly url: string;
  /** Safe to call again. */
  readonly stop: () => Promise<void>;
}

/** Starts the `redis-server` on PATH, and waits until it answers. @throws Error if there is none */
export async function startRedis(cleanup: Cleanup): Promise<RedisServer> {
  const port = await freePort();
  const password = randomBytes(15).toString('hex');
  // Read from standard input: every user of the machine can read arguments.
  const settings = [`port ${port}`, 'bind 127.0.0.1', 'save ""', 'appendonly no', `requirepass ${password}`];
  const server = await cleanup.start(
    async () => {
      const child = spawn('redis-server', ['-'], { stdio: ['pipe', 'ignore', 'inherit'], detached: true });
      await once(child, 'spawn');
      child.stdin.end(`${settings.join('\n')}\n`);
      return child;
    },
    (child) => stop(child),
  );
  return { url: `redis://:${password}@127.0.0.1:${port}`, stop: () => stop(server) };
}

async function stop(child: ReturnType<typeof spawn>): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = once(child, 'exit');
  child.kill('SIGKILL');
  await ended;
}
