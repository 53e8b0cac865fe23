// Two `npm run migrate` at once give the same rights. PostgreSQL fails the second change of one row of a catalog (XX000, "tuple
// concurrently updated"), so the second one must wait for the first.
import { sql, type RawBuilder } from 'kysely';

/**
 * Waits until no other transaction gives rights to this role in this database. Run it in the transaction, before the first GRANT or
 * ALTER ROLE.
 */
export function waitForGrants(role: string): RawBuilder<unknown> {
  return sql`select pg_advisory_xact_lock(hashtextextended(${sql.lit(`tenantry grants ${role}`)}, 0))`;
}
