// The option --wait of commands on a rollout, and the wait.
import { setTimeout as sleep } from 'node:timers/promises';
import { Option } from 'commander';
import type { RolloutActs } from '../../rollouts/rollout-acts.js';
import { progressBar } from '../terminal/progress-bar.js';

export interface Waiting {
  readonly wait?: boolean;
}

/** Time (ms) between two looks. */
const LOOK_EVERY = 500;

export function waitOption(): Option {
  return new Option('--wait', 'wait until it has ended, is paused or has stopped, and show how far it is meanwhile');
}

/** Waits while a rollout runs, with a bar on a terminal. */
export async function waitForRollout(rollouts: Pick<RolloutActs, 'find'>, id: string): Promise<void> {
  const bar = progressBar('migrating tenants');
  try {
    for (;;) {
      const rollout = await rollouts.find(id);
      if (rollout?.state !== 'running') return;
      const { total, done, failed, skipped } = rollout.progress;
      bar.update(done + failed + skipped, total);
      await sleep(LOOK_EVERY);
    }
  } finally {
    bar.end();
  }
}
