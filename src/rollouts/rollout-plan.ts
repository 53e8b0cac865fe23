// The plan of a rollout: who goes first, in which waves the others follow, how many may fail, and how fast it goes.
import type { Canary, RolloutPlan } from '../../db/registry/rollouts/rollouts-table.js';

export type { Canary, RolloutPlan };

/** What is left out has a default: no canary, one wave, any number of failures, and the gentle pace. */
export type RolloutWish = { readonly [Key in keyof RolloutPlan]?: RolloutPlan[Key] | undefined };

const ALL = 100;

/**
 * The plan of a wish. The percentages of the waves are put in order, and a last wave takes the tenants that they leave.
 *
 * @example
 *     planOf({ waves: [50, 10], budget: 2 }); // { canary: null, waves: [10, 50, 100], budget: 2, pace: 'gentle' }
 */
export function planOf({ canary = null, waves = [], budget = null, pace = 'gentle' }: RolloutWish): RolloutPlan {
  const percentages = [...new Set([...waves.filter((percent) => percent > 0 && percent < ALL), ALL])];
  return { canary, waves: percentages.sort((one, other) => one - other), budget, pace };
}

/** The number of the first wave: the canary is wave 0. */
export function firstWave({ canary }: RolloutPlan): number {
  return canary ? 0 : 1;
}

export function lastWave({ waves }: RolloutPlan): number {
  return waves.length;
}
