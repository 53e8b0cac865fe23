// The lock of a tenant: whoever makes, changes or removes its database holds it for as long as that takes. It is the session's,
// so that it is free again as soon as the process that held it is dead, and not before.
import { sql, type Kysely, type RawBuilder } from 'kysely';
import type { Registry } from './registry-schema.js';

/** `id` is an expression: text or uuid. */
export function tenantLockKey(id: RawBuilder<unknown>): RawBuilder<unknown> {
  return sql`hashtextextended('tenantry tenant ' || (${id})::text, 0)`;
}

/** Takes the lock where it is free, as part of a statement. */
export function takesTenantLock(id: RawBuilder<unknown>): RawBuilder<boolean> {
  return sql<boolean>`pg_try_advisory_lock(${tenantLockKey(id)})`;
}

/** Takes the lock where it is free. @param session one connection, which the lock belongs to */
export async function tryTenantLock(session: Kysely<Registry>, id: string): Promise<boolean> {
  const { rows } = await sql<{ mine: boolean }>`select ${takesTenantLock(sql`${id}`)} as mine`.execute(session);
  return rows[0]?.mine ?? false;
}

/** Takes the lock as soon as it is free, within the longest time that a statement may take. */
export async function waitForTenantLock(session: Kysely<Registry>, id: string): Promise<void> {
  await sql`select pg_advisory_lock(${tenantLockKey(sql`${id}`)})`.execute(session);
}

/** Frees every lock of a connection, those of statements that failed as well: a rollback keeps them. */
export async function freeTenantLocks(session: Kysely<Registry>): Promise<void> {
  await sql`select pg_advisory_unlock_all()`.execute(session);
}
