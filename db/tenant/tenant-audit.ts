// Reads a tenant's audit, and removes what is kept no longer. Rows are added with insertAudit (db/shared/audit-rows.ts), and no
// statement changes a row.
import { sql, type Kysely } from 'kysely';
import {
  auditColumns,
  auditCondition,
  NEWEST_FIRST,
  oldestFirst,
  type AuditFilters,
  type AuditRecord,
  type FollowedPage,
  type PlacedRecord,
} from '../shared/audit-rows.js';
import { afterPosition, type Position } from '../shared/keyset.js';
import type { TenantDatabase } from './tenant-schema.js';

/** One page, the newest first. */
export async function listAudit(
  db: Kysely<TenantDatabase>,
  page: AuditFilters & { after?: Position | undefined; limit: number },
): Promise<AuditRecord[]> {
  const query = db.selectFrom('audit').select(auditColumns).where(auditCondition(page));
  return afterPosition(query, NEWEST_FIRST, page.after, page.limit).execute();
}

/**
 * One page, the oldest first, that no later row comes before: if the page is `placed`, as from 0017_audit_stamp on. Needs
 * 0015_audit_order.
 */
export async function followAudit(
  db: Kysely<TenantDatabase>,
  page: AuditFilters & { after: Position; limit: number },
): Promise<FollowedPage<PlacedRecord>> {
  const query = db.selectFrom('audit').select(auditColumns);
  return oldestFirst(db, query, auditCondition(page), page.after, page.limit);
}

/**
 * Removes the oldest rows of more than so many days ago, at most `most`. The newest row stays: the next one gets its era after it.
 * Run it as the owner. Returns how many were removed.
 */
export async function removeExpiredAudit(db: Kysely<TenantDatabase>, days: number, most: number): Promise<number> {
  // Before 0015_audit_order the audit has no order, and `era` and `xid` are those of `unordered`.
  const { rows } = await sql`
    delete from audit where id in (
      select id from audit
      where at < now() - ${days} * interval '1 day'
        and id <> (
          select (select id from audit order by era desc, xid desc, id desc limit 1)
          from (select 0 as era, 0 as xid) as unordered)
      order by at, id limit ${most})
    returning id`.execute(db);
  return rows.length;
}
