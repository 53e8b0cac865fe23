// Lists of operations: what workers may take, what operators see, and what is old.
import { sql, type Kysely } from 'kysely';
import { afterPosition, type Position } from '../../shared/keyset.js';
import type { OperationState } from './operations-table.js';
import type { Registry } from '../registry-schema.js';
import { livesWithOlderSchema } from '../replica-rows.js';
import { operationColumns, type OperationRecord } from './operation-rows.js';

/** How many operations of a kind have not ended on a server. */
export async function countUnfinishedOperations(
  db: Kysely<Registry>,
  kind: string,
  clusterId: string,
): Promise<number> {
  const { count } = await db
    .selectFrom('operations')
    .select(sql<number>`count(*)::int`.as('count'))
    .where('ended_at', 'is', null)
    .where('kind', '=', kind)
    .where('cluster_id', '=', clusterId)
    .executeTakeFirstOrThrow();
  return count;
}

/** An operation that a worker may take: it is due, and no worker has taken it in the last seconds. */
export interface DueOperation {
  readonly id: string;
  readonly kind: string;
  readonly subject: string;
  readonly clusterId: string | null;
  readonly state: OperationState;
}

/**
 * Operations that may be taken, the longest due first: at most `perCluster` of each server, so that a server that does not answer
 * does not fill the list.
 *
 * An operation whose details name a schema version is for replicas of that build. One of an older build is taken if no replica of
 * an older build lives any more.
 *
 * @param schemaVersion the schema version of tenants that this build makes
 */
export async function listDueOperations(
  db: Kysely<Registry>,
  schemaVersion: string,
  perCluster: number,
  limit: number,
): Promise<DueOperation[]> {
  const { rows } = await sql<DueOperation>`
    select id, kind, subject, cluster_id as "clusterId", state from (
      select id, kind, subject, cluster_id, state, not_before,
        row_number() over (partition by cluster_id order by not_before, id) as place
      from operations
      where ended_at is null and not_before <= now() and state <> 'needs-person' and (
        coalesce(details->>'version', ${schemaVersion}) = ${schemaVersion}
        or details->>'version' < ${schemaVersion} and not exists (
          select from replicas where ${livesWithOlderSchema(schemaVersion)}))
    ) due
    where place <= ${perCluster} order by not_before, id limit ${limit}`.execute(db);
  return rows;
}

export interface OperationFilters {
  readonly kind?: string | undefined;
  readonly state?: OperationState | undefined;
  readonly tenantId?: string | undefined;
  readonly clusterId?: string | undefined;
}

/** One page of operations, by time of creation. */
export async function listOperations(
  db: Kysely<Registry>,
  page: OperationFilters & { direction: 'asc' | 'desc'; after?: Position | undefined; limit: number },
): Promise<OperationRecord[]> {
  const { kind, state, tenantId, clusterId } = page;
  let query = db.selectFrom('operations').select(operationColumns);
  if (kind !== undefined) query = query.where('kind', '=', kind);
  if (state !== undefined) query = query.where('state', '=', state);
  if (tenantId !== undefined) query = query.where('tenant_id', '=', tenantId);
  if (clusterId !== undefined) query = query.where('cluster_id', '=', clusterId);
  const order = { column: 'created_at', id: 'id', direction: page.direction, type: 'timestamptz' } as const;
  return afterPosition(query, order, page.after, page.limit).execute();
}

/** How long operations stay after their end, as an interval of PostgreSQL. */
const KEPT_FOR = sql`interval '30 days'`;

/** Deletes operations that ended long ago. Returns how many; call it again until that is less than `limit`. */
export async function sweepOperations(db: Kysely<Registry>, limit: number): Promise<number> {
  const { numAffectedRows = 0n } = await sql`
    delete from operations where id in (
      select id from operations where ended_at < now() - ${KEPT_FOR} order by ended_at limit ${limit} for update skip locked)`.execute(
    db,
  );
  return Number(numAffectedRows);
}
