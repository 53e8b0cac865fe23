// Making tenants: a list of steps, each with its undoing. A failure at any of them takes back what was done. The registry's row
// comes first, so that nothing exists that no row tells of.
import type { Kysely } from 'kysely';
import type { AuditOrigin } from '../../db/audit.js';
import { insertAudit } from '../../db/central/audit.js';
import type { LimitChanges, PoolOptionChanges, Registry } from '../../db/central/schema.js';
import {
  deleteTenantRow,
  findTenant,
  findTenantBySlug,
  insertTenant,
  TENANT_SLUG_CONSTRAINT,
  updateTenant,
  type TenantRecord,
} from '../../db/central/tenants.js';
import { createRuntimeRole, createTenantDatabase, dropDatabase, dropRole } from '../../db/cluster.js';
import { violatedUniqueConstraint } from '../../db/errors.js';
import { latestVersion } from '../../db/migrator.js';
import { scramVerifier } from '../../db/scram.js';
import { grantRuntimeRights } from '../../db/tenant/grants.js';
import { writeMarker } from '../../db/tenant/marker.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { insertUser, setRoles } from '../../db/tenant/users.js';
import { AppError } from '../errors.js';
import type { Envelope } from './envelope.js';
import { newDatabaseName, newDatabasePassword, newTenantId, TENANT_SCRAM_ITERATIONS } from './ids.js';
import type { Place, Provisioners } from './provisioners.js';
import type { Removal } from './removal.js';
import { templateName, type InDatabase } from './template.js';

/** What a new tenant starts with. */
export interface NewTenant {
  readonly name: string;
  readonly slug: string;
  readonly poolOptions: PoolOptionChanges;
  readonly limits?: LimitChanges | undefined;
  /** Where it is to stand; left out, anywhere. */
  readonly wish?: PlaceWish;
  readonly admin: {
    readonly email: string;
    readonly passwordHash: string;
    readonly firstName: string;
    readonly lastName: string;
  };
}

export interface PlaceWish {
  readonly region?: string | undefined;
  readonly clusterId?: string | undefined;
}

/** A cluster of the registry. */
export interface ChosenPlace extends Place {
  readonly clusterId: string;
}

export interface Provisioning {
  /**
   * Makes a tenant and its first admin. It is audited with the step that makes it active.
   *
   * @throws AppError `slug-taken`; `provisioning-failed` where a step failed, undone and named in the log
   */
  create(tenant: NewTenant, origin: AuditOrigin): Promise<TenantRecord>;
}

export interface ProvisioningDeps {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  /** The cluster that a new tenant's database is made on. */
  readonly choosePlace: (wish: PlaceWish) => Promise<ChosenPlace>;
  readonly envelope: Envelope;
  /** The most connections that the pools of one tenant may hold: the role's CONNECTION LIMIT. */
  readonly connectionLimit: number;
  readonly removal: Removal;
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

export function createProvisioning(deps: ProvisioningDeps): Provisioning {
  const { registry, provisioners, removal } = deps;

  async function create(input: NewTenant, origin: AuditOrigin): Promise<TenantRecord> {
    await clearAbandoned(input.slug, origin);
    const place = await deps.choosePlace(input.wish ?? {});
    const { cluster, inDatabase, role: owner } = await provisioners.at(place);
    const id = newTenantId();
    const name = newDatabaseName();
    const password = newDatabasePassword();
    const context = { id, host: place.host, port: place.port, user: name };

    const steps: Record<ProvisioningStep, { run: () => Promise<void>; undo?: () => Promise<void> }> = {
      register: {
        run: () =>
          insertTenant(registry, {
            id,
            name: input.name,
            slug: input.slug,
            clusterId: place.clusterId,
            dbHost: place.host,
            dbPort: place.port,
            dbName: name,
            dbUser: name,
            dbPassword: deps.envelope.seal(password, context),
            poolOptions: input.poolOptions,
            limits: input.limits,
            schemaVersion: latestVersion(tenantMigrations),
          }),
        undo: () => deleteTenantRow(registry, id),
      },
      role: {
        run: async () => {
          const verifier = await scramVerifier(password, TENANT_SCRAM_ITERATIONS);
          await createRuntimeRole(cluster, { name, verifier, connectionLimit: deps.connectionLimit });
        },
        undo: () => dropRole(cluster, name),
      },
      database: {
        run: () =>
          createTenantDatabase(cluster, {
            name,
            template: templateName(tenantMigrations, owner),
            runtimeRole: name,
          }),
        undo: () => dropDatabase(cluster, name),
      },
      fill: { run: () => inDatabase(name, (db) => fill(db, id, name, input.admin)) },
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
    await removal.remove(existing.id, origin);
  }

  return { create };
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
