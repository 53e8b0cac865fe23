// The marker: it names the tenant of a database, so that a registry row that points to a wrong database never serves it.
import { sql, type Kysely } from 'kysely';
import { SERVER_STATE } from '../driver/proof.js';
import type { TenantDatabase } from './tenant-schema.js';

/** Returns the tenant that a database was made for, as `tenantId`; no row in a template. */
export const MARKER_QUERY = 'select tenant_id as "tenantId" from tenant_marker';

const MARKER_AND_STATE = `select (select tenant_id from tenant_marker limit 1) as "tenantId", ${SERVER_STATE}`;

/**
 * Run on each new connection. One row: `tenantId` (null in a template), the columns of SERVER_STATE, and `schema`, which has the
 * columns of `tenant_schema_version`. As JSON, because the column `needs` may not exist yet.
 */
export const PROOF_QUERY = `${MARKER_AND_STATE}, (select to_jsonb(v) from tenant_schema_version v) as "schema"`;

/** PROOF_QUERY without the schema, also for databases older than the migration that adds `tenant_schema_version`. */
export const PROOF_QUERY_WITHOUT_SCHEMA = MARKER_AND_STATE;

/** Marks a new database. Run it as the owner. @param claim the id of the operation that makes the tenant, if known */
export async function writeMarker(
  db: Kysely<TenantDatabase>,
  tenantId: string,
  claim: string | null = null,
): Promise<void> {
  await db.insertInto('tenant_marker').values({ tenant_id: tenantId, claim }).execute();
}

/** Writes the claim into the marker of this tenant. Returns false if the database has another tenant's marker, or none. */
export async function claimMarker(db: Kysely<TenantDatabase>, tenantId: string, claim: string): Promise<boolean> {
  const claimed = await db
    .updateTable('tenant_marker')
    .set({ claim })
    .where('tenant_id', '=', tenantId)
    .returning('tenant_id')
    .executeTakeFirst();
  return claimed !== undefined;
}

/** The content of a database's marker. */
export interface Marker {
  readonly tenantId: string;
  /** Undefined before the migration that adds it. */
  readonly claim: string | null | undefined;
}

/** The marker of a database; undefined if it has none. */
export async function readMarker(db: Kysely<TenantDatabase>): Promise<Marker | undefined> {
  const {
    rows: [table],
  } = await sql<{ exists: boolean }>`select to_regclass('public.tenant_marker') is not null as exists`.execute(db);
  if (!table?.exists) return undefined;
  // As JSON, because the column `claim` may not exist yet.
  const { rows } = await sql<{ tenantId: string; row: { claim?: string | null } }>`
    select tenant_id as "tenantId", to_jsonb(m) as row from tenant_marker m`.execute(db);
  const [marker] = rows;
  return marker && { tenantId: marker.tenantId, claim: marker.row.claim };
}
