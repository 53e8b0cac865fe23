// The marker: whose database this is, so that a wrong database behind a registry row is never served.
import type { Kysely } from 'kysely';
import type { TenantDatabase } from './schema.js';

/** The tenant that this database was made for, or undefined in a template. */
export async function readMarker(db: Kysely<TenantDatabase>): Promise<string | undefined> {
  const row = await db.selectFrom('tenant_marker').select('tenant_id').executeTakeFirst();
  return row?.tenant_id;
}

/** Marks a new database; to be run as its owner. */
export async function writeMarker(db: Kysely<TenantDatabase>, tenantId: string): Promise<void> {
  await db.insertInto('tenant_marker').values({ tenant_id: tenantId }).execute();
}
