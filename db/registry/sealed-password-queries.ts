// Queries on the change of a tenant's database password. The next password is stored before the server gets it, and replaces the
// current one after the server has it.
import { sql, type Kysely } from 'kysely';
import type { Registry, TenantStatus } from './registry-schema.js';

/** A tenant whose password is due for a change, or whose change is unfinished. */
export interface RotationCandidate {
  readonly id: string;
  readonly host: string;
  readonly port: number;
}

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

/** Changes that were begun and not finished. In random order, so that changes that fail do not hold up the others. */
export async function listUnfinishedRotations(db: Kysely<Registry>, limit: number): Promise<RotationCandidate[]> {
  return candidates(db)
    .where('next_db_password', 'is not', null)
    .where('status', '!=', 'deleting')
    .orderBy(sql`random()`)
    .limit(limit)
    .execute();
}

/** Tenants whose password is older than `age` (ms), the oldest first. */
export async function listDueRotations(db: Kysely<Registry>, age: number, limit: number): Promise<RotationCandidate[]> {
  return candidates(db)
    .where('next_db_password', 'is', null)
    .where('status', 'in', rotatable)
    .where('password_rotated_at', '<', sql<string>`now() - ${age} * interval '1 millisecond'`)
    .orderBy('password_rotated_at')
    .limit(limit)
    .execute();
}

function candidates(db: Kysely<Registry>) {
  return db.selectFrom('tenants').select(['id', 'db_host as host', 'db_port as port']);
}
