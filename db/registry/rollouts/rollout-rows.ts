// Queries on rollouts: one row each, and counts of its tenants.
import { sql, type Kysely, type Transaction } from 'kysely';
import { newId } from '../../shared/ids.js';
import { afterPosition, type Position } from '../../shared/keyset.js';
import { rowVersion, type Versioned } from '../../shared/row-version.js';
import { IDLE_DEADLINE } from '../job-locks.js';
import type { Registry } from '../registry-schema.js';
import type { ItemState, RolloutPlan, RolloutState } from './rollouts-table.js';

export interface RolloutRecord {
  readonly id: string;
  readonly target: string;
  readonly state: RolloutState;
  readonly plan: RolloutPlan;
  /** The wave that runs: 0 is the canary. */
  readonly wave: number;
  readonly prepared: boolean;
  readonly checkedWave: number;
  /** Tenants that were at the target when it was recorded. */
  readonly tenantsCurrent: number;
  readonly differences: number;
  readonly firstDifference: string | null;
  readonly reason: string | null;
  readonly requestedBy: string | null;
  readonly createdAt: string;
  readonly updatedAt: string;
  readonly finishedAt: string | null;
}

const columns = [
  'id',
  'target',
  'state',
  'plan',
  'wave',
  'prepared',
  'checked_wave as checkedWave',
  'tenants_current as tenantsCurrent',
  'differences',
  'first_difference as firstDifference',
  'reason',
  'requested_by as requestedBy',
  'created_at as createdAt',
  'updated_at as updatedAt',
  'finished_at as finishedAt',
] as const;

/** The unique index that a second rollout under way breaks. */
export const UNDER_WAY_CONSTRAINT = 'rollouts_under_way';

/** @throws a unique violation of UNDER_WAY_CONSTRAINT */
export async function insertRollout(
  trx: Transaction<Registry>,
  values: Pick<RolloutRecord, 'target' | 'plan' | 'wave' | 'prepared' | 'tenantsCurrent' | 'requestedBy'>,
): Promise<RolloutRecord> {
  return trx
    .insertInto('rollouts')
    .values({
      id: newId(),
      target: values.target,
      state: 'running',
      plan: JSON.stringify(values.plan),
      wave: values.wave,
      prepared: values.prepared,
      tenants_current: values.tenantsCurrent,
      requested_by: values.requestedBy,
    })
    .returning(columns)
    .executeTakeFirstOrThrow();
}

export async function findRollout(db: Kysely<Registry>, id: string): Promise<(RolloutRecord & Versioned) | undefined> {
  return db
    .selectFrom('rollouts')
    .select([...columns, rowVersion('rollouts')])
    .where('id', '=', id)
    .executeTakeFirst();
}

/** The rollout that is running, paused or stopped. */
export async function findRolloutUnderWay(db: Kysely<Registry>): Promise<RolloutRecord | undefined> {
  return db.selectFrom('rollouts').select(columns).where('finished_at', 'is', null).executeTakeFirst();
}

/**
 * Locks a rollout until the transaction ends. All claims and acts take this lock first, so each sees what the others did. If the
 * connection is cut without notice, the server soon ends the transaction, and other workers go on.
 */
export async function lockRollout(trx: Transaction<Registry>, id: string): Promise<RolloutRecord | undefined> {
  return trx
    .selectFrom('rollouts')
    .select(columns)
    .where('id', '=', id)
    .where(sql<boolean>`set_config('idle_in_transaction_session_timeout', ${String(IDLE_DEADLINE)}, true) is not null`)
    .forNoKeyUpdate()
    .executeTakeFirst();
}

/** One page of rollouts, by time of creation. */
export async function listRollouts(
  db: Kysely<Registry>,
  page: {
    readonly direction: 'asc' | 'desc';
    readonly after?: Position | undefined;
    readonly limit: number;
    readonly state?: RolloutState | undefined;
  },
): Promise<RolloutRecord[]> {
  let query = db.selectFrom('rollouts').select(columns);
  if (page.state !== undefined) query = query.where('state', '=', page.state);
  const order = { column: 'created_at', id: 'id', direction: page.direction, type: 'timestamptz' } as const;
  return afterPosition(query, order, page.after, page.limit).execute();
}

/** Changes a rollout whose row the transaction has locked. */
export async function changeRollout(
  trx: Transaction<Registry>,
  id: string,
  changes: {
    readonly state?: RolloutState;
    readonly plan?: RolloutPlan;
    readonly wave?: number;
    readonly prepared?: boolean;
    readonly checkedWave?: number;
    readonly reason?: string | null;
    /** Is added to the number so far. */
    readonly differences?: number;
    readonly firstDifference?: string | undefined;
  },
): Promise<RolloutRecord> {
  const { state, plan, wave, prepared, checkedWave, reason, differences = 0, firstDifference } = changes;
  return trx
    .updateTable('rollouts')
    .set({
      ...(state !== undefined && {
        state,
        finished_at: state === 'done' || state === 'aborted' ? sql<string>`now()` : null,
      }),
      ...(plan !== undefined && { plan: JSON.stringify(plan) }),
      ...(wave !== undefined && { wave }),
      ...(prepared !== undefined && { prepared }),
      ...(checkedWave !== undefined && { checked_wave: checkedWave }),
      ...(reason !== undefined && { reason: sql<string>`left(${reason}::text, 500)` }),
      ...(differences > 0 && { differences: sql<number>`differences + ${differences}::integer` }),
      ...(firstDifference !== undefined && {
        first_difference: sql<string>`coalesce(first_difference, left(${firstDifference}::text, 500))`,
      }),
      updated_at: sql<string>`now()`,
    })
    .where('id', '=', id)
    .returning(columns)
    .executeTakeFirstOrThrow();
}

/** How many items of a rollout are in a state, for each wave and place. */
export interface ItemCount {
  readonly wave: number;
  /** `host:port`. */
  readonly place: string;
  readonly state: ItemState;
  readonly count: number;
}

export async function countItems(db: Kysely<Registry>, rolloutId: string): Promise<ItemCount[]> {
  return db
    .selectFrom('rollout_items')
    .select(['wave', 'place', 'state'])
    .select(sql<number>`count(*)::int`.as('count'))
    .where('rollout_id', '=', rolloutId)
    .groupBy(['wave', 'place', 'state'])
    .orderBy('wave')
    .orderBy('place')
    .orderBy('state')
    .execute();
}

/** Tenants of an older schema, those that are not, and the schemas that are newer. */
export async function countBehind(
  db: Kysely<Registry>,
  target: string,
): Promise<{ readonly behind: number; readonly current: number; readonly newer: readonly string[] }> {
  const { rows } = await sql<{ behind: number; current: number; newer: string[] | null }>`
    select count(*) filter (where schema_version < ${target})::int as behind,
      count(*) filter (where schema_version >= ${target})::int as current,
      array_agg(distinct schema_version) filter (where schema_version > ${target}) as newer
    from tenants where status in ('active', 'suspended', 'deleted')`.execute(db);
  const { behind = 0, current = 0, newer = [] } = rows[0] ?? {};
  return { behind, current, newer: newer ?? [] };
}

/** How long rollouts stay after their end, as an interval of PostgreSQL. */
const KEPT_FOR = sql`interval '90 days'`;

/** Deletes items of rollouts that ended long ago, and then these rollouts. @param limit the most rows. @returns how many */
export async function sweepRollouts(db: Kysely<Registry>, limit: number): Promise<number> {
  const ended = sql`finished_at < now() - ${KEPT_FOR}`;
  const { numAffectedRows: items = 0n } = await sql`
    delete from rollout_items where (rollout_id, tenant_id) in (
      select rollout_id, tenant_id from rollout_items join rollouts on id = rollout_id where ${ended} limit ${limit})`.execute(
    db,
  );
  if (items > 0n) return Number(items);
  const { numAffectedRows: rollouts = 0n } = await sql`
    delete from rollouts where id in (select id from rollouts where ${ended} limit ${limit})`.execute(db);
  return Number(rollouts);
}
