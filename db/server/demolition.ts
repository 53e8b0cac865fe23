// SQL that drops databases and roles. Only src/operations/demolish.ts may import it (tests/unit/architecture.test.ts).
import { sql } from 'kysely';
import type { ClusterDb } from './server-admin.js';
import { hasSqlState } from '../driver/database-fault.js';

const INSUFFICIENT_PRIVILEGE = '42501';

/** Drops a database and ends the sessions in it. It succeeds if the database does not exist. */
export async function dropDatabase(cluster: ClusterDb, name: string): Promise<void> {
  const drop = sql`drop database if exists ${sql.id(name)}`;
  try {
    await sql`${drop} with (force)`.execute(cluster);
  } catch (error) {
    // The provisioner may not end a superuser's session, and an autovacuum worker counts as one. Without FORCE PostgreSQL ends
    // the worker, and waits some seconds for other sessions.
    if (!hasSqlState(error, INSUFFICIENT_PRIVILEGE)) throw error;
    await drop.execute(cluster);
  }
}

/** Drops a runtime role. It succeeds if the role does not exist. The role's database must be gone. */
export async function dropRole(cluster: ClusterDb, name: string): Promise<void> {
  // IF EXISTS requires CREATEROLE before it looks: undoing a refused CREATE ROLE would be refused too.
  const { rows } = await sql`select from pg_roles where rolname = ${name}`.execute(cluster);
  if (rows.length === 0) return;
  await sql`drop role if exists ${sql.id(name)}`.execute(cluster);
}
