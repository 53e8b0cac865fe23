// Unfinished rows without an operation: a former build wrote them, or the registry was restored. Each query reads a partial index of
// unfinished rows, and not the table.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import type { Registry } from './registry-schema.js';

/** An unfinished row, and the kind of operation that finishes or undoes it. */
export interface Leftover {
  readonly id: string;
  readonly kind: 'create' | 'adopt' | 'remove' | 'open' | 'rotate' | 'withdraw';
  /** Null for a standby database. */
  readonly tenantId: string | null;
  readonly clusterId: string | null;
  readonly claim: string | null;
}

/**
 * Unfinished rows without an operation, those with the lowest ids first.
 *
 * A row whose operation was abandoned since its last change is none: otherwise abandoning would end nothing.
 *
 * @param only one row, if it is still a leftover
 */
export async function listLeftovers(
  db: Kysely<Registry>,
  limit: number,
  only?: Pick<Leftover, 'id' | 'kind'>,
): Promise<Leftover[]> {
  const { rows } = await sql<Leftover>`
    select id, kind, tenant_id as "tenantId", cluster_id as "clusterId", claim from (
      select id, case when status = 'deleting' then 'remove' when adopts is null then 'create' else 'adopt' end as kind,
          id as tenant_id, cluster_id, claim
        from tenants t where status in ('provisioning', 'deleting') and ${hasNone(['create', 'adopt', 'remove'])}
      union all select id, 'open', id, cluster_id, claim
        from tenants t where restoring and ${hasNone(['open', 'close', 'remove'])}
      union all select id, 'rotate', id, cluster_id, claim
        from tenants t where next_db_password is not null and status <> 'deleting' and ${hasNone(['rotate'])}
      union all select id, 'withdraw', null, cluster_id, null
        from standby_databases t where not ready and not exists (
          select from operations o where o.subject = t.id and o.kind in ('standby', 'withdraw') and o.ended_at is null)
    ) leftover
    where ${only ? sql`id = ${only.id}::uuid and kind = ${only.kind}` : sql`true`}
    order by id limit ${limit}`.execute(db);
  return rows;
}

/** No operation of these kinds works on the tenant `t`, and none was abandoned since the row changed. */
function hasNone(kinds: readonly string[]): RawBuilder<boolean> {
  return sql<boolean>`not exists (
    select from operations o where o.subject = t.id and o.kind = any(${kinds}) and o.ended_at is null
  ) and not exists (
    select from operations o where o.tenant_id = t.id and o.kind = any(${kinds}) and o.state = 'abandoned'
      and o.ended_at >= t.updated_at)`;
}
