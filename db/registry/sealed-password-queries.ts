// Queries on the change of a tenant's database password. The next password is stored before the server gets it, and replaces the
// current one after the server has it.
import { sql, type Kysely } from 'kysely';
import type { Registry, TenantStatus } from './registry-schema.js';

/** Statuses in which the tenant's role and database exist. */
const rotatable: readonly TenantStatus[] = ['active', 'suspended'];

/**
 * Stores the ciphertext of the next password. Returns false if the tenant has another status, or if the stored next password is
 * not `replaces`.
 *
 * @param replaces the next password that the caller read; null for none
 */
export async function storeNextPassword(
  db: Kysely<Registry>,
  id: string,
  sealed: string,
  replaces: string | null,
): Promise<boolean> {
  const updated = await db
    .updateTable('tenants')
    .set({ next_db_password: sealed })
    .where('id', '=', id)
    .where('next_db_password', 'is not distinct from', replaces)
    .where('status', 'in', rotatable)
    .returning('id')
    .executeTakeFirst();
  return updated !== undefined;
}

/** Makes the next password the current one. Returns false if `sealed` is no longer the stored next password. */
export async function promoteNextPassword(db: Kysely<Registry>, id: string, sealed: string): Promise<boolean> {
  const updated = await db
    .updateTable('tenants')
    .set({ db_password: sealed, next_db_password: null, password_rotated_at: sql<string>`now()` })
    .where('id', '=', id)
    .where('next_db_password', '=', sealed)
    .returning('id')
    .executeTakeFirst();
  return updated !== undefined;
}

/**
 * Ids of tenants whose password is older than `age` (ms), the oldest first. Left out are tenants with an unfinished rotation: those of
 * a server that does not answer must not fill the list.
 */
export async function listDueRotations(db: Kysely<Registry>, age: number, limit: number): Promise<string[]> {
  const rows = await db
    .selectFrom('tenants')
    .select('id')
    .where('next_db_password', 'is', null)
    .where('status', 'in', rotatable)
    .where('password_rotated_at', '<', sql<string>`now() - ${age} * interval '1 millisecond'`)
    .where((eb) =>
      eb.not(
        eb.exists(
          eb
            .selectFrom('operations')
            .select('operations.id')
            .whereRef('subject', '=', 'tenants.id')
            .where('kind', '=', 'rotate')
            .where('ended_at', 'is', null),
        ),
      ),
    )
    .orderBy('password_rotated_at')
    .limit(limit)
    .execute();
  return rows.map(({ id }) => id);
}
