// Queries on the leases of connection slots: how many connections to a cluster each replica may have open. A lease needs no
// standby: what a failover loses of it is written again by the next renewal.
import { sql, type Kysely } from 'kysely';
import { WITHOUT_STANDBY } from '../shared/synchronous-commit.js';
import type { Registry, SlotKind } from './registry-schema.js';

/** What the leases of a cluster are divided by: those of different kinds have nothing to do with each other. */
export interface SlotPurpose {
  /** `host:port`. */
  readonly cluster: string;
  readonly kind: SlotKind;
}

/** What one replica holds. */
export interface SlotLease extends SlotPurpose {
  readonly replicaId: string;
  /** What the replica was told that all replicas may hold together. */
  readonly budget: number;
  readonly slots: number;
  /** How many more it could use at once, and did not get. */
  readonly wanted: number;
  /** Milliseconds since it was renewed, by the registry's clock. */
  readonly silentFor: number;
}

export type LeaseTerms = Pick<SlotLease, 'budget' | 'slots' | 'wanted'>;

/**
 * Longest (ms) that a change waits for another one, and that a replica which stops in the middle of one keeps the others
 * waiting.
 */
const LOCK_TIMEOUT = 1_000;

/** Renews all leases of a replica. Answers every replica's leases for whatever it holds one for; its own as they were before. */
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
 * Changes what a replica holds, alone: no other lease for the same purpose changes before this is on disk.
 *
 * @param decide is given all leases for the purpose, and must answer at once: the others wait
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
 * @returns false where it has been, or is gone
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
 * Gives back what a replica holds, when it has no connection open any more.
 *
 * @param kept what may still be connected on the server: these leases stay until another replica finds nothing of it
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
  // What is read behind the lock must be what is there then, whatever the database's default is.
  return db
    .transaction()
    .setIsolationLevel('read committed')
    .execute(async (trx) => {
      const limit = String(LOCK_TIMEOUT);
      await sql`
        select set_config('lock_timeout', ${limit}, true), set_config('idle_in_transaction_session_timeout', ${limit}, true),
          ${WITHOUT_STANDBY}`.execute(trx);
      await sql`select pg_advisory_xact_lock(hashtextextended(${`slots ${kind} ${cluster}`}, 0))`.execute(trx);
      return work(trx);
    });
}
