// Queries on the registry's audit (db/shared/audit-rows.ts): acts of operators, and events that no tenant's database could
// record. Rows are added and read; no statement changes a row.
import type { Kysely } from 'kysely';
import {
  AUDIT_ORDER,
  auditColumns,
  auditCondition,
  auditRow,
  type AuditEntry,
  type AuditFilters,
  type AuditRecord,
} from '../shared/audit-rows.js';
import { afterPosition, type Position } from '../shared/keyset.js';
import type { Registry } from './registry-schema.js';

export interface CentralAuditEntry extends AuditEntry {
  /** The tenant that the act concerns. */
  readonly tenantId?: string | undefined;
}

/** Adds at least one row. If the act is a write, use the transaction of the act. */
export async function insertAudit(db: Kysely<Registry>, ...entries: readonly CentralAuditEntry[]): Promise<void> {
  await db
    .insertInto('audit')
    .values(entries.map((entry) => ({ ...auditRow(entry), tenant_id: entry.tenantId ?? null })))
    .execute();
}

/** One page of the rows about a tenant, the newest first. The tenant may be removed already. */
export async function listTenantAudit(
  db: Kysely<Registry>,
  page: Omit<AuditFilters, 'target'> & { tenantId: string; after?: Position | undefined; limit: number },
): Promise<AuditRecord[]> {
  const query = db
    .selectFrom('audit')
    .select(auditColumns)
    .where('tenant_id', '=', page.tenantId)
    .where(auditCondition(page));
  return afterPosition(query, AUDIT_ORDER, page.after, page.limit).execute();
}
