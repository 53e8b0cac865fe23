// Queries on the registry's audit (db/shared/audit-rows.ts): acts of operators, and events that no tenant's database could
// record. Rows are added and read; no statement changes a row.
import { sql, type Kysely } from 'kysely';
import {
  auditColumns,
  auditCondition,
  auditRow,
  NEWEST_FIRST,
  oldestFirst,
  type AuditEntry,
  type AuditFilters,
  type AuditRecord,
  type FollowedPage,
  type PlacedRecord,
} from '../shared/audit-rows.js';
import { afterPosition, type Position } from '../shared/keyset.js';
import type { Registry } from './registry-schema.js';

export interface CentralAuditEntry extends AuditEntry {
  /** The tenant that the act concerns. */
  readonly tenantId?: string | undefined;
}

/** A row of the registry, with the tenant that the act concerns. */
export type CentralRecord = AuditRecord & { readonly tenantId: string | null };

export interface CentralFilters extends AuditFilters {
  /** Only rows about this tenant, which may be removed already. */
  readonly tenant?: string | undefined;
}

const columns = [...auditColumns, 'tenant_id as tenantId'] as const;

/** Adds at least one row. If the act is a write, use the transaction of the act. */
export async function insertAudit(db: Kysely<Registry>, ...entries: readonly CentralAuditEntry[]): Promise<void> {
  await db
    .insertInto('audit')
    .values(entries.map((entry) => ({ ...auditRow(entry), tenant_id: entry.tenantId ?? null })))
    .execute();
}

/** One page, the newest first. */
export async function listCentralAudit(
  db: Kysely<Registry>,
  page: CentralFilters & { after?: Position | undefined; limit: number },
): Promise<CentralRecord[]> {
  return afterPosition(about(db, page).where(auditCondition(page)), NEWEST_FIRST, page.after, page.limit).execute();
}

/** One page, the oldest first, that no later row comes before. */
export async function followCentralAudit(
  db: Kysely<Registry>,
  page: CentralFilters & { after: Position; limit: number },
): Promise<FollowedPage<CentralRecord & PlacedRecord>> {
  return oldestFirst(db, about(db, page), auditCondition(page), page.after, page.limit);
}

/** All rows, or those about one tenant. The place of a page is one of these rows: a tenant sees no place of others' rows. */
function about(db: Kysely<Registry>, { tenant }: CentralFilters) {
  const query = db.selectFrom('audit').select(columns);
  return tenant === undefined ? query : query.where('tenant_id', '=', tenant);
}

/** Sets how many days rows are kept; 0 keeps them for ever. Run it as the registry's owner. */
export async function keepAuditFor(db: Kysely<Registry>, days: number): Promise<void> {
  await sql`update audit_retention set days = ${days} where days <> ${days}`.execute(db);
}

/**
 * Removes the oldest rows that are kept no longer, at most `most` and at most 1,000, and never the newest row. Returns how many were
 * removed.
 */
export async function removeExpiredCentralAudit(db: Kysely<Registry>, most: number): Promise<number> {
  const { rows } = await sql<{ removed: number }>`select remove_expired_audit(${most}) as removed`.execute(db);
  return rows[0]?.removed ?? 0;
}
