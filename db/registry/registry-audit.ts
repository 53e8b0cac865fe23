// Queries on the registry's audit (db/shared/audit-rows.ts): what operators do, and what belongs to no tenant that could keep it. Rows
// are added and read, and there is no statement that changes one.
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
  /** The tenant that it concerns. */
  readonly tenantId?: string | undefined;
}

/** Adds at least one row: in the transaction of the act, where the act is a write. */
export async function insertAudit(db: Kysely<Registry>, ...entries: readonly CentralAuditEntry[]): Promise<void> {
  await db
    .insertInto('audit')
    .values(entries.map((entry) => ({ ...auditRow(entry), tenant_id: entry.tenantId ?? null })))
    .execute();
}

/** One page of what concerns a tenant, the newest first. The tenant may be gone. */
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
