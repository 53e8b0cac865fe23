// Queries on operations. A worker holds the lock of the operation's subject. Each write of a worker names the attempt that it
// belongs to: a worker whose lock was lost while it worked changes nothing after another worker has taken the operation.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import { newId } from '../shared/ids.js';
import { afterPosition, type Position } from '../shared/keyset.js';
import { WITHOUT_STANDBY } from '../shared/synchronous-commit.js';
import type { OperationDetails, OperationState, Registry } from './registry-schema.js';

export interface OperationRecord {
  readonly id: string;
  readonly kind: string;
  readonly subject: string;
  readonly tenantId: string | null;
  readonly clusterId: string | null;
  readonly claim: string | null;
  readonly state: OperationState;
  readonly undoes: boolean;
  readonly step: string | null;
  readonly attempts: number;
  readonly error: string | null;
  readonly progressDone: number | null;
  readonly progressTotal: number | null;
  readonly notBefore: string;
  readonly details: OperationDetails;
  readonly operatorId: string | null;
  readonly worker: string | null;
  readonly createdAt: string;
  readonly updatedAt: string;
  readonly endedAt: string | null;
}

/** The values of a new operation. */
export interface NewOperation {
  readonly kind: string;
  /** The id whose lock its workers take. */
  readonly subject: string;
  readonly tenantId?: string | undefined;
  readonly clusterId?: string | null | undefined;
  readonly claim?: string | undefined;
  readonly details?: OperationDetails | undefined;
  readonly operatorId?: string | undefined;
  /** The replica that begins at once; without it any replica takes the operation soon. */
  readonly worker?: string | undefined;
}

/** An operation as one worker has taken it. */
export type Taken = Pick<OperationRecord, 'id' | 'attempts'>;

const columns = [
  'id',
  'kind',
  'subject',
  'tenant_id as tenantId',
  'cluster_id as clusterId',
  'claim',
  'state',
  'undoes',
  'step',
  'attempts',
  'error',
  // pg returns a bigint as text.
  sql<number | null>`progress_done::float8`.as('progressDone'),
  sql<number | null>`progress_total::float8`.as('progressTotal'),
  'not_before as notBefore',
  'details',
  'operator_id as operatorId',
  'worker',
  'created_at as createdAt',
  'updated_at as updatedAt',
  'ended_at as endedAt',
] as const;

/** Other replicas leave an operation alone for so long (ms) after a worker took it: its lock would refuse them. */
const LEFT_ALONE_FOR = 10_000;

/**
 * Records an operation, in the transaction of the act that begins it.
 *
 * @returns undefined if the subject has an unfinished operation of the same kind
 */
export async function insertOperation(
  db: Kysely<Registry>,
  { kind, subject, tenantId, clusterId, claim, details = {}, operatorId, worker }: NewOperation,
): Promise<OperationRecord | undefined> {
  return db
    .insertInto('operations')
    .values({
      id: newId(),
      kind,
      subject,
      tenant_id: tenantId ?? null,
      cluster_id: clusterId ?? null,
      claim: claim ?? null,
      state: worker === undefined ? 'waiting' : 'running',
      details: JSON.stringify(details),
      operator_id: operatorId ?? null,
      worker: worker ?? null,
      not_before: worker === undefined ? sql<string>`now()` : later(LEFT_ALONE_FOR),
    })
    .onConflict((conflict) => conflict.columns(['subject', 'kind']).where('ended_at', 'is', null).doNothing())
    .returning(columns)
    .executeTakeFirst();
}

/** The values that the database gave to a new operation. */
export interface Recorded {
  readonly operationId: string;
  readonly recordedAt: string;
}

/**
 * A part of a statement that records an operation for each row of `made`, which has the tenant's `id`. It returns `Recorded`.
 *
 * @param key the Idempotency-Key of the request, and the keyed hash of the request
 */
export function recording(
  { kind, clusterId, claim, details = {}, operatorId, worker }: Omit<NewOperation, 'subject' | 'tenantId'>,
  key: { readonly key: string; readonly requestHash: string } | undefined,
): RawBuilder<unknown> {
  return sql`
    insert into operations (id, kind, subject, tenant_id, cluster_id, claim, state, details, operator_id, request_key,
        request_tag, worker, not_before)
      select ${newId()}::uuid, ${kind}::text, id, id, ${clusterId ?? null}::uuid, ${claim ?? null}::uuid, 'running',
        ${JSON.stringify(details)}::jsonb, ${operatorId ?? null}::uuid, ${key?.key ?? null}::text,
        ${key?.requestHash ?? null}::text, ${worker ?? null}::text, ${later(LEFT_ALONE_FOR)}
      from made
      returning id as "operationId", created_at as "recordedAt"`;
}

/** The operation that `recording` has recorded for a tenant. */
export function recorded(
  { kind, clusterId, claim, details = {}, operatorId, worker }: Omit<NewOperation, 'subject' | 'tenantId'>,
  tenantId: string,
  { operationId: id, recordedAt: createdAt }: Recorded,
): OperationRecord {
  return {
    id,
    kind,
    subject: tenantId,
    tenantId,
    clusterId: clusterId ?? null,
    claim: claim ?? null,
    state: 'running',
    undoes: false,
    step: null,
    attempts: 1,
    error: null,
    progressDone: null,
    progressTotal: null,
    notBefore: createdAt,
    details,
    operatorId: operatorId ?? null,
    worker: worker ?? null,
    createdAt,
    updatedAt: createdAt,
    endedAt: null,
  };
}

/** The unique index that a known Idempotency-Key breaks. */
export const REQUEST_KEY_CONSTRAINT = 'operations_request_key';

/** How long a key is kept, as an interval of PostgreSQL. */
const KEY_KEPT_FOR = sql`interval '24 hours'`;

/** The operation that a request with this key began, and the keyed hash of that request. An expired key is freed here. */
export async function findOperationByKey(
  db: Kysely<Registry>,
  { operatorId, key }: { readonly operatorId: string; readonly key: string },
): Promise<{ readonly operation: OperationRecord; readonly requestHash: string } | undefined> {
  const found = await db
    .selectFrom('operations')
    .select([...columns, 'request_tag as requestHash'])
    .select(sql<boolean>`created_at < now() - ${KEY_KEPT_FOR}`.as('over'))
    .where('operator_id', '=', operatorId)
    .where('request_key', '=', key)
    .executeTakeFirst();
  if (!found) return undefined;
  const { requestHash, over, ...operation } = found;
  if (!over) return { operation, requestHash: requestHash ?? '' };
  await freeRequestKeys(db);
  return undefined;
}

/** Frees the Idempotency-Keys that have expired. */
export async function freeRequestKeys(db: Kysely<Registry>): Promise<void> {
  await db
    .updateTable('operations')
    .set({ request_key: null, request_tag: null })
    .where('request_key', 'is not', null)
    .where(sql<boolean>`created_at < now() - ${KEY_KEPT_FOR}`)
    .execute();
}

export async function findOperation(db: Kysely<Registry>, id: string): Promise<OperationRecord | undefined> {
  return db.selectFrom('operations').select(columns).where('id', '=', id).executeTakeFirst();
}

/** The unfinished operation of a kind for a subject. */
export async function findUnfinishedOperation(
  db: Kysely<Registry>,
  subject: string,
  kind: string,
): Promise<OperationRecord | undefined> {
  return db
    .selectFrom('operations')
    .select(columns)
    .where('subject', '=', subject)
    .where('kind', '=', kind)
    .where('ended_at', 'is', null)
    .executeTakeFirst();
}

/**
 * Takes an operation for a worker, which holds the lock of its subject.
 *
 * @returns the operation with the worker's own attempt; undefined if it has ended or waits for a person
 */
export async function takeOperation(
  db: Kysely<Registry>,
  id: string,
  worker: string,
): Promise<OperationRecord | undefined> {
  return db
    .updateTable('operations')
    .set({
      state: sql<OperationState>`case when undoes then 'undoing' else 'running' end`,
      attempts: sql<number>`attempts + 1`,
      worker,
      not_before: later(LEFT_ALONE_FOR),
      updated_at: sql<string>`now()`,
    })
    .where('id', '=', id)
    .where('state', 'in', ['running', 'undoing', 'waiting'])
    .returning(columns)
    .executeTakeFirst();
}

/**
 * Records the step that runs, and how far it is. No standby has to confirm it: whoever continues asks the databases themselves.
 *
 * @returns false if the operation is no longer this worker's
 */
export async function noteStep(
  db: Kysely<Registry>,
  { id, attempts }: Taken,
  { step, undoes, progress }: { step: string; undoes: boolean; progress?: { done: number; total: number } | undefined },
): Promise<boolean> {
  const noted = await db
    .updateTable('operations')
    .set({
      step,
      undoes,
      state: undoes ? 'undoing' : 'running',
      ...(progress && { progress_done: progress.done, progress_total: progress.total }),
      not_before: later(LEFT_ALONE_FOR),
      updated_at: sql<string>`now()`,
    })
    .where('id', '=', id)
    .where('attempts', '=', attempts)
    .where('ended_at', 'is', null)
    .returning(WITHOUT_STANDBY.as('committed'))
    .executeTakeFirst();
  return noted !== undefined;
}

/**
 * Lets an operation wait: for its next attempt, or for a person.
 *
 * @param why.delay ms until the next attempt
 */
export async function pauseOperation(
  db: Kysely<Registry>,
  { id, attempts }: Taken,
  why: {
    readonly state: 'waiting' | 'needs-person';
    readonly step: string;
    readonly undoes: boolean;
    readonly error: string;
    readonly delay: number;
  },
): Promise<boolean> {
  const paused = await db
    .updateTable('operations')
    .set({
      state: why.state,
      step: why.step,
      undoes: why.undoes,
      error: sql<string>`left(${why.error}::text, 500)`,
      not_before: later(why.delay),
      updated_at: sql<string>`now()`,
    })
    .where('id', '=', id)
    .where('attempts', '=', attempts)
    .where('ended_at', 'is', null)
    .returning('id')
    .executeTakeFirst();
  return paused !== undefined;
}

/**
 * Ends an operation, in the transaction of its last step if that is one of the registry. An operation that was undone frees the
 * Idempotency-Key of its request: the same request may begin another one.
 *
 * @param error why it was undone, in plain words
 * @returns false if the operation is no longer this worker's
 */
export async function endOperation(
  db: Kysely<Registry>,
  { id, attempts }: Taken,
  state: 'done' | 'undone',
  error: string | null = null,
): Promise<boolean> {
  const ended = await db
    .updateTable('operations')
    .set({
      state,
      error: sql<string>`left(${error}::text, 500)`,
      ended_at: sql<string>`now()`,
      updated_at: sql<string>`now()`,
      ...(state === 'undone' && { request_key: null, request_tag: null }),
    })
    .where('id', '=', id)
    .where('attempts', '=', attempts)
    .where('ended_at', 'is', null)
    .returning('id')
    .executeTakeFirst();
  return ended !== undefined;
}

/** Lets the next worker take an operation at once, also one that waits for a person. Undefined if it has ended. */
export async function retryOperation(db: Kysely<Registry>, id: string): Promise<OperationRecord | undefined> {
  return db
    .updateTable('operations')
    .set({
      state: sql<OperationState>`case when state = 'needs-person' then 'waiting' else state end`,
      not_before: sql<string>`now()`,
      updated_at: sql<string>`now()`,
    })
    .where('id', '=', id)
    .where('ended_at', 'is', null)
    .returning(columns)
    .executeTakeFirst();
}

/** Ends an operation without its remaining steps. A worker that still runs loses it. Undefined if it has ended. */
export async function abandonOperation(db: Kysely<Registry>, id: string): Promise<OperationRecord | undefined> {
  return db
    .updateTable('operations')
    .set({
      state: 'abandoned',
      attempts: sql<number>`attempts + 1`,
      ended_at: sql<string>`now()`,
      updated_at: sql<string>`now()`,
      request_key: null,
      request_tag: null,
    })
    .where('id', '=', id)
    .where('ended_at', 'is', null)
    .returning(columns)
    .executeTakeFirst();
}

/** An operation that a worker may take: nobody has taken it lately, and its time has come. */
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
 */
export async function listDueOperations(
  db: Kysely<Registry>,
  perCluster: number,
  limit: number,
): Promise<DueOperation[]> {
  const { rows } = await sql<DueOperation>`
    select id, kind, subject, cluster_id as "clusterId", state from (
      select id, kind, subject, cluster_id, state, not_before,
        row_number() over (partition by cluster_id order by not_before, id) as place
      from operations
      where ended_at is null and not_before <= now() and state <> 'needs-person'
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
  let query = db.selectFrom('operations').select(columns);
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

function later(ms: number) {
  return sql<string>`now() + ${ms}::float8 * interval '1 millisecond'`;
}
