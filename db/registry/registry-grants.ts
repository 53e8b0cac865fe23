// The rights of the role with which the service uses the registry: to read and write rows, and nothing else. The registry's
// owner, who runs its migrations, is another role, so that the service cannot rewrite its own audit. The grants run after every
// migration, so a new table needs no line here, unless its rows must never change.
import { sql, type Kysely } from 'kysely';
import { waitForGrants } from '../shared/grant-lock.js';
import { MIGRATION_SCHEMA, MIGRATION_TABLE } from '../shared/migrator.js';
import type { Registry } from './registry-schema.js';

/** Gives the service's role its rights, in one transaction. Run it as the owner. Repeating it changes nothing. */
export async function grantServiceRights(db: Kysely<Registry>, serviceRole: string): Promise<void> {
  const role = sql.id(serviceRole);
  await db.transaction().execute(async (trx) => {
    await waitForGrants(serviceRole).execute(trx);
    await sql`grant usage on schema public to ${role}`.execute(trx);
    await sql`grant select, insert, update, delete on all tables in schema public to ${role}`.execute(trx);
    await sql`revoke update, delete on audit from ${role}`.execute(trx);
    // The function removes only what is older than the owner wants to keep.
    await sql`revoke insert, update, delete on audit_retention from ${role}`.execute(trx);
    await sql`grant execute on function remove_expired_audit to ${role}`.execute(trx);
    // At its start the service checks which migrations have run.
    await sql`grant usage on schema ${sql.id(MIGRATION_SCHEMA)} to ${role}`.execute(trx);
    await sql`grant select on ${sql.table(`${MIGRATION_SCHEMA}.${MIGRATION_TABLE}`)} to ${role}`.execute(trx);
  });
}

/** Whether the connected role can change or remove rows of the registry's audit, or grant itself that right. */
export async function canRewriteAudit(db: Kysely<Registry>): Promise<boolean> {
  const { rows } = await sql<{ can: boolean }>`
    select has_table_privilege(oid, 'update, delete, truncate') or pg_has_role(relowner, 'member') as can
    from pg_class where oid = 'audit'::regclass`.execute(db);
  return rows[0]?.can ?? true;
}
