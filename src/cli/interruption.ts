// How a command ends when its terminal interrupts it or is closed.
import { constants } from 'node:os';

/** What the next signal does instead of ending the process. */
let instead: (() => void) | undefined;
let listens = false;

/**
 * Ends this process with the shell's exit code for the signal: 130 for Ctrl-C. Without this a signal would end it at once, and the
 * embedded PostgreSQL that it started would go on (src/embedded/postmaster.ts ends it when the process exits).
 */
export function endOnSignals(): void {
  if (listens) return;
  listens = true;
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const)
    process.on(signal, () => {
      const gentle = instead;
      instead = undefined;
      if (gentle) gentle();
      else process.exit(128 + constants.signals[signal]);
    });
  // A terminal that was closed refuses every write.
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined);
}

/** Lets a command end in order at the next signal. The signal after that ends the process. @param end undefined: as before */
export function onNextSignal(end: (() => void) | undefined): void {
  instead = end;
}
