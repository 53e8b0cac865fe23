// The rollouts of a serving replica: looks every few seconds, as the runner of operations does, whether a rollout of its build is
// under way, and works on it. While none is, a look is one query of a table with at most one unfinished row.
import type { Kysely } from 'kysely';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findRolloutUnderWay } from '../../db/registry/rollouts/rollout-rows.js';
import type { RolloutWorker } from './rollout-worker.js';

export interface Rolling {
  /** Begins to look. */
  begin(): void;
  /** Looks now: a rollout has just begun, or goes on. */
  wake(): void;
  /** Begins no item any more. Resolves when running items have come to their end. */
  close(): Promise<void>;
}

/** Time (ms) between two looks. Up to a fifth of jitter is added. */
const LOOK_EVERY = 5_000;

export function createRolling(deps: {
  readonly registry: Kysely<Registry>;
  /** The schema of this build's tenants. */
  readonly target: string;
  readonly worker: RolloutWorker;
  readonly onError: (error: unknown) => void;
  readonly lookEvery?: number;
}): Rolling {
  const { registry, target, worker, onError, lookEvery = LOOK_EVERY } = deps;
  const closing = new AbortController();
  let begun = false;
  let timer: NodeJS.Timeout | undefined;
  let working: Promise<void> | undefined;
  /** Whether a wake came while this replica looked or worked. */
  let woken = false;

  async function look(): Promise<void> {
    const rollout = await findRolloutUnderWay(registry);
    if (rollout?.state !== 'running' || rollout.target !== target || closing.signal.aborted) return;
    await worker.work(rollout, closing.signal);
  }

  function later(ms: number): void {
    if (!begun || closing.signal.aborted) return;
    clearTimeout(timer);
    timer = setTimeout(now, ms * (1 + 0.2 * Math.random()));
    timer.unref();
  }

  function now(): void {
    if (working) {
      woken = true;
      return;
    }
    woken = false;
    working = look()
      .catch(onError)
      .finally(() => {
        working = undefined;
        later(woken ? 0 : lookEvery);
      });
  }

  return {
    begin() {
      begun = true;
      later(0);
    },
    wake() {
      if (begun && !closing.signal.aborted) now();
    },
    async close() {
      closing.abort();
      clearTimeout(timer);
      await working;
    },
  };
}
