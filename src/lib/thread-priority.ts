// The threads on which passwords are hashed step back behind everything else: a flood of sign-ins takes the time that is left
// over, and not that of requests and of a PostgreSQL on the same machine.
import { pbkdf2 } from 'node:crypto';
import { readdirSync, readFileSync } from 'node:fs';
import { setPriority } from 'node:os';
import { promisify } from 'node:util';

/** Keeps a thread busy for some 40 ms: more than any other thread is while the process waits for this. */
const ROUNDS = 80_000;

/** The lowest priority: with 10 the slowest requests noticed a flood more, and no more people were signed in. */
const NICENESS = 19;

/**
 * Lowers the priority of libuv's pool of threads, for good. Linux gives each thread a priority of its own; which threads are
 * the pool's is told by the work that they are given. Elsewhere nothing happens. DNS and files, which share these threads,
 * cost next to no time.
 *
 * @param size threads of the pool
 * @returns the ids of the threads
 */
export async function lowerPoolPriority(size: number): Promise<readonly number[]> {
  if (process.platform !== 'linux') return [];
  // Once without looking: V8's own threads come to the end of what the start has left them to compile.
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

/** CPU time (ns) that each thread of this process has used so far. */
function cpuTimes(): Map<number, number> {
  return new Map(
    readdirSync('/proc/self/task').map((thread) => [
      Number(thread),
      Number(readFileSync(`/proc/self/task/${thread}/schedstat`, 'utf8').split(' ')[0]),
    ]),
  );
}
