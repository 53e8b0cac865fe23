// The rollout that is under way in numbers, for GET /status and the metrics. One statement, which returns one row at most.
import { sql, type Kysely } from 'kysely';
import type { Registry } from '../registry-schema.js';
import { itemStates, type ItemState, type RolloutState } from './rollouts-table.js';

export interface RolloutNumbers {
  readonly id: string;
  readonly target: string;
  readonly state: RolloutState;
  readonly wave: number;
  /** Why it stopped, in plain words. */
  readonly reason: string | null;
  /** Tenants that were behind, by the state of their items. */
  readonly items: Readonly<Record<ItemState, number>>;
}

/** @returns undefined if no rollout is running, paused or stopped */
export async function countRolloutUnderWay(db: Kysely<Registry>): Promise<RolloutNumbers | undefined> {
  const { rows } = await sql<RolloutNumbers>`
    select id, target, state, wave, reason, (
      select json_build_object(${sql.join(
        itemStates.map((state) => sql`${sql.lit(state)}, count(*) filter (where items.state = ${state})`),
      )})
      from rollout_items as items where items.rollout_id = rollouts.id) as items
    from rollouts where finished_at is null`.execute(db);
  return rows[0];
}
