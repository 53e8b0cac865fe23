// Queries on the items of rollouts: one for each tenant that was behind.
import { sql, type Kysely, type RawBuilder, type Transaction } from 'kysely';
import { afterPosition, type Position } from '../../shared/keyset.js';
import type { Registry } from '../registry-schema.js';
import type { Canary, ItemState, RolloutPlan } from './rollouts-table.js';

export interface RolloutItem {
  readonly tenantId: string;
  /** The tenant's slug; null if the tenant was purged. */
  readonly slug: string | null;
  readonly wave: number;
  /** `host:port`. */
  readonly place: string;
  readonly state: ItemState;
  readonly attempts: number;
  readonly error: string | null;
  /** ms */
  readonly durationMs: number | null;
  readonly worker: string | null;
  readonly claimedAt: string | null;
  readonly updatedAt: string;
}

const columns = [
  'tenant_id as tenantId',
  sql<string | null>`(select slug from tenants where tenants.id = rollout_items.tenant_id)`.as('slug'),
  'wave',
  'place',
  'state',
  'attempts',
  'error',
  'duration_ms as durationMs',
  'worker',
  'claimed_at as claimedAt',
  'updated_at as updatedAt',
] as const;

/** Tenants whose database should exist, and that are behind. */
const isBehind = (target: string): RawBuilder<boolean> =>
  sql<boolean>`status in ('active', 'suspended', 'deleted') and schema_version < ${target}`;

const place = sql`db_host || ':' || db_port`;

/**
 * Makes the items of a new rollout, in one statement. Tenants at the target get none. The order within a rollout is random, and
 * another one in each rollout, so that a canary is not always the oldest tenants.
 *
 * @returns how many
 */
export async function insertItems(
  trx: Transaction<Registry>,
  { id, target, plan }: { readonly id: string; readonly target: string; readonly plan: RolloutPlan },
): Promise<number> {
  const { numAffectedRows = 0n } = await sql`
    with behind as (
      select id, ${place} as place, row_number() over (order by md5(id::text || ${id}::text), id) as number,
        count(*) over () as total
      from tenants where ${isBehind(target)}),
    marked as (
      select id, place, number, ${isCanary(plan.canary)} as canary from behind),
    placed as (
      select id, place, canary, row_number() over (partition by canary order by number) as number,
        count(*) over (partition by canary) as total
      from marked)
    insert into rollout_items (rollout_id, tenant_id, wave, place)
    select ${id}::uuid, id, case when canary then 0 else (
        select min(wave) from unnest(${plan.waves}::float8[]) with ordinality as planned (percent, wave)
        where ceil(placed.total * planned.percent / 100) >= placed.number)
      end, place
    from placed`.execute(trx);
  return Number(numAffectedRows);
}

function isCanary(canary: Canary | null): RawBuilder<boolean> {
  if (!canary) return sql<boolean>`false`;
  if ('count' in canary) return sql<boolean>`number <= ${canary.count}::integer`;
  if ('percent' in canary) return sql<boolean>`number <= ceil(total * ${canary.percent}::float8 / 100)`;
  return sql<boolean>`id = any(${canary.tenants}::uuid[])`;
}

/**
 * Adds tenants that are behind by now to a wave: older builds have made them meanwhile, or their database was restored from an older
 * backup after it was migrated.
 *
 * @returns how many
 */
export async function addLateItems(
  trx: Transaction<Registry>,
  { id, target, wave }: { readonly id: string; readonly target: string; readonly wave: number },
): Promise<number> {
  const { numAffectedRows = 0n } = await sql`
    insert into rollout_items as known (rollout_id, tenant_id, wave, place)
    select ${id}::uuid, id, ${wave}::integer, ${place} from tenants where ${isBehind(target)}
    on conflict (rollout_id, tenant_id) do update
      set state = 'pending', wave = excluded.wave, place = excluded.place, attempts = 0, error = null, updated_at = now()
      where known.state = 'done'`.execute(trx);
  return Number(numAffectedRows);
}

/** Failed items are tried again, as if they had not been. They join the wave that runs. @returns how many */
export async function retryFailedItems(trx: Transaction<Registry>, rolloutId: string, wave: number): Promise<number> {
  const { numUpdatedRows } = await trx
    .updateTable('rollout_items')
    .set({ state: 'pending', wave, attempts: 0, updated_at: sql<string>`now()` })
    .where('rollout_id', '=', rolloutId)
    .where('state', '=', 'failed')
    .executeTakeFirst();
  return Number(numUpdatedRows);
}

/** Items that have not begun are not done any more. @returns how many */
export async function skipPendingItems(trx: Transaction<Registry>, rolloutId: string, why: string): Promise<number> {
  const { numUpdatedRows } = await trx
    .updateTable('rollout_items')
    .set({ state: 'skipped', error: why, updated_at: sql<string>`now()` })
    .where('rollout_id', '=', rolloutId)
    .where('state', '=', 'pending')
    .executeTakeFirst();
  return Number(numUpdatedRows);
}

/** One page of a rollout's items, by wave and tenant. */
export async function listRolloutItems(
  db: Kysely<Registry>,
  page: {
    readonly rolloutId: string;
    readonly state?: ItemState | undefined;
    readonly after?: Position | undefined;
    readonly limit: number;
  },
): Promise<RolloutItem[]> {
  let query = db.selectFrom('rollout_items').select(columns).where('rollout_id', '=', page.rolloutId);
  if (page.state !== undefined) query = query.where('state', '=', page.state);
  const order = { column: 'wave', id: 'tenant_id', direction: 'asc', type: 'integer' } as const;
  return afterPosition(query, order, page.after, page.limit).execute();
}

/** The first tenants of a wave that were migrated. */
export async function listDoneTenants(
  db: Kysely<Registry>,
  { rolloutId, wave, limit }: { readonly rolloutId: string; readonly wave: number; readonly limit: number },
): Promise<string[]> {
  const rows = await db
    .selectFrom('rollout_items')
    .select('tenant_id as id')
    .where('rollout_id', '=', rolloutId)
    .where('state', '=', 'done')
    .where('wave', '=', wave)
    .orderBy('tenant_id')
    .limit(limit)
    .execute();
  return rows.map(({ id }) => id);
}

/** One page of the failed tenants that are still behind, by id. */
export async function listFailedTenants(
  db: Kysely<Registry>,
  { rolloutId, target, after, limit }: { rolloutId: string; target: string; after: string | undefined; limit: number },
): Promise<{ readonly id: string; readonly slug: string; readonly error: string | null }[]> {
  let query = db
    .selectFrom('rollout_items')
    .innerJoin('tenants', 'tenants.id', 'rollout_items.tenant_id')
    .select(['tenants.id', 'tenants.slug', 'rollout_items.error'])
    .where('rollout_id', '=', rolloutId)
    .where('state', '=', 'failed')
    .where('schema_version', '<', target);
  if (after !== undefined) query = query.where('tenant_id', '>', after);
  return query.orderBy('tenant_id').limit(limit).execute();
}

/** Pending items of these servers follow their tenants to another server. */
export async function followMovedTenants(
  trx: Transaction<Registry>,
  rolloutId: string,
  places: readonly string[],
): Promise<void> {
  await sql`
    update rollout_items i set place = t.db_host || ':' || t.db_port, updated_at = now()
    from tenants t
    where i.rollout_id = ${rolloutId} and i.state = 'pending' and i.place = any(${places}::text[])
      and t.id = i.tenant_id and i.place <> t.db_host || ':' || t.db_port`.execute(trx);
}
