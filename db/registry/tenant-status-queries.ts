// Queries that change the status of a tenant's row. Each names the statuses, and if necessary the claim, that the row may have.
// Each takes the row's lock, so a step that finds another status after the lock has certainly not been done.
import { sql, type Kysely, type UpdateObject, type UpdateQueryBuilder } from 'kysely';
import { hasVersion, type ExpectedVersions } from '../shared/row-version.js';
import type { Registry, TenantStatus } from './registry-schema.js';
import { graceIsOver } from './tenant-worklists.js';
import { tenantColumns, type TenantRecord } from './tenant-queries.js';

/** The row, after all concurrent changes of it have ended. That includes a change whose answer was lost. */
export async function findSettledTenant(db: Kysely<Registry>, id: string): Promise<TenantRecord | undefined> {
  return db.selectFrom('tenants').select(tenantColumns).where('id', '=', id).forShare().executeTakeFirst();
}

/**
 * Activates a tenant that is being made, with the database that it adopts. `suspended` is for a database that was found closed.
 * Undefined if the tenant is no longer being made.
 */
export async function activateTenant(
  db: Kysely<Registry>,
  { id, claim }: Pick<TenantRecord, 'id' | 'claim'>,
  status: 'active' | 'suspended' = 'active',
): Promise<TenantRecord | undefined> {
  return change(db, id, { status })
    .set({ db_name: sql<string>`coalesce(adopts, db_name)`, adopts: null })
    .where('status', '=', 'provisioning')
    .where('claim', 'is not distinct from', claim)
    .executeTakeFirst();
}

/**
 * Marks a tenant as deleted and stores its previous status. Undefined if the tenant is neither active nor suspended, or has none of
 * the expected versions.
 */
export async function markTenantDeleted(
  db: Kysely<Registry>,
  id: string,
  expected?: ExpectedVersions,
): Promise<TenantRecord | undefined> {
  return change(db, id, { status: 'deleted' })
    .set({ deleted_at: sql<string>`now()`, status_before_deletion: sql<'active' | 'suspended'>`status` })
    .where('status', 'in', ['active', 'suspended'])
    .where(hasVersion('tenants', expected))
    .executeTakeFirst();
}

/**
 * Begins to restore a deleted tenant. From now on this worker or another one finishes the restoration. Undefined if the tenant
 * is not deleted.
 */
export async function beginRestoration(db: Kysely<Registry>, id: string): Promise<TenantRecord | undefined> {
  return change(db, id, { restoring: true, generation: sql<number>`generation + 1` })
    .where('status', '=', 'deleted')
    .where('restoring', '=', false)
    .executeTakeFirst();
}

/** Gives a deleted tenant its previous status. Undefined if the tenant is not being restored. */
export async function finishRestoration(
  db: Kysely<Registry>,
  { id, generation }: Pick<TenantRecord, 'id' | 'generation'>,
): Promise<TenantRecord | undefined> {
  return change(db, id, { status: sql<TenantStatus>`status_before_deletion` })
    .set(NOT_DELETED)
    .where('restoring', '=', true)
    .where('generation', '=', generation)
    .executeTakeFirst();
}

/** Stops an unfinished restoration: the tenant stays deleted, and its grace time begins now. Undefined as above. */
export async function stopRestoration(
  db: Kysely<Registry>,
  id: string,
  expected?: ExpectedVersions,
): Promise<TenantRecord | undefined> {
  return change(db, id, { restoring: false, deleted_at: sql<string>`now()`, generation: sql<number>`generation + 1` })
    .where('restoring', '=', true)
    .where(hasVersion('tenants', expected))
    .executeTakeFirst();
}

/**
 * Marks a tenant as `deleting`, its last status. Undefined if its status is not in `from`.
 *
 * @param only.generation the number of changes that the caller has seen
 * @param only.grace how long (ms) the tenant must have been deleted
 * @param onPurge what happens to its database; by default a database that the service made is dropped, and any other kept
 */
export async function markTenantDeleting(
  db: Kysely<Registry>,
  id: string,
  from: readonly TenantStatus[],
  {
    generation,
    grace,
    onPurge,
  }: {
    readonly generation?: number | undefined;
    readonly grace?: number | undefined;
    readonly onPurge?: TenantRecord['onPurge'] | undefined;
  } = {},
): Promise<TenantRecord | undefined> {
  return (
    change(db, id, { status: 'deleting' })
      .set(NOT_DELETED)
      // Always written: a trigger refuses a former build, which does not write it (migration 0011).
      .set({
        on_purge:
          onPurge ?? sql<'drop' | 'keep'>`case when adopts is null and db_name = db_user then 'drop' else 'keep' end`,
      })
      .where('status', 'in', from)
      .where('restoring', '=', false)
      .$if(generation !== undefined, (query) => query.where('generation', '=', generation ?? 0))
      .$if(grace !== undefined, (query) => query.where(graceIsOver(grace ?? 0)))
      .executeTakeFirst()
  );
}

/**
 * Gives up the removal of a tenant: it is deleted, and its grace time begins now. Its status before is not known any more.
 */
export async function giveUpDeleting(db: Kysely<Registry>, id: string): Promise<TenantRecord | undefined> {
  return change(db, id, { status: 'deleted' })
    .set({ deleted_at: sql<string>`now()`, status_before_deletion: 'suspended', on_purge: null })
    .where('status', '=', 'deleting')
    .executeTakeFirst();
}

/**
 * Gives the row a higher generation than the mark of its database, so that the status in the row decides. The grace time of a
 * deleted tenant begins now.
 */
export async function raiseGeneration(
  db: Kysely<Registry>,
  { id, generation, status }: Pick<TenantRecord, 'id' | 'generation' | 'status'>,
  to: number,
): Promise<TenantRecord | undefined> {
  return change(db, id, {
    generation: to,
    deleted_at: sql<string | null>`case when status = 'deleted' then now() end`,
  })
    .where('generation', '=', generation)
    .where('status', '=', status)
    .executeTakeFirst();
}

/**
 * Gives a row of a former build its claim. A row that has a claim keeps it. The grace time of a deleted tenant then begins
 * again: no mark shows whether the tenant was restored since the row was written.
 */
export async function claimRow(db: Kysely<Registry>, id: string, claim: string): Promise<TenantRecord | undefined> {
  return db
    .updateTable('tenants')
    .set({
      claim: sql<string>`coalesce(claim, ${claim}::uuid)`,
      deleted_at: sql<string | null>`case when claim is null and status = 'deleted' then now() else deleted_at end`,
    })
    .where('id', '=', id)
    .returning(tenantColumns)
    .executeTakeFirst();
}

/** Removes the row of a tenant that is being made or removed. Any other row stays. */
export async function deleteTenantRow(db: Kysely<Registry>, id: string): Promise<void> {
  await db.deleteFrom('tenants').where('id', '=', id).where('status', 'in', ['provisioning', 'deleting']).execute();
}

const NOT_DELETED = { deleted_at: null, status_before_deletion: null } as const;

function change(
  db: Kysely<Registry>,
  id: string,
  values: UpdateObject<Registry, 'tenants', 'tenants'>,
): UpdateQueryBuilder<Registry, 'tenants', 'tenants', TenantRecord> {
  return db
    .updateTable('tenants')
    .set(values)
    .set({ updated_at: sql<string>`now()` })
    .where('id', '=', id)
    .returning(tenantColumns);
}
