// The rights of a tenant's runtime role in its database: to read and write rows, and nothing else. The grants run after every
// migration, so a new table needs no line here, unless its rows must never change.
import { sql, type Kysely } from 'kysely';
import { waitForGrants } from '../shared/grant-lock.js';
import type { TenantDatabase } from './tenant-schema.js';

/** Gives the runtime role its rights, in one transaction. Run it as the owner. Repeating it changes nothing. */
export async function grantRuntimeRights(db: Kysely<TenantDatabase>, runtimeRole: string): Promise<void> {
  const role = sql.id(runtimeRole);
  // One statement of several parts is one transaction, and one round trip.
  await sql`
    ${waitForGrants(runtimeRole)};
    grant usage on schema public to ${role};
    grant select, insert, update, delete on all tables in schema public to ${role};
    revoke insert, update, delete on tenant_marker from ${role};
    revoke update, delete on audit from ${role}`.execute(db);
}
