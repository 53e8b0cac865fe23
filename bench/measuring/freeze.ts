// Makes a PostgreSQL server hang: its processes are stopped, its sockets stay open, and its clients get no error.
import type { Cleanup } from '../cleanup.js';
import { childrenOf } from './proc.js';

/**
 * Stops a server's first process and then its children, each of which leads its own process group. The first process is stopped
 * first, so that it starts no child meanwhile.
 *
 * @param cleanup continues the processes if the caller did not: a stopped process does not end when it is asked to
 * @returns a function that continues them; safe to call again
 */
export async function freeze(postmaster: number, cleanup: Cleanup): Promise<() => void> {
  const stopped: number[] = [];
  const thaw = (): void => {
    for (const pid of stopped.splice(0)) signal(pid, 'SIGCONT');
  };
  await cleanup.start(() => {
    const stop = (pid: number): void => {
      stopped.push(pid);
      signal(pid, 'SIGSTOP');
    };
    stop(postmaster);
    childrenOf(postmaster).forEach(stop);
  }, thaw);
  return thaw;
}

function signal(pid: number, name: NodeJS.Signals): void {
  try {
    process.kill(pid, name);
  } catch {
    // The process has ended meanwhile.
  }
}
