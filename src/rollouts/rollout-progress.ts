// How far a rollout is: its items by state, for all, for each wave and for each cluster.
import type { ItemCount, RolloutRecord } from '../../db/registry/rollouts/rollout-rows.js';
import type { ItemState } from '../../db/registry/rollouts/rollouts-table.js';
import { firstWave, lastWave } from './rollout-plan.js';

export type ItemCounts = Readonly<Record<ItemState, number>> & {
  readonly total: number;
  /** How many of 100 have ended: done, failed or skipped. Rounded down, and 100 if there are none. */
  readonly percent: number;
};

export interface RolloutProgress extends ItemCounts {
  /** The canary is wave 0. Waves without tenants are listed too. */
  readonly waves: readonly (ItemCounts & { readonly wave: number })[];
  /** By place, `host:port`. */
  readonly clusters: readonly (ItemCounts & { readonly cluster: string })[];
}

export function progressOf({ plan }: Pick<RolloutRecord, 'plan'>, counts: readonly ItemCount[]): RolloutProgress {
  const waves: RolloutProgress['waves'][number][] = [];
  for (let wave = firstWave(plan); wave <= lastWave(plan); wave += 1)
    waves.push({ wave, ...sum(counts.filter((each) => each.wave === wave)) });
  const clusters = [...new Set(counts.map((each) => each.place))].sort();
  return {
    ...sum(counts),
    waves,
    clusters: clusters.map((cluster) => ({ cluster, ...sum(counts.filter((each) => each.place === cluster)) })),
  };
}

function sum(counts: readonly ItemCount[]): ItemCounts {
  const states = { pending: 0, running: 0, done: 0, failed: 0, skipped: 0 };
  for (const { state, count } of counts) states[state] += count;
  const ended = states.done + states.failed + states.skipped;
  const total = ended + states.pending + states.running;
  return { ...states, total, percent: total === 0 ? 100 : Math.floor((ended * 100) / total) };
}
