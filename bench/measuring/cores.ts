// Gives processes a core of their own, so that a generator and a server do not take the processor from each other.
import { execFileSync } from 'node:child_process';
import { availableParallelism } from 'node:os';
import { childrenOf } from './proc.js';

/** Whether there are two cores, and `taskset` (util-linux) to choose between them. */
function canPin(): boolean {
  if (availableParallelism() < 2) return false;
  try {
    execFileSync('taskset', ['--version'], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
}

const GENERATOR = '0';
const SERVICE = '1';
const ALL = `0-${availableParallelism() - 1}`;

/**
 * Gives the service a core of its own, and the other one to PostgreSQL and the generators, which this process starts.
 *
 * @returns gives all cores back to what goes on
 * @throws Error if there are not two cores, or no `taskset`
 */
export function separate(service: number, postmaster: number): () => void {
  if (!canPin()) throw new Error('this scenario needs two cores, and taskset of util-linux');
  for (const pid of [process.pid, postmaster]) pin(pid, GENERATOR);
  // Last, because the service is a child of this process too.
  pin(service, SERVICE);
  return () => {
    for (const pid of [process.pid, postmaster]) pin(pid, ALL);
  };
}

/** Binds a process to cores, with its threads and its children. Processes that these start later stay there too. */
function pin(pid: number, cores: string): void {
  const bind = (one: number): unknown =>
    execFileSync('taskset', ['--all-tasks', '--cpu-list', '--pid', cores, String(one)], { stdio: 'ignore' });
  bind(pid);
  for (const child of childrenOf(pid))
    try {
      bind(child);
    } catch {
      // It has ended meanwhile.
    }
}
