// Lowers the priority of the threads that hash passwords. A flood of sign-ins then uses only the time that is left over, and does
// not slow requests or a PostgreSQL on the same machine.
import { pbkdf2 } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { promisify } from 'node:util';

/** Keeps a thread busy for about 40 ms: longer than any other thread is busy while the process waits for this. */
const ROUNDS = 80_000;

/** The lowest priority. With 10, a flood slowed the slowest requests more, and no more people were signed in. */
const NICENESS = 19;

/**
 * Lowers the priority of libuv's thread pool, for the whole life of the process. Linux gives each thread its own priority. The
 * threads of the pool are found by giving them work. On other systems nothing happens. DNS and file reads share these threads,
 * but cost almost no time.
 *
 * @param size number of threads in the pool
 * @returns the ids of the threads
 */
export async function lowerPoolPriority(size: number): Promise<readonly number[]> {
  if (process.platform !== 'linux') return [];
  // The first round is not measured: V8's own threads finish compiling what the start has left them.
  await occupy(size);
  const before = cpuTimes();
  await occupy(size);
  const worked = ([thread, time]: readonly [number, number]): number => time - (before.get(thread) ?? 0);
  const pool = [...cpuTimes()]
    .filter(([thread]) => thread !== process.pid)
    .sort((one, other) => worked(other) - worked(one))
    .slice(0, size)
    .map(([thread]) => thread);
  for (const thread of pool) setPriority(thread, NICENESS);
  return pool;
}

async function occupy(size: number): Promise<void> {
  const work = promisify(pbkdf2);
  await Promise.all(Array.from({ length: size }, () => work('', '', ROUNDS, 32, 'sha512')));
}

/** CPU time (ns) that each thread of this process has used. */
function cpuTimes(): Map<number, number> {
  return new Map(
    readdirSync('/proc/self/task').map((thread) => [
      Number(thread),
      Number(readFileSync(`/proc/self/task/${thread}/schedstat`, 'utf8').split(' ')[0]),
    ]),
  );
}
