// Reads a tenant's audit. Rows are added with insertAudit (db/shared/audit-rows.ts), and no statement changes a row.
import type { Kysely } from 'kysely';
import {
  AUDIT_ORDER,
  auditColumns,
  auditCondition,
  type AuditFilters,
  type AuditRecord,
} from '../shared/audit-rows.js';
import { afterPosition, type Position } from '../shared/keyset.js';
import type { TenantDatabase } from './tenant-schema.js';

/** One page, the newest first. */
export async function listAudit(
  db: Kysely<TenantDatabase>,
  page: AuditFilters & { after?: Position | undefined; limit: number },
): Promise<AuditRecord[]> {
  const query = db.selectFrom('audit').select(auditColumns).where(auditCondition(page));
  return afterPosition(query, AUDIT_ORDER, page.after, page.limit).execute();
}
