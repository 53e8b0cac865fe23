// Queries on the keys that requests for a tenant came with, so that a request which is sent again makes nothing again.
import { sql, type Kysely } from 'kysely';
import type { Registry } from './registry-schema.js';

/** A key of an operator's, and the hash of the request that it came with. */
export interface RequestKey {
  readonly operatorId: string;
  readonly key: string;
  readonly requestHash: string;
}

/** The constraint behind a key that is known. */
export const IDEMPOTENCY_CONSTRAINT = 'idempotency_keys_pkey';

/** How long a key is kept: as an interval of PostgreSQL. */
const KEPT_FOR = sql`interval '24 hours'`;

/** What a key stands for. One that is over its time is forgotten here, if the sweep has not come by yet. */
export async function findRequestKey(
  db: Kysely<Registry>,
  { operatorId, key }: Pick<RequestKey, 'operatorId' | 'key'>,
): Promise<{ readonly requestHash: string; readonly tenantId: string } | undefined> {
  const found = await db
    .selectFrom('idempotency_keys')
    .select(['request_hash as requestHash', 'tenant_id as tenantId'])
    .select(sql<boolean>`created_at < now() - ${KEPT_FOR}`.as('over'))
    .where('operator_id', '=', operatorId)
    .where('key', '=', key)
    .executeTakeFirst();
  if (!found?.over) return found;
  await sweepRequestKeys(db);
  return undefined;
}

/** Forgets the keys of a tenant that was never made: the same request may make one. */
export async function deleteRequestKeysOf(db: Kysely<Registry>, tenantId: string): Promise<void> {
  await db.deleteFrom('idempotency_keys').where('tenant_id', '=', tenantId).execute();
}

/** Forgets the keys that are over their time. */
export async function sweepRequestKeys(db: Kysely<Registry>): Promise<void> {
  await db
    .deleteFrom('idempotency_keys')
    .where(sql<boolean>`created_at < now() - ${KEPT_FOR}`)
    .execute();
}
