// Queries on requests with an Idempotency-Key that changed something in the registry, and on their answers.
import { sql, type Kysely } from 'kysely';
import type { RequestClaim } from '../shared/audit-rows.js';
import type { Registry } from './registry-schema.js';

export interface SentAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: string;
}

/** What a request changed. */
export interface ActOfRequest {
  /** Null if nothing is recorded of the act. */
  readonly targetId: string | null;
  readonly clusterId: string | null;
  readonly tenantId: string | null;
  /** The operation that it began. */
  readonly operationId: string | null;
}

/** A request whose act is committed. */
export interface CommittedRequest extends ActOfRequest {
  readonly requestHash: string;
  readonly claim: string;
  /** Undefined until it is stored. */
  readonly answer: SentAnswer | undefined;
}

/** How long an answer is kept, as an interval of PostgreSQL. */
const KEPT_FOR = sql`interval '24 hours'`;

/** Expired answers that one request removes. */
const REMOVED_AT_ONCE = 10;

/** The request with this id. If it has expired, it is deleted here. */
export async function findRequest(db: Kysely<Registry>, id: Buffer): Promise<CommittedRequest | undefined> {
  const found = await db
    .selectFrom('request_answers')
    .select(['request_hash as requestHash', 'claim', 'status', 'headers', 'body'])
    .select(['target_id as targetId', 'cluster_id as clusterId', 'tenant_id as tenantId'])
    .select(['operation_id as operationId', sql<boolean>`created_at < now() - ${KEPT_FOR}`.as('over')])
    .where('id', '=', id)
    .executeTakeFirst();
  if (!found) return undefined;
  const { over, status, headers, body, ...request } = found;
  if (!over)
    return { ...request, answer: status === null ? undefined : { status, headers: headers ?? {}, body: body ?? '' } };
  await db.deleteFrom('request_answers').where('id', '=', id).where('claim', '=', found.claim).execute();
  return undefined;
}

/**
 * Whether an owner has `most` rows. They are counted only if their numbers are as far apart, which also rolled-back transactions
 * cause. Requests at the same moment can exceed the number by a few.
 */
export async function hasTooManyRequests(db: Kysely<Registry>, owner: string, most: number): Promise<boolean> {
  const { rows } = await sql<{ full: boolean }>`
    with numbers as materialized (
      select (select number from request_answers where owner = ${owner}::uuid order by number desc limit 1)
        - (select number from request_answers where owner = ${owner}::uuid order by number limit 1) + 1 as apart)
    select case when coalesce(apart, 0) < ${most} then false
      else (select count(*) from (
        select from request_answers where owner = ${owner}::uuid limit ${most}) as counted) >= ${most} end as full
    from numbers`.execute(db);
  return rows[0]?.full ?? false;
}

/**
 * Records a request, in the transaction of its act.
 *
 * @returns false if another attempt at the request has committed its act: then this transaction must roll back
 */
export async function insertRequest(
  trx: Kysely<Registry>,
  { id, owner, requestHash, claim }: RequestClaim,
  { targetId, clusterId, tenantId, operationId }: ActOfRequest,
): Promise<boolean> {
  const act = { target_id: targetId, cluster_id: clusterId, tenant_id: tenantId, operation_id: operationId };
  const inserted = await trx
    .insertInto('request_answers')
    .values({ id, owner, request_hash: requestHash, claim, ...act })
    .onConflict((conflict) => conflict.column('id').doUpdateSet(act).where('request_answers.claim', '=', claim))
    .returning('claim')
    .executeTakeFirst();
  return inserted !== undefined;
}

/** Stores the answer of a request, unless another attempt has recorded the request, and removes some expired answers. */
export async function storeRequestAnswer(
  db: Kysely<Registry>,
  { id, owner, requestHash, claim }: RequestClaim,
  { status, headers, body }: SentAnswer,
): Promise<void> {
  const answer = { status, headers: JSON.stringify(headers), body };
  await db
    .insertInto('request_answers')
    .values({ id, owner, request_hash: requestHash, claim, ...answer })
    .onConflict((conflict) => conflict.column('id').doUpdateSet(answer).where('request_answers.claim', '=', claim))
    .execute();
  await deleteExpiredRequests(db, REMOVED_AT_ONCE);
}

/** Deletes expired requests, the oldest first. Returns how many. */
export async function deleteExpiredRequests(db: Kysely<Registry>, atMost: number): Promise<number> {
  const { numAffectedRows } = await sql`
    delete from request_answers where id in (
      select id from request_answers where created_at < now() - ${KEPT_FOR}
      order by created_at limit ${atMost} for update skip locked)`.execute(db);
  return Number(numAffectedRows ?? 0n);
}
