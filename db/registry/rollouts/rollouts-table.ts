// The tables of rollouts as Kysely sees them. src/rollouts/rollout-worker.ts has the states and their transitions.
import type { Generated, JSONColumnType } from 'kysely';
import type { Timestamp } from '../../shared/shared-tables.js';

export const rolloutStates = ['running', 'paused', 'stopped', 'done', 'aborted'] as const;
export type RolloutState = (typeof rolloutStates)[number];

export const itemStates = ['pending', 'running', 'done', 'failed', 'skipped'] as const;
export type ItemState = (typeof itemStates)[number];

/** The tenants that go first: so many, so many percent, or these. */
export type Canary =
  { readonly count: number } | { readonly percent: number } | { readonly tenants: readonly string[] };

export const rolloutPaces = ['gentle', 'full'] as const;
/** `gentle` gives way to the requests of tenants. */
export type RolloutPace = (typeof rolloutPaces)[number];

export interface RolloutPlan {
  /** The tenants of wave 0; null for none. */
  readonly canary: Canary | null;
  /** Wave 1 and later ones, as cumulative percentages of the tenants that are not in wave 0. Ascending; the last one is 100. */
  readonly waves: readonly number[];
  /** How many tenants may fail. One more stops the rollout. Null: any number. */
  readonly budget: number | null;
  readonly pace: RolloutPace;
}

export interface RolloutsTable {
  id: string;
  /** The newest tenant migration of the build that recorded it. */
  target: string;
  state: RolloutState;
  plan: JSONColumnType<RolloutPlan>;
  /** The wave that runs. */
  wave: number;
  /** Whether templates, standby databases and marks are in order, so that wave 0 may begin. */
  prepared: Generated<boolean>;
  /** The last wave whose schemas were compared with the template; -1 for none. */
  checked_wave: Generated<number>;
  /** Tenants that were at the target when it was recorded. */
  tenants_current: Generated<number>;
  /** Compared tenants whose schema differs from the template. */
  differences: Generated<number>;
  first_difference: string | null;
  /** Why it stopped, in plain words. */
  reason: string | null;
  /** The operator; null if the command or the start recorded it. */
  requested_by: string | null;
  created_at: Timestamp;
  updated_at: Timestamp;
  finished_at: string | null;
}

/** A tenant that was behind. */
export interface RolloutItemsTable {
  rollout_id: string;
  tenant_id: string;
  wave: number;
  /** The server of its database, `host:port`. */
  place: string;
  state: Generated<ItemState>;
  /** Attempts that have failed or ended it. */
  attempts: Generated<number>;
  /** Why the last attempt failed, in plain words. */
  error: string | null;
  duration_ms: number | null;
  /** The name of an advisory lock. The item is the worker's while a session holds it. Null unless it runs. */
  worker: string | null;
  /** The items of a worker with the same number are done one after the other, and take one place of the server. */
  slot: number | null;
  claimed_at: string | null;
  updated_at: Timestamp;
}
