// Makes a PostgreSQL server hang: its processes stand still, its sockets stay open, and nobody is told anything.
import type { Cleanup } from '../cleanup.js';
import { childrenOf } from './proc.js';

/**
 * Stops a server's first process and then its children, each of which leads a process group of its own. The first one comes
 * first, so that no child is born meanwhile.
 *
 * @param cleanup lets them go on where nobody else did: a stopped process answers no request to end
 * @returns what lets them go on; safe to call again
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
    // It has ended since.
  }
}
