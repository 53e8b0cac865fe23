// The rights of a tenant's runtime role in its database: to read and write rows, and nothing else. The grants run after every
// migration, so a new table needs no line here, unless its rows must never change.
import { sql, type Kysely } from 'kysely';
import { waitForGrants } from '../shared/grant-lock.js';
import type { TenantDatabase } from './tenant-schema.js';

/** The rights on tables and views, in alphabetical order. */
const RIGHTS = ['DELETE', 'INSERT', 'SELECT', 'UPDATE'] as const;

/** The rights that the runtime role does not have, by table. */
const WITHHELD: Readonly<Record<string, readonly (typeof RIGHTS)[number][]>> = {
  tenant_marker: ['DELETE', 'INSERT', 'UPDATE'],
  audit: ['DELETE', 'UPDATE'],
};

/** The rights of the runtime role on a table or a view of the schema `public`, in alphabetical order. */
export function runtimeRightsOn(table: string): readonly string[] {
  return RIGHTS.filter((right) => !WITHHELD[table]?.includes(right));
}

/** Gives the runtime role its rights, in one transaction. Run it as the owner. Repeating it changes nothing. */
export async function grantRuntimeRights(db: Kysely<TenantDatabase>, runtimeRole: string): Promise<void> {
  const role = sql.id(runtimeRole);
  const list = (rights: readonly string[]): ReturnType<typeof sql.raw> => sql.raw(rights.join(', ').toLowerCase());
  const revokes = Object.entries(WITHHELD).map(
    ([table, rights]) => sql`revoke ${list(rights)} on ${sql.table(table)} from ${role}`,
  );
  // One statement of several parts is one transaction, and one round trip.
  await sql`
    ${waitForGrants(runtimeRole)};
    grant usage on schema public to ${role};
    grant ${list(RIGHTS)} on all tables in schema public to ${role};
    ${sql.join(revokes, sql`; `)}`.execute(db);
}
