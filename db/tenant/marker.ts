// The marker: whose database this is, so that a wrong database behind a registry row is never served.
import { sql, type Kysely } from 'kysely';
import type { TenantDatabase } from './schema.js';

/** Answers the tenant that a database was made for, as `tenantId`; no row in a template. Asked of each new connection. */
export const MARKER_QUERY = 'select tenant_id as "tenantId" from tenant_marker';

/** Marks a new database; to be run as its owner. */
export async function writeMarker(db: Kysely<TenantDatabase>, tenantId: string): Promise<void> {
  await db.insertInto('tenant_marker').values({ tenant_id: tenantId }).execute();
}

/** The tenant whose database this is; undefined where it has no marker. */
export async function readMarker(db: Kysely<TenantDatabase>): Promise<string | undefined> {
  const { rows } = await sql.raw<{ tenantId: string }>(MARKER_QUERY).execute(db);
  return rows[0]?.tenantId;
}
