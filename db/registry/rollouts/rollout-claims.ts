// What workers of rollouts read and write. A statement that writes runs in a transaction that has locked the rollout's row first
// (`lockRollout`): so claims of two workers count each other's items, and nothing is claimed after a pause is committed.
import { sql, type Kysely, type RawBuilder, type Transaction } from 'kysely';
import type { Registry } from '../registry-schema.js';
import { listProvisionedAmong, type TenantRecord } from '../tenant-queries.js';

/** The name of the lock that a worker holds in its lock session while its items run. */
export function rolloutWorkerLock(worker: string): string {
  return `tenantry rollout worker ${worker}`;
}

/** The name of the lock of the work between two waves. */
export function rolloutLock(id: string): string {
  return `tenantry rollout ${id}`;
}

/** How an attempt at an item has ended. */
export interface SettledItem {
  readonly tenantId: string;
  /**
   * - `done`: the tenant's database has the schema `version`.
   * - `skipped`: nothing is to be done for the tenant.
   * - `failed`: it is not tried again.
   * - `again`: the attempt has failed, and another one follows.
   * - `released`: it was no attempt: the server is away, or its reserve is in use.
   */
  readonly outcome: 'done' | 'skipped' | 'failed' | 'again' | 'released';
  readonly error: string | null;
  /** ms */
  readonly duration: number;
  /** For `done`: whether open connections must prove again that their build serves the schema (`recordSchema`). */
  readonly renews: boolean;
}

/**
 * Records ended attempts, and the schema of the tenants that were migrated. An item that another worker has taken since is left
 * alone. Repeating it changes nothing.
 *
 * @param version the schema of the tenants that are done
 * @returns how many items have failed for good now
 */
export async function settleItems(
  trx: Transaction<Registry>,
  { id, worker, version }: { readonly id: string; readonly worker: string; readonly version: string },
  settled: readonly SettledItem[],
): Promise<number> {
  if (settled.length === 0) return 0;
  const column = <K extends keyof SettledItem>(key: K): SettledItem[K][] => settled.map((item) => item[key]);
  const { rows } = await sql<{ failed: number }>`
    with ended as (
      select * from unnest(${column('tenantId')}::uuid[], ${column('outcome')}::text[], ${column('error')}::text[],
        ${column('duration').map(Math.round)}::integer[], ${column('renews')}::boolean[])
        as ended (tenant_id, outcome, error, duration, renews)),
    settled as (
      update rollout_items i set
        state = case when ended.outcome in ('again', 'released') then
          case when r.finished_at is null then 'pending' else 'skipped' end else ended.outcome end,
        attempts = i.attempts + case when ended.outcome = 'released' then 0 else 1 end,
        place = coalesce((select db_host || ':' || db_port from tenants where id = i.tenant_id), i.place),
        error = left(ended.error, 500), duration_ms = ended.duration, worker = null, slot = null, claimed_at = null, updated_at = now()
      from ended, rollouts r
      where i.rollout_id = ${id} and r.id = i.rollout_id and i.tenant_id = ended.tenant_id and i.worker = ${worker}
      returning i.tenant_id, ended.outcome, ended.renews),
    migrated as (
      update tenants t set schema_version = ${version}, epoch = t.epoch + case when settled.renews then 1 else 0 end,
        updated_at = now()
      from settled
      where t.id = settled.tenant_id and settled.outcome = 'done' and t.schema_version < ${version}
        and t.status in ('active', 'suspended', 'deleted'))
    select count(*) filter (where outcome = 'failed')::int as failed from settled`.execute(trx);
  return rows[0]?.failed ?? 0;
}

/**
 * The COMMIT does not wait for the disk. If the registry's server crashes, the last half a second is lost: the items run again, and
 * the tenants' databases say that they are migrated. Not for a change of an epoch, which must not go back.
 */
export async function withoutWaitForDisk(trx: Transaction<Registry>): Promise<void> {
  await sql`select set_config('synchronous_commit', 'off', true)`.execute(trx);
}

export async function countFailedItems(db: Kysely<Registry>, id: string): Promise<number> {
  const { failed } = await db
    .selectFrom('rollout_items')
    .select(sql<number>`count(*)::int`.as('failed'))
    .where('rollout_id', '=', id)
    .where('state', '=', 'failed')
    .executeTakeFirstOrThrow();
  return failed;
}

/**
 * Makes items pending again whose worker is dead: no session holds its lock. Also those that `worker` does not know, because the
 * answer to its claim was lost. Such an item of a rollout that has ended is skipped.
 *
 * @param running the tenants whose items run in the worker, or are not settled yet
 */
export async function freeDeadItems(
  trx: Transaction<Registry>,
  worker: string,
  running: readonly string[],
): Promise<void> {
  await sql`
    update rollout_items i set
      state = case when r.finished_at is null then 'pending' else 'skipped' end,
      worker = null, slot = null, claimed_at = null, updated_at = now()
    from rollouts r
    where r.id = i.rollout_id and i.state = 'running'
      and case when i.worker = ${worker} then i.tenant_id <> all (${running}::uuid[]) else not ${isHeld(sql.ref('i.worker'))} end`.execute(
    trx,
  );
}

/** Whether a session holds the lock of the worker. The halves of an advisory lock's number are two columns of pg_locks. */
function isHeld(worker: RawBuilder<unknown>): RawBuilder<boolean> {
  return sql<boolean>`exists (
    select from pg_locks, hashtextextended(${rolloutWorkerLock('')} || ${worker}, 0) as lock
    where locktype = 'advisory' and granted and objsubid = 1
      and database = (select oid from pg_database where datname = current_database())
      and classid = ((lock >> 32) & 4294967295)::oid and objid = (lock & 4294967295)::oid)`;
}

/** A server of tenants, and how many of its databases all workers together migrate at once. */
export interface PlaceToClaim {
  /** `host:port`. */
  readonly place: string;
  readonly atOnce: number;
}

export interface ClaimedItem {
  readonly tenantId: string;
  /** `host:port`. */
  readonly place: string;
  /** Attempts that have failed. */
  readonly attempts: number;
  /** The items with the same number run one after the other. */
  readonly slot: number;
  /** Undefined if the tenant was purged meanwhile. */
  readonly tenant: TenantRecord | undefined;
}

/** The most items of one slot. While one of them runs, the worker need not ask the registry for the next one. */
const MOST_OF_SLOT = 8;

/** A claim leaves enough items for as many other claims, so that workers share a wave, and end it together. */
const CLAIMS = 4;

/**
 * Claims pending items of a wave for a worker. A slot of items takes a place: on each server it fills the places that are free.
 *
 * @param from the number of the first slot. The worker counts on, and gives no number twice
 */
export async function claimItems(
  trx: Transaction<Registry>,
  { id, wave, worker, from }: { readonly id: string; readonly wave: number; readonly worker: string; from: number },
  places: readonly PlaceToClaim[],
): Promise<ClaimedItem[]> {
  if (places.length === 0) return [];
  const isOpen = sql`rollout_id = ${id} and wave = ${wave} and state = 'pending' and place = free.place`;
  const { rows } = await sql<Omit<ClaimedItem, 'tenant'>>`
    with given as (
      select place, at_once - (
        select count(distinct (worker, slot)) from rollout_items r where r.state = 'running' and r.place = given.place) as places
      from unnest(${places.map(({ place }) => place)}::text[], ${places.map(({ atOnce }) => atOnce)}::integer[])
        as given (place, at_once)),
    free as (
      select place, places, (
        select count(*) from (
          select from rollout_items where rollout_id = ${id} and wave = ${wave} and state = 'pending' and place = given.place
          limit places * ${MOST_OF_SLOT * CLAIMS}::integer) few) as open
      from given where places > 0),
    chosen as (
      select tenant_id, ${from}::integer + (number - 1) % free.places as slot from free cross join lateral (
        select tenant_id, row_number() over (order by attempts, tenant_id) as number from rollout_items where ${isOpen}
        order by attempts, tenant_id
        limit free.places * greatest(1, least(${MOST_OF_SLOT}::integer, free.open / (free.places * ${CLAIMS}::integer)))) item)
    update rollout_items i set state = 'running', worker = ${worker}, slot = chosen.slot, claimed_at = now(), updated_at = now()
    from chosen where i.rollout_id = ${id} and i.tenant_id = chosen.tenant_id
    returning i.tenant_id as "tenantId", i.place, i.attempts, i.slot`.execute(trx);
  if (rows.length === 0) return [];
  const tenants = await listProvisionedAmong(
    trx,
    rows.map(({ tenantId }) => tenantId),
  );
  const byId = new Map(tenants.map((tenant) => [tenant.id, tenant]));
  return rows.map((row) => ({ ...row, tenant: byId.get(row.tenantId) }));
}

/** The servers with pending or running items in a wave. Jumps from place to place, and does not read all items. */
export async function listOpenPlaces(db: Kysely<Registry>, id: string, wave: number): Promise<string[]> {
  const { rows } = await sql<{ place: string }>`
    with recursive pending as (
      (select place from rollout_items where rollout_id = ${id} and wave = ${wave} and state = 'pending'
        order by place limit 1)
      union all
      select next.place from pending cross join lateral (
        select place from rollout_items where rollout_id = ${id} and wave = ${wave} and state = 'pending'
          and place > pending.place order by place limit 1) next
    )
    select place from pending
    union select place from rollout_items where rollout_id = ${id} and wave = ${wave} and state = 'running'`.execute(
    db,
  );
  return rows.map(({ place }) => place);
}

/** Puts the pending items of some servers off until the last wave. @returns how many */
export async function deferItems(
  trx: Transaction<Registry>,
  { id, wave, last }: { readonly id: string; readonly wave: number; readonly last: number },
  places: readonly string[],
): Promise<number> {
  const { numUpdatedRows } = await trx
    .updateTable('rollout_items')
    .set({ wave: last })
    .where('rollout_id', '=', id)
    .where('wave', '=', wave)
    .where('state', '=', 'pending')
    .where(sql<boolean>`place = any(${places}::text[])`)
    .executeTakeFirst();
  return Number(numUpdatedRows);
}
