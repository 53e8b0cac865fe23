// How a command ends when its terminal interrupts it or is closed.
import { constants } from 'node:os';

/**
 * Ends this process with the shell's exit code for the signal: 130 for Ctrl-C. Without this a signal would end it at once, and the
 * embedded PostgreSQL that it started would go on (src/embedded/postmaster.ts ends it when the process exits).
 */
export function endOnSignals(): void {
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => process.exit(128 + constants.signals[signal]));
  // A terminal that was closed refuses every write.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
}
