// Who goes first: work that somebody waits for, before work ahead of time, which would take the disk and the processor from it.
import { setTimeout as sleep } from 'node:timers/promises';

export interface Precedence {
  /** Does work that somebody waits for. */
  run<T>(work: () => Promise<T>): Promise<T>;
  /** Waits until nobody has waited for such work for a moment; not for ever, or a steady stream would leave none ahead. */
  quiet(signal: AbortSignal): Promise<void>;
}

const LOOK_EVERY = 50;

/**
 * @param moment how long (ms) nobody must have waited: who makes tenants one after the other comes again at once
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
