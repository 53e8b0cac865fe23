// Adopts an existing database as a tenant, step by step. A failed step undoes the steps; the database itself is never dropped.
import type { Kysely } from 'kysely';
import { randomUUID } from 'node:crypto';
import { closeToOthers, letGo, reopenToOthers } from '../../db/server/adoption-checks.js';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { findCluster } from '../../db/registry/cluster-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { ADOPTS_CONSTRAINT, isNamed } from '../../db/registry/named.js';
import { registerTenant } from '../../db/registry/standby-rows.js';
import { deleteTenantRow, markTenantDeleting } from '../../db/registry/tenant-status-queries.js';
import { findTenant, TENANT_SLUG_CONSTRAINT, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { createRuntimeRole } from '../../db/server/server-admin.js';
import { DatabaseFault, violatedUniqueConstraint } from '../../db/driver/database-fault.js';
import { changeMark, markText } from '../../db/server/marks.js';
import { latestVersion, migrateToLatest, pendingMigrations } from '../../db/shared/migrator.js';
import { scramVerifier } from '../../db/server/scram.js';
import { grantRuntimeRights } from '../../db/tenant/tenant-grants.js';
import { writeMarker } from '../../db/tenant/marker.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { setRoles } from '../../db/tenant/user-roles.js';
import { deleteUser, insertUser, EMAIL_CONSTRAINT } from '../../db/tenant/user-queries.js';
import { confirmOperator } from '../audit/operator-act.js';
import { AppError } from '../errors.js';
import { adoptable, unfit } from './adoptable.js';
import { dismiss } from './demolish.js';
import type { RecordEvent } from '../observability/security-events.js';
import type { Envelope } from '../secrets/envelope.js';
import { newDatabaseName, newDatabasePassword, newTenantId, TENANT_SCRAM_ITERATIONS } from '../tenants/tenant-ids.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import { adoptionFailure, type Settled } from './making-outcome.js';
import { activate, type Making } from './making.js';
import type { NewTenant } from './new-tenant.js';
import type { PlacedProvisioner, Provisioners } from '../clusters/provisioners.js';

export interface Adoption {
  /**
   * Makes a database a tenant, with a role and a first admin. The cluster's provisioner must own the database. Only the owner and
   * PUBLIC may have rights on it. The adoption is audited in the step that makes the tenant active.
   *
   * @throws AppError `no-cluster`, `not-adoptable`, `slug-taken`; `adoption-failed` if a step failed: the steps are undone as far
   *   as possible, and the log names the step
   */
  adopt(
    tenant: Omit<NewTenant, 'wish'>,
    from: { readonly clusterId: string; readonly database: string },
    origin: AuditOrigin,
  ): Promise<TenantRecord>;
}

interface Step {
  readonly name: string;
  readonly run: () => Promise<void>;
  readonly undo?: () => Promise<void>;
}

/**
 * The mark is the point of no return: after it the tenant goes forward (src/operations/making.ts). Until the last step the
 * registry's row names a database that does not exist, so a former build that removes a half-made tenant finds nothing to drop.
 */
export function createAdoption(deps: {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly locks: TenantLocks;
  readonly making: Making;
  readonly installation: () => Promise<string>;
  readonly envelope: Envelope;
  /** The role's CONNECTION LIMIT. */
  readonly connectionLimit: number;
  /** Called when the tenant is active. */
  readonly record: RecordEvent;
  readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
}): Adoption {
  const { registry, provisioners, locks } = deps;

  /** Runs under the tenant's lock. */
  async function adoptNow(
    id: string,
    input: Omit<NewTenant, 'wish'>,
    { clusterId, database }: { readonly clusterId: string; readonly database: string },
    origin: AuditOrigin,
  ): Promise<TenantRecord> {
    const placed = await findCluster(registry, clusterId);
    if (!placed) throw new AppError('no-cluster', { detail: 'There is no cluster with this id.' });
    const { host, port } = placed;
    const provisioner = await provisioners.at(placed);
    const { cluster, inDatabase } = provisioner;
    const found = await adoptable(deps, provisioner, database);
    if (await isNamed(registry, { name: database, place: { host, port } }))
      throw unfit('it already belongs to a tenant.');

    const claim = randomUUID();
    const admin = { ...input.admin, passwordHash: await input.admin.passwordHash };
    await confirmOperator(registry, origin);
    const role = newDatabaseName();
    const password = newDatabasePassword();
    const installation = await deps.installation();
    const markAs = (state: 'making' | 'adopted'): string => markText({ installation, id, state, claim, generation: 1 });
    let migrated = false;
    let adminId: string | undefined;
    let active: TenantRecord | undefined;
    const steps: readonly Step[] = [
      {
        name: 'register',
        run: async () => {
          const { name, slug, poolOptions, limits } = input;
          const schemaVersion = latestVersion(tenantMigrations);
          const place = { clusterId, dbHost: host, dbPort: port };
          const dbPassword = deps.envelope.seal(password, { id, host, port, user: role });
          const registered = await registerTenant(
            registry,
            { name, slug, poolOptions, limits, ...place, schemaVersion, claim },
            { id, dbName: role, dbUser: role, dbPassword, adopts: database },
          );
          if (!registered)
            throw new AppError('unavailable', {
              detail: 'The cluster has just moved to another address. Try again.',
              retryAfter: 1,
            });
        },
        undo: () => deleteTenantRow(registry, id),
      },
      {
        name: 'role',
        run: async () => {
          const verifier = await scramVerifier(password, TENANT_SCRAM_ITERATIONS);
          const { connectionLimit } = deps;
          await createRuntimeRole(cluster, { name: role, verifier, connectionLimit, mark: markAs('making') });
        },
        undo: () => dismiss(provisioner, { id, role }),
      },
      {
        name: 'close',
        run: () => closeToOthers(cluster, database, role),
        undo: async () => {
          await inDatabase(database, (db) => letGo(db, role, id));
          // Compares the mark first: another adoption may have the database by now.
          const from = [null, markAs('adopted')];
          await changeMark(cluster, { database, from, to: null, also: reopenToOthers(database, found.publicRights) });
        },
      },
      {
        name: 'migrate',
        run: () =>
          inDatabase(database, async (db) => {
            const pending = await pendingMigrations(db, tenantMigrations);
            await migrateToLatest(db, tenantMigrations);
            migrated = pending.length > 0;
          }),
      },
      {
        name: 'fill',
        run: () =>
          inDatabase(database, async (db) => {
            // Asked again here: this is the last step that can be undone, and `migrate` can take long.
            await confirmOperator(registry, origin);
            await grantRuntimeRights(db, role);
            adminId = await db.transaction().execute(async (trx) => {
              await writeMarker(trx, id, claim);
              const userId = await insertUser(trx, admin);
              const unknown = await setRoles(trx, userId, ['admin']);
              if (unknown.length > 0) throw new Error('the database has no role "admin"');
              return userId;
            });
          }),
        undo: () =>
          inDatabase(database, async (db) => {
            if (adminId !== undefined) await deleteUser(db, adminId);
          }),
      },
      {
        name: 'mark',
        run: async () => {
          const change = { database, role, from: [null], to: markAs('adopted') };
          if (!(await changeMark(cluster, change))) throw new Error('the database carries a mark by now');
        },
      },
      {
        name: 'activate',
        run: async () => {
          active = await activate(registry, { id, claim, adopts: database }, origin, deps.record);
          if (!active) throw new Error('the row of the new tenant is gone');
        },
      },
    ];

    const undo: Step[] = [];
    for (const step of steps) {
      undo.unshift(step);
      try {
        await step.run();
      } catch (error) {
        const constraint = violatedUniqueConstraint(error);
        if (constraint === TENANT_SLUG_CONSTRAINT) throw new AppError('slug-taken');
        if (constraint === ADOPTS_CONSTRAINT) throw unfit('another request is adopting it.');
        deps.onError(error, { tenantId: id, step: `adopt: ${step.name}` });
        const settled = await settle(provisioner, { id, database, adopted: markAs('adopted') }, undo, origin);
        if (typeof settled === 'object') return settled;
        if (error instanceof AppError) throw error;
        if (settled === 'undone' && constraint === EMAIL_CONSTRAINT)
          throw new AppError('email-taken', {
            detail: "The database already has a user with the first admin's e-mail address. Choose another address.",
          });
        throw adoptionFailure(step.name, id, settled, migrated, error);
      }
    }
    if (!active) throw new Error('the row of the new tenant is gone');
    return active;
  }

  return {
    adopt: (input, from, origin) => {
      const id = newTenantId();
      return locks.hold(id, () => adoptNow(id, input, from, origin));
    },
  };

  /**
   * Goes forward if the database carries the mark of this adoption. Otherwise undoes the steps, the last one first. If that
   * fails, the row stays and the reconciler continues.
   */
  async function settle(
    { cluster }: PlacedProvisioner,
    { id, database, adopted }: { id: string; database: string; adopted: string },
    undo: readonly Step[],
    origin: AuditOrigin,
  ): Promise<TenantRecord | Settled> {
    try {
      // This takes the lock of the mark. A change of the mark that is in progress ends first, and is then seen.
      if (!(await changeMark(cluster, { database, from: [null], to: null }))) {
        const active = await deps.making.settle(id, { origin });
        if (active) return active;
        // Another worker undid the adoption while this worker was paused: its row is gone.
        await changeMark(cluster, { database, from: [adopted], to: null });
        return 'undone';
      }
      // The row changes first: from now on no other worker can make the tenant active.
      if (!(await markTenantDeleting(registry, id, ['provisioning'], { onPurge: 'keep' }))) {
        const row = await findTenant(registry, id);
        return row?.status === 'active' ? row : row ? 'unknown' : 'undone';
      }
      for (const step of undo) await step.undo?.();
      return 'undone';
    } catch (error) {
      deps.onError(error, { tenantId: id, step: 'undo' });
      return error instanceof DatabaseFault ? 'unknown' : 'half';
    }
  }
}
