// Queries on the idempotency keys of requests for a tenant. With them, a repeated request creates nothing a second time.
import { sql, type Kysely } from 'kysely';
import type { Registry } from './registry-schema.js';

/** An operator's key, and the hash of the request that came with it. */
export interface RequestKey {
  readonly operatorId: string;
  readonly key: string;
  readonly requestHash: string;
}

/** How long a key is kept, as an interval of PostgreSQL. */
const KEPT_FOR = sql`interval '24 hours'`;

/** The request and the tenant of a key. An expired key that the sweep has not deleted yet is deleted here. */
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

/** Deletes the keys of a tenant that was never created, so that the same request may create one. */
export async function deleteRequestKeysOf(db: Kysely<Registry>, tenantId: string): Promise<void> {
  await db.deleteFrom('idempotency_keys').where('tenant_id', '=', tenantId).execute();
}

/** Deletes the expired keys. */
export async function sweepRequestKeys(db: Kysely<Registry>): Promise<void> {
  await db
    .deleteFrom('idempotency_keys')
    .where(sql<boolean>`created_at < now() - ${KEPT_FOR}`)
    .execute();
}
