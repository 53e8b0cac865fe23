// The wait of commands on a rollout.
import { setTimeout as sleep } from 'node:timers/promises';
import type { RolloutActs } from '../../rollouts/rollout-acts.js';
import { progressBar } from '../terminal/progress-bar.js';

/** Time (ms) between two looks. */
const LOOK_EVERY = 500;

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
