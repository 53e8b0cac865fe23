// Queries on the leases of connection slots: how many connections to a cluster each replica may have open. No standby has to
// confirm a lease: the next renewal writes again what a failover loses.
import { sql, type Kysely } from 'kysely';
import { WITHOUT_STANDBY } from '../shared/synchronous-commit.js';
import type { SlotKind } from './fleet/fleet-tables.js';
import type { Registry } from './registry-schema.js';

/** The purpose of leases. Leases of one cluster and different kinds are independent of each other. */
export interface SlotPurpose {
  /** `host:port`. */
  readonly cluster: string;
  readonly kind: SlotKind;
}

/** The lease of one replica. */
export interface SlotLease extends SlotPurpose {
  readonly replicaId: string;
  /** The budget of all replicas together, as this replica knows it. */
  readonly budget: number;
  readonly slots: number;
  /** How many more slots the replica could use at once. */
  readonly wanted: number;
  /** Milliseconds since the last renewal, by the registry's clock. */
  readonly silentFor: number;
}

export type LeaseTerms = Pick<SlotLease, 'budget' | 'slots' | 'wanted'>;

/**
 * Longest time (ms) that a change waits for the changes of other replicas. A change holds the lock for four round trips: 1.2 s if
 * one takes 300 ms.
 */
export const LOCK_TIMEOUT = 2_500;

/** Longest pause (ms) of a change. A replica that stops during a change holds up the others for as long at most. */
const PAUSE_TIMEOUT = 1_000;

/**
 * Renews all leases of a replica. For each cluster and kind in which the replica holds a lease, returns the leases of all
 * replicas. The replica's own leases are returned as they were before.
 */
export async function renewLeases(db: Kysely<Registry>, replicaId: string): Promise<SlotLease[]> {
  return db
    .with('renewed', (nested) =>
      nested
        .updateTable('slot_leases')
        .set({ renewed_at: sql<string>`clock_timestamp()` })
        .where('replica_id', '=', replicaId)
        .returning(['cluster', 'kind', WITHOUT_STANDBY.as('committed')]),
    )
    .selectFrom('slot_leases as lease')
    .innerJoin('renewed', (join) =>
      join.onRef('renewed.cluster', '=', 'lease.cluster').onRef('renewed.kind', '=', 'lease.kind'),
    )
    .select([...columns, silence.as('silentFor')])
    .execute();
}

/**
 * Changes the lease of a replica under a lock: no other lease of the same purpose changes before this change is on disk.
 *
 * @param decide gets all leases of the purpose, and must return at once, because other replicas wait
 */
export async function changeLease(
  db: Kysely<Registry>,
  { cluster, kind, replicaId }: Pick<SlotLease, 'cluster' | 'kind' | 'replicaId'>,
  decide: (leases: readonly SlotLease[]) => LeaseTerms,
): Promise<void> {
  await alone(db, { cluster, kind }, async (trx) => {
    const leases = await trx
      .selectFrom('slot_leases as lease')
      .select([...columns, silence.as('silentFor')])
      .where('lease.cluster', '=', cluster)
      .where('lease.kind', '=', kind)
      .execute();
    const written = { ...decide(leases), renewed_at: sql<string>`clock_timestamp()` };
    await trx
      .insertInto('slot_leases')
      .values({ cluster, kind, replica_id: replicaId, ...written })
      .onConflict((conflict) => conflict.columns(['cluster', 'kind', 'replica_id']).doUpdateSet(written))
      .execute();
  });
}

/**
 * Removes a lease that has not been renewed for longer than `silentFor` (ms).
 *
 * @returns false if the lease was renewed, or is gone
 */
export async function removeSilentLease(
  db: Kysely<Registry>,
  { cluster, kind, replicaId }: Pick<SlotLease, 'cluster' | 'kind' | 'replicaId'>,
  silentFor: number,
): Promise<boolean> {
  return alone(db, { cluster, kind }, async (trx) => {
    const { numDeletedRows } = await trx
      .deleteFrom('slot_leases')
      .where('cluster', '=', cluster)
      .where('kind', '=', kind)
      .where('replica_id', '=', replicaId)
      .where(silence, '>', silentFor)
      .executeTakeFirst();
    return numDeletedRows > 0n;
  });
}

/**
 * Gives back the leases of a replica that has no open connections left.
 *
 * @param kept purposes with backends that may still be on the server: their leases stay until another replica finds that no
 *   session is left
 */
export async function removeLeases(
  db: Kysely<Registry>,
  replicaId: string,
  kept: readonly SlotPurpose[] = [],
): Promise<void> {
  await db
    .deleteFrom('slot_leases')
    .where('replica_id', '=', replicaId)
    .where((is) => is.not(is.or(kept.map(({ cluster, kind }) => is.and({ cluster, kind })))))
    .returning(WITHOUT_STANDBY.as('committed'))
    .execute();
}

const columns = [
  'lease.cluster',
  'lease.kind',
  'lease.replica_id as replicaId',
  'lease.budget',
  'lease.slots',
  'lease.wanted',
] as const;

const silence = sql<number>`(extract(epoch from clock_timestamp() - renewed_at) * 1000)::float8`;

async function alone<T>(
  db: Kysely<Registry>,
  { cluster, kind }: SlotPurpose,
  work: (trx: Kysely<Registry>) => Promise<T>,
): Promise<T> {
  // Read committed, whatever the database's default is: reads after the lock must see what was committed before the lock was
  // granted.
  return db
    .transaction()
    .setIsolationLevel('read committed')
    .execute(async (trx) => {
      await sql`
        select set_config('lock_timeout', ${String(LOCK_TIMEOUT)}, true),
          set_config('idle_in_transaction_session_timeout', ${String(PAUSE_TIMEOUT)}, true),
          ${WITHOUT_STANDBY}`.execute(trx);
      await sql`select pg_advisory_xact_lock(hashtextextended(${`slots ${kind} ${cluster}`}, 0))`.execute(trx);
      return work(trx);
    });
}
