// What the role that the service reads and writes the registry with may do there: rows, and nothing else. The registry's
// owner, who runs its migrations, is another role, so that the service cannot rewrite its own audit. Run after every
// migration, so that a new table needs no line of its own; one whose rows must stay as they are has one.
import { sql, type Kysely } from 'kysely';
import { MIGRATION_SCHEMA, MIGRATION_TABLE } from '../shared/migrator.js';
import type { Registry } from './registry-schema.js';

/** Gives the service's role its rights, in one transaction; to be run as the owner. Repeating it changes nothing. */
export async function grantServiceRights(db: Kysely<Registry>, serviceRole: string): Promise<void> {
  const role = sql.id(serviceRole);
  await db.transaction().execute(async (trx) => {
    await sql`grant usage on schema public to ${role}`.execute(trx);
    await sql`grant select, insert, update, delete on all tables in schema public to ${role}`.execute(trx);
    await sql`revoke update, delete on audit from ${role}`.execute(trx);
    // The start asks which migrations have run.
    await sql`grant usage on schema ${sql.id(MIGRATION_SCHEMA)} to ${role}`.execute(trx);
    await sql`grant select on ${sql.table(`${MIGRATION_SCHEMA}.${MIGRATION_TABLE}`)} to ${role}`.execute(trx);
  });
}

/** Whether the connected role can change or remove rows of the registry's audit, or give itself the right to. */
export async function canRewriteAudit(db: Kysely<Registry>): Promise<boolean> {
  const { rows } = await sql<{ can: boolean }>`
    select has_table_privilege(oid, 'update, delete, truncate') or pg_has_role(relowner, 'member') as can
    from pg_class where oid = 'audit'::regclass`.execute(db);
  return rows[0]?.can ?? true;
}
