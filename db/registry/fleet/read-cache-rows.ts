// Queries on where the fleet caches answers: the store, which tenants are not cached, and what the replicas know of the store.
import { sql, type Kysely } from 'kysely';
import { mayAct } from '../replica-rows.js';
import { WITHOUT_STANDBY } from '../../shared/synchronous-commit.js';
import type { TenantCacheState } from './fleet-tables.js';
import type { Registry } from '../registry-schema.js';

// No standby has to confirm these writes: after a failover the registry is another source, and the row of the store is void.
const AT_ONCE = sql`(select ${WITHOUT_STANDBY}) is not null`;

/** The store that is in force. `NO_STORE` if answers are not cached. */
export interface FleetStoreRow {
  readonly id: string;
  readonly store: string;
  /** The feed's source when the row was written. */
  readonly source: string;
}

export interface TenantCacheRow {
  readonly state: TenantCacheState;
  readonly generation: number;
  /** When the state changed; null if it never has. */
  readonly changedAt: string | null;
}

export const NO_STORE = 'none';

/** @throws DatabaseFault */
export async function readFleetStore(db: Kysely<Registry>): Promise<FleetStoreRow> {
  return db.selectFrom('read_cache').select(['id', 'store', 'source']).executeTakeFirstOrThrow();
}

/**
 * Replaces the store, if it is still the known one. With `alone` also only if no other replica may act.
 *
 * @param formerFor as for `mayAct` (db/registry/replica-rows.ts)
 * @returns whether it was replaced
 * @throws DatabaseFault
 */
export async function replaceFleetStore(
  db: Kysely<Registry>,
  known: string,
  next: { readonly store: string; readonly source: string; readonly alone?: string | undefined },
  formerFor: number,
): Promise<boolean> {
  const { numAffectedRows = 0n } = await sql`
    update read_cache set id = gen_random_uuid(), store = ${next.store}, source = ${next.source}, changed_at = clock_timestamp()
    where id = ${known}::uuid and ${AT_ONCE} and (${next.alone ?? null}::text is null or not exists (
      select from replicas where id <> ${next.alone ?? null}::text and ${mayAct(formerFor)}))
  `.execute(db);
  return numAffectedRows > 0n;
}

/**
 * Ends the use of any store.
 *
 * @returns for how long (ms) none has been in use, by the registry's clock; 0 if one was
 * @throws DatabaseFault
 */
export async function removeFleetStore(db: Kysely<Registry>): Promise<number> {
  // Both parts see the row as it was before.
  const { rows } = await sql<{ unused: number | null }>`
    with removed as (
      update read_cache set id = gen_random_uuid(), store = ${NO_STORE}, changed_at = clock_timestamp()
      where store <> ${NO_STORE} and ${AT_ONCE})
    select (extract(epoch from clock_timestamp() - changed_at) * 1000)::float8 as unused
    from read_cache where store = ${NO_STORE}`.execute(db);
  return Math.max(0, rows[0]?.unused ?? 0);
}

/** What the rows of the other replicas say. */
export interface FleetKnowledge {
  /** Whether every replica that may act knows this id. */
  readonly confirmed: boolean;
  /** Whether a replica that may act takes no part. */
  readonly abstains: boolean;
}

/** @param id the id of the store @param formerFor as for `mayAct` @throws DatabaseFault */
export async function readFleetKnowledge(db: Kysely<Registry>, id: string, formerFor: number): Promise<FleetKnowledge> {
  const { rows } = await sql<FleetKnowledge>`
    select coalesce(bool_and(cache_id is not distinct from ${id}::uuid), true) as confirmed,
      coalesce(bool_or(cache_id is null), false) as abstains
    from replicas where ${mayAct(formerFor)}`.execute(db);
  return rows[0] ?? { confirmed: false, abstains: false };
}

/** A tenant without a row is `on`. @throws DatabaseFault */
export async function readTenantCache(db: Kysely<Registry>, id: string): Promise<TenantCacheRow> {
  const row = await db
    .selectFrom('tenant_caches')
    .select(['state', 'generation', 'changed_at as changedAt'])
    .where('id', '=', id)
    .executeTakeFirst();
  return row ?? { state: 'on', generation: 0, changedAt: null };
}

/** @throws DatabaseFault */
export async function switchTenantCacheOff(db: Kysely<Registry>, id: string): Promise<void> {
  await sql`
    insert into tenant_caches as known (id, state) select ${id}::uuid, 'off' where ${AT_ONCE}
    on conflict (id) do update set state = 'off', changed_at = clock_timestamp() where known.state <> 'off'`.execute(
    db,
  );
}

/** A tenant that rises, since a moment. */
export interface RisingTenant {
  readonly id: string;
  readonly since: string;
}

/**
 * Lets writers of tenants that have been off for some time (ms) invalidate again. Also forgets tenants that are gone.
 *
 * @returns the tenants whose writers will all do so when every replica has heard of it
 * @throws DatabaseFault
 */
export async function raiseTenantCaches(db: Kysely<Registry>, offFor: number, limit: number): Promise<RisingTenant[]> {
  await sql`
    delete from tenant_caches c where not exists (select from tenants where tenants.id = c.id)
      and changed_at < clock_timestamp() - interval '1 day' and ${AT_ONCE}`.execute(db);
  await sql`
    update tenant_caches set state = 'rising', changed_at = clock_timestamp() where id in (
      select id from tenant_caches where state = 'off' and wanted
        and changed_at < clock_timestamp() - ${offFor}::float8 * interval '1 millisecond'
      limit ${limit} for update skip locked) and ${AT_ONCE}`.execute(db);
  const { rows } = await sql<RisingTenant>`
    select id, changed_at::text as since from tenant_caches where state = 'rising' and wanted limit ${limit}`.execute(
    db,
  );
  return rows;
}

/**
 * Caches the answers of rising tenants again, under keys that were never used. A tenant that was off meanwhile, and has only just
 * begun to rise again, keeps rising.
 *
 * @throws DatabaseFault
 */
export async function switchTenantCachesOn(db: Kysely<Registry>, tenants: readonly RisingTenant[]): Promise<number> {
  const { numAffectedRows = 0n } = await sql`
    update tenant_caches c set state = 'on', generation = generation + 1, changed_at = clock_timestamp()
    from unnest(${tenants.map(({ id }) => id)}::uuid[], ${tenants.map(({ since }) => since)}::timestamptz[]) as risen (id, since)
    where c.id = risen.id and c.state = 'rising' and c.wanted and c.changed_at = risen.since and ${AT_ONCE}`.execute(
    db,
  );
  return Number(numAffectedRows);
}

/**
 * Records whether an operator allows the tenant's answers to be cached. If not, the tenant is off at once. If so, the job raises it.
 *
 * @throws DatabaseFault
 */
export async function wantTenantCache(db: Kysely<Registry>, id: string, wanted: boolean): Promise<void> {
  await sql`
    insert into tenant_caches as known (id, state, wanted)
    values (${id}::uuid, ${wanted ? 'on' : 'off'}, ${wanted}::boolean)
    on conflict (id) do update set wanted = excluded.wanted, changed_at = clock_timestamp(),
      state = case when excluded.wanted then known.state else 'off' end
    where known.wanted <> excluded.wanted`.execute(db);
}
