// The lock of a tenant. A worker holds it while it makes, changes or removes the tenant's database. The lock belongs to the
// session: it is free as soon as the process that held it is dead, and not before.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import type { Registry } from './registry-schema.js';

/** The key of the tenant's lock. @param id an SQL expression of type text or uuid */
export function tenantLockKey(id: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`hashtextextended('tenantry tenant ' || (${id})::text, 0)`;
}

/** Takes the lock if it is free, as part of a statement. */
export function takesTenantLock(id: RawBuilder<unknown>): RawBuilder<boolean> {
  return sql<boolean>`pg_try_advisory_lock(${tenantLockKey(id)})`;
}

/** Takes the lock if it is free. Returns whether it did. @param session one connection, which owns the lock */
export async function tryTenantLock(session: Kysely<Registry>, id: string): Promise<boolean> {
  const { rows } = await sql<{ mine: boolean }>`select ${takesTenantLock(sql`${id}`)} as mine`.execute(session);
  return rows[0]?.mine ?? false;
}

/** Waits for the lock, until the statement timeout. */
export async function waitForTenantLock(session: Kysely<Registry>, id: string): Promise<void> {
  await sql`select pg_advisory_lock(${tenantLockKey(sql`${id}`)})`.execute(session);
}

/** Frees every lock of a connection, also locks taken by statements that failed: a rollback does not free them. */
export async function freeTenantLocks(session: Kysely<Registry>): Promise<void> {
  await sql`select pg_advisory_unlock_all()`.execute(session);
}
