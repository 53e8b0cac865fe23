// The Idempotency-Keys of requests that began an operation.
import { sql, type Kysely } from 'kysely';
import type { Registry } from '../registry-schema.js';
import { operationColumns, type OperationRecord } from './operation-rows.js';

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
    .select([...operationColumns, 'request_tag as requestHash'])
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
