// Precedence: requests that a client waits for run before work ahead of time, which would take disk and processor from them.
import { setTimeout as sleep } from 'node:timers/promises';

export interface Precedence {
  /** Runs work that a client waits for. */
  run<T>(work: () => Promise<T>): Promise<T>;
  /**
   * Waits until no such work has run for a moment. The wait is bounded: otherwise a steady stream of requests would stop all work
   * ahead of time.
   */
  quiet(signal: AbortSignal): Promise<void>;
}

const LOOK_EVERY = 50;

/**
 * @param moment time (ms) without such work that counts as quiet: a client that creates many tenants sends its next request at
 *   once
 * @param patience longest wait (ms)
 */
export function createPrecedence({ moment = 250, patience = 5_000 } = {}): Precedence {
  let running = 0;
  let endedAt = -Infinity;

  return {
    async run(work) {
      running += 1;
      try {
        return await work();
      } finally {
        running -= 1;
        endedAt = performance.now();
      }
    },

    async quiet(signal) {
      const until = performance.now() + patience;
      while ((running > 0 || performance.now() - endedAt < moment) && performance.now() < until && !signal.aborted)
        await sleep(LOOK_EVERY, undefined, { ref: false });
    },
  };
}

/** @returns a function that runs `work` as soon as it is quiet. Calls until then count as one */
export function whenQuiet(precedence: Pick<Precedence, 'quiet'>, signal: AbortSignal, work: () => void): () => void {
  let waits = false;
  return () => {
    if (waits) return;
    waits = true;
    void precedence.quiet(signal).then(() => {
      waits = false;
      work();
    });
  };
}
