// A rollout as people see it: in the answers of the API and at the command line.
import type { ItemState, RolloutPace, RolloutState } from '../../db/registry/rollouts/rollouts-table.js';
import type { RolloutItem, RolloutRecord } from './rollout-acts.js';
import type { ItemCounts, RolloutProgress } from './rollout-progress.js';

/** routes/shapes/rollout-shapes.ts says what the fields mean. */
export interface ShownRollout {
  id: string;
  target: string;
  state: RolloutState;
  plan: {
    canary: { count?: number; percent?: number; tenants?: string[] } | null;
    waves: number[];
    budget: number | null;
    pace: RolloutPace;
  };
  wave: number;
  tenantsCurrent: number;
  differences: number;
  firstDifference: string | null;
  reason: string | null;
  requestedBy: string | null;
  createdAt: string;
  updatedAt: string;
  finishedAt: string | null;
}

export interface ShownProgress extends ItemCounts {
  waves: (ItemCounts & { wave: number })[];
  clusters: (ItemCounts & { cluster: string })[];
}

export interface ShownItem {
  tenantId: string;
  slug: string | null;
  wave: number;
  cluster: string;
  state: ItemState;
  attempts: number;
  error: string | null;
  durationMs: number | null;
  updatedAt: string;
}

export function showRollout(rollout: RolloutRecord): ShownRollout {
  const { canary, waves, budget, pace } = rollout.plan;
  return {
    id: rollout.id,
    target: rollout.target,
    state: rollout.state,
    plan: {
      canary: canary && 'tenants' in canary ? { tenants: [...canary.tenants] } : canary,
      waves: [...waves],
      budget,
      pace,
    },
    wave: rollout.wave,
    tenantsCurrent: rollout.tenantsCurrent,
    differences: rollout.differences,
    firstDifference: rollout.firstDifference,
    reason: rollout.reason,
    requestedBy: rollout.requestedBy,
    createdAt: rollout.createdAt,
    updatedAt: rollout.updatedAt,
    finishedAt: rollout.finishedAt,
  };
}

/** A rollout and how far it is. */
export function showWithProgress({
  progress: { waves, clusters, ...all },
  ...rollout
}: RolloutRecord & { readonly progress: RolloutProgress }): ShownRollout & { progress: ShownProgress } {
  return { ...showRollout(rollout), progress: { ...all, waves: [...waves], clusters: [...clusters] } };
}

export function showItem(item: RolloutItem): ShownItem {
  return {
    tenantId: item.tenantId,
    slug: item.slug,
    wave: item.wave,
    cluster: item.place,
    state: item.state,
    attempts: item.attempts,
    error: item.error,
    durationMs: item.durationMs,
    updatedAt: item.updatedAt,
  };
}
