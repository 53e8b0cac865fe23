// What a tenant's runtime role may do in its database: read and write rows, and nothing else. Run after every migration,
// so that a new table needs no line of its own; one whose rows must stay as they are has one.
import { sql, type Kysely } from 'kysely';
import type { TenantDatabase } from './tenant-schema.js';

/** Gives the runtime role its rights, in one transaction; to be run as the owner. Repeating it changes nothing. */
export async function grantRuntimeRights(db: Kysely<TenantDatabase>, runtimeRole: string): Promise<void> {
  const role = sql.id(runtimeRole);
  // One statement of several parts is one transaction, and one round trip.
  await sql`
    grant usage on schema public to ${role};
    grant select, insert, update, delete on all tables in schema public to ${role};
    revoke insert, update, delete on tenant_marker from ${role};
    revoke update, delete on audit from ${role}`.execute(db);
}
