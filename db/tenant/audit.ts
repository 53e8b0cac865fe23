// Queries on a tenant's audit (db/audit.ts): rows are added and read, and there is no statement that changes one.
import type { Kysely } from 'kysely';
import {
  AUDIT_ORDER,
  auditColumns,
  auditCondition,
  auditRow,
  type AuditEntry,
  type AuditFilters,
  type AuditRecord,
} from '../audit.js';
import { afterPosition, type Position } from '../keyset.js';
import type { TenantDatabase } from './schema.js';

/** Adds at least one row: in the transaction of the act, where the act is a write. */
export async function insertAudit(db: Kysely<TenantDatabase>, ...entries: readonly AuditEntry[]): Promise<void> {
  await db.insertInto('audit').values(entries.map(auditRow)).execute();
}

/** One page, the newest first. */
export async function listAudit(
  db: Kysely<TenantDatabase>,
  page: AuditFilters & { after?: Position | undefined; limit: number },
): Promise<AuditRecord[]> {
  const query = db.selectFrom('audit').select(auditColumns).where(auditCondition(page));
  return afterPosition(query, AUDIT_ORDER, page.after, page.limit).execute();
}
