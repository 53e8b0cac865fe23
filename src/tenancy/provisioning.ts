// Making and removing tenants. Making one is a list of steps, each with its undoing: a failure at any of them takes back
// what was done. The registry's row comes first and goes last, so that nothing exists that no row tells of.
import type { Kysely } from 'kysely';
import type { AuditOrigin } from '../../db/audit.js';
import { insertAudit } from '../../db/central/audit.js';
import type { PoolOptionChanges, Registry } from '../../db/central/schema.js';
import {
  deleteTenantRow,
  findTenant,
  findTenantBySlug,
  insertTenant,
  TENANT_SLUG_CONSTRAINT,
  updateTenant,
  type TenantRecord,
} from '../../db/central/tenants.js';
import { createRuntimeRole, createTenantDatabase, dropDatabase, dropRole, type ClusterDb } from '../../db/cluster.js';
import { violatedUniqueConstraint } from '../../db/errors.js';
import { latestVersion } from '../../db/migrator.js';
import { scramVerifier } from '../../db/scram.js';
import { grantRuntimeRights } from '../../db/tenant/grants.js';
import { writeMarker } from '../../db/tenant/marker.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { insertUser, setRoles } from '../../db/tenant/users.js';
import { AppError } from '../errors.js';
import type { Envelope } from './envelope.js';
import { newDatabaseName, newDatabasePassword, newTenantId } from './ids.js';
import { templateName, type InDatabase } from './template.js';

/** What a new tenant starts with. */
export interface NewTenant {
  readonly name: string;
  readonly slug: string;
  readonly poolOptions: PoolOptionChanges;
  readonly admin: {
    readonly email: string;
    readonly passwordHash: string;
    readonly firstName: string;
    readonly lastName: string;
  };
}

export interface Provisioning {
  /**
   * Makes a tenant and its first admin. It is audited with the step that makes it active.
   *
   * @throws AppError `slug-taken`; `provisioning-failed` where a step failed, undone and named in the log
   */
  create(tenant: NewTenant, origin: AuditOrigin): Promise<TenantRecord>;
  /**
   * Removes a tenant: its sessions, database, role and row. What a failure leaves is finished by calling it again. It is
   * audited when it begins, behind which there is no way back.
   *
   * @returns false where there is no such tenant
   * @throws AppError `unavailable` where not all of it could be removed
   */
  remove(tenantId: string, origin: AuditOrigin): Promise<boolean>;
}

export interface ProvisioningDeps {
  readonly registry: Kysely<Registry>;
  readonly cluster: ClusterDb;
  readonly inDatabase: InDatabase;
  /** Where the tenants' databases stand, and the role that owns them. */
  readonly place: { readonly host: string; readonly port: number; readonly provisioner: string };
  readonly envelope: Envelope;
  /** The most connections that the pools of one tenant may hold: the role's CONNECTION LIMIT. */
  readonly connectionLimit: number;
  /** Called after the row turned to deleting and before the database goes: closes the pools of this process. */
  readonly beforeDrop: (tenantId: string) => Promise<void>;
  readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
  /** Called when a step is done, with its name. An error it throws counts as the step's. */
  readonly afterStep?: (step: ProvisioningStep) => void | Promise<void>;
}

export const provisioningSteps = ['register', 'role', 'database', 'fill', 'activate'] as const;
export type ProvisioningStep = (typeof provisioningSteps)[number];

/**
 * A row in provisioning older than this (ms) belongs to no running request: its process died. It is then removed like a
 * deleted tenant's by whoever asks for the same slug.
 */
const ABANDONED_AFTER = 120_000;

/**
 * SCRAM rounds for a tenant role's verifier. Rounds make guessing a weak password dear; this one is 256 random bits, and
 * each new connection would pay for them on the threads that hash passwords.
 */
const SCRAM_ITERATIONS = 1;

export function createProvisioning(deps: ProvisioningDeps): Provisioning {
  const { registry, cluster, place } = deps;

  async function create(input: NewTenant, origin: AuditOrigin): Promise<TenantRecord> {
    await clearAbandoned(input.slug, origin);
    const id = newTenantId();
    const name = newDatabaseName();
    const password = newDatabasePassword();
    const context = { tenantId: id, host: place.host, port: place.port, user: name };

    const steps: Record<ProvisioningStep, { run: () => Promise<void>; undo?: () => Promise<void> }> = {
      register: {
        run: () =>
          insertTenant(registry, {
            id,
            name: input.name,
            slug: input.slug,
            dbHost: place.host,
            dbPort: place.port,
            dbName: name,
            dbUser: name,
            dbPassword: deps.envelope.seal(password, context),
            poolOptions: input.poolOptions,
            schemaVersion: latestVersion(tenantMigrations),
          }),
        undo: () => deleteTenantRow(registry, id),
      },
      role: {
        run: async () => {
          const verifier = await scramVerifier(password, SCRAM_ITERATIONS);
          await createRuntimeRole(cluster, { name, verifier, connectionLimit: deps.connectionLimit });
        },
        undo: () => dropRole(cluster, name),
      },
      database: {
        run: () =>
          createTenantDatabase(cluster, {
            name,
            template: templateName(tenantMigrations, place.provisioner),
            runtimeRole: name,
          }),
        undo: () => dropDatabase(cluster, name),
      },
      fill: { run: () => deps.inDatabase(name, (db) => fill(db, id, name, input.admin)) },
      activate: {
        run: async () => {
          await registry.transaction().execute(async (trx) => {
            const active = await updateTenant(trx, id, { status: 'active' }, ['provisioning']);
            if (!active) throw new Error('the row of the new tenant is gone');
            await insertAudit(trx, {
              ...origin,
              action: 'tenant.created',
              target: { kind: 'tenant', id },
              tenantId: id,
            });
          });
        },
      },
    };

    const undo: (() => Promise<void>)[] = [];
    for (const step of provisioningSteps) {
      try {
        const { run, undo: takeBack } = steps[step];
        // Noted before it runs: a step can fail after it took effect, when only its answer is lost.
        if (takeBack) undo.unshift(takeBack);
        await run();
        await deps.afterStep?.(step);
      } catch (error) {
        if (step === 'register' && violatedUniqueConstraint(error) === TENANT_SLUG_CONSTRAINT)
          throw new AppError('slug-taken');
        deps.onError(error, { tenantId: id, step });
        const undone = await takeBack(id, undo);
        throw new AppError('provisioning-failed', {
          detail: undone
            ? `Making the tenant failed at the step "${step}". Everything was undone: the same request can be sent again.`
            : `Making the tenant failed at the step "${step}", and not all of it could be undone. DELETE /tenants/${id} finishes that.`,
          retryAfter: 5,
          cause: error,
        });
      }
    }
    const tenant = await findTenant(registry, id);
    if (!tenant) throw new Error('the row of the new tenant is gone');
    return tenant;
  }

  /** Undoes steps, last one first, and stops at the first that fails: what is left then still has its row. */
  async function takeBack(tenantId: string, undo: readonly (() => Promise<void>)[]): Promise<boolean> {
    try {
      for (const step of undo) await step();
      return true;
    } catch (error) {
      deps.onError(error, { tenantId, step: 'undo' });
      // So that the slug is not held by a tenant that looks as if it were still being made.
      // Active, when the last step took effect and only its answer was lost.
      await updateTenant(registry, tenantId, { status: 'deleting' }, ['provisioning', 'active']).catch(() => undefined);
      return false;
    }
  }

  async function clearAbandoned(slug: string, origin: AuditOrigin): Promise<void> {
    const existing = await findTenantBySlug(registry, slug);
    if (!existing) return;
    const abandoned =
      existing.status === 'deleting' ||
      (existing.status === 'provisioning' && Date.parse(existing.updatedAt) < Date.now() - ABANDONED_AFTER);
    if (!abandoned) throw new AppError('slug-taken');
    await remove(existing.id, origin);
  }

  /** Two that drop the same role or database at once make PostgreSQL fail one with an internal error: they share the work. */
  const removals = new Map<string, Promise<boolean>>();

  function remove(tenantId: string, origin: AuditOrigin): Promise<boolean> {
    const removal = removals.get(tenantId) ?? removeNow(tenantId, origin).finally(() => removals.delete(tenantId));
    removals.set(tenantId, removal);
    return removal;
  }

  async function removeNow(tenantId: string, origin: AuditOrigin): Promise<boolean> {
    const tenant = await registry.transaction().execute(async (trx) => {
      const removed = await updateTenant(trx, tenantId, { status: 'deleting' }, [
        'provisioning',
        'active',
        'suspended',
        'deleting',
      ]);
      const target = { kind: 'tenant', id: tenantId } as const;
      if (removed) await insertAudit(trx, { ...origin, action: 'tenant.deleted', target, tenantId });
      return removed;
    });
    if (!tenant) return false;
    try {
      await deps.beforeDrop(tenantId);
      await dropDatabase(cluster, tenant.dbName);
      await dropRole(cluster, tenant.dbUser);
      await deleteTenantRow(registry, tenantId);
    } catch (error) {
      deps.onError(error, { tenantId, step: 'remove' });
      throw new AppError('unavailable', {
        detail: `Not all of the tenant ${tenantId} could be removed. DELETE /tenants/${tenantId} takes it up again.`,
        retryAfter: 5,
        cause: error,
      });
    }
    return true;
  }

  return { create, remove };
}

/** What a copy of the template does not have yet: whose it is, who may use it, and the first admin. */
async function fill(
  db: Parameters<Parameters<InDatabase>[1]>[0],
  tenantId: string,
  runtimeRole: string,
  admin: NewTenant['admin'],
): Promise<void> {
  await grantRuntimeRights(db, runtimeRole);
  await db.transaction().execute(async (trx) => {
    await writeMarker(trx, tenantId);
    const userId = await insertUser(trx, admin);
    const unknown = await setRoles(trx, userId, ['admin']);
    if (unknown.length > 0) throw new Error('the template has no role "admin"');
  });
}
