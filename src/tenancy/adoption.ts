// Adopting: a database that is there already becomes a tenant. What makes a tenant is done to it step by step, and taken back
// where a step fails; the database itself is never dropped. Until the last step the registry's row names a database that does
// not exist, so that whatever removes a half-made tenant finds nothing to drop.
import type { Kysely } from 'kysely';
import {
  closeToOthers,
  databasesWithRightsOf,
  findDatabase,
  inspectContent,
  letGo,
  reopenToOthers,
  type FoundDatabase,
} from '../../db/adoption.js';
import type { AuditOrigin } from '../../db/audit.js';
import { insertAudit } from '../../db/central/audit.js';
import { findCluster } from '../../db/central/clusters.js';
import type { Registry } from '../../db/central/schema.js';
import {
  activateAdopted,
  deleteTenantRow,
  findTenant,
  insertTenant,
  isTaken,
  TENANT_SLUG_CONSTRAINT,
  updateTenant,
  type TenantRecord,
} from '../../db/central/tenants.js';
import { createRuntimeRole, dropRole, MAINTENANCE_DATABASE } from '../../db/cluster.js';
import { violatedUniqueConstraint } from '../../db/errors.js';
import { latestVersion, migrateToLatest, pendingMigrations } from '../../db/migrator.js';
import { scramVerifier } from '../../db/scram.js';
import { grantRuntimeRights } from '../../db/tenant/grants.js';
import { writeMarker } from '../../db/tenant/marker.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { deleteUser, insertUser, setRoles, EMAIL_CONSTRAINT } from '../../db/tenant/users.js';
import { AppError } from '../errors.js';
import type { Envelope } from './envelope.js';
import { newDatabaseName, newDatabasePassword, newTenantId, TENANT_SCRAM_ITERATIONS } from './ids.js';
import type { NewTenant } from './provisioning.js';
import type { TenantLocks } from './locks.js';
import type { PlacedProvisioner, Provisioners } from './provisioners.js';

export interface Adoption {
  /**
   * Makes a database a tenant, with a role and a first admin. It must belong to the cluster's provisioner, and nobody but its
   * owner and PUBLIC may have rights on it. Audited with the step that makes it active.
   *
   * @throws AppError `no-cluster`, `not-adoptable`, `slug-taken`; `adoption-failed` where a step failed, taken back as far as it
   *   can be and named in the log
   */
  adopt(
    tenant: Omit<NewTenant, 'wish'>,
    from: { readonly clusterId: string; readonly database: string },
    origin: AuditOrigin,
  ): Promise<TenantRecord>;
}

const SYSTEM_DATABASES = [MAINTENANCE_DATABASE, 'template0', 'template1'];

interface Step {
  readonly name: string;
  readonly run: () => Promise<void>;
  readonly undo?: () => Promise<void>;
}

export function createAdoption(deps: {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly locks: TenantLocks;
  readonly envelope: Envelope;
  /** The role's CONNECTION LIMIT. */
  readonly connectionLimit: number;
  readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
}): Adoption {
  const { registry, provisioners, locks } = deps;

  async function adoptAs(
    id: string,
    input: Omit<NewTenant, 'wish'>,
    { clusterId, database }: { readonly clusterId: string; readonly database: string },
    origin: AuditOrigin,
  ): Promise<TenantRecord> {
    const placed = await findCluster(registry, clusterId);
    if (!placed) throw new AppError('no-cluster', { detail: 'There is no cluster of this id.' });
    const { host, port } = placed;
    const provisioner = await provisioners.at(placed);
    const { cluster, inDatabase } = provisioner;
    const found = await adoptable(provisioner, database);
    if (await isTaken(registry, { host, port, database })) throw unfit('it is a tenant’s already.');

    const admin = { ...input.admin, passwordHash: await input.admin.passwordHash };
    const role = newDatabaseName();
    const password = newDatabasePassword();
    let migrated = false;
    let adminId: string | undefined;
    const steps: readonly Step[] = [
      {
        name: 'register',
        run: () =>
          insertTenant(registry, {
            id,
            name: input.name,
            slug: input.slug,
            clusterId,
            dbHost: host,
            dbPort: port,
            dbName: role,
            dbUser: role,
            dbPassword: deps.envelope.seal(password, { id, host, port, user: role }),
            poolOptions: input.poolOptions,
            limits: input.limits,
            schemaVersion: latestVersion(tenantMigrations),
          }),
        undo: () => deleteTenantRow(registry, id),
      },
      {
        name: 'role',
        run: async () => {
          const verifier = await scramVerifier(password, TENANT_SCRAM_ITERATIONS);
          await createRuntimeRole(cluster, { name: role, verifier, connectionLimit: deps.connectionLimit });
        },
        undo: () => dropRole(cluster, role),
      },
      {
        name: 'close',
        run: () => closeToOthers(cluster, database, role),
        undo: async () => {
          await inDatabase(database, (db) => letGo(db, role, id));
          await reopenToOthers(cluster, database, found.publicRights);
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
            await grantRuntimeRights(db, role);
            adminId = await db.transaction().execute(async (trx) => {
              await writeMarker(trx, id);
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
        name: 'activate',
        run: () =>
          registry.transaction().execute(async (trx) => {
            if (!(await activateAdopted(trx, id, database))) throw new Error('the row of the new tenant is gone');
            const target = { kind: 'tenant', id } as const;
            const details = { adopted: true };
            await insertAudit(trx, { ...origin, action: 'tenant.created', target, details, tenantId: id });
          }),
      },
    ];

    const undo: Step[] = [];
    for (const step of steps) {
      undo.unshift(step);
      try {
        await step.run();
      } catch (error) {
        if (step.name === 'register' && violatedUniqueConstraint(error) === TENANT_SLUG_CONSTRAINT)
          throw new AppError('slug-taken');
        deps.onError(error, { tenantId: id, step: `adopt: ${step.name}` });
        const undone = await takeBack(id, undo);
        if (undone && violatedUniqueConstraint(error) === EMAIL_CONSTRAINT)
          throw new AppError('email-taken', {
            detail: 'The database has a user with the address of the first admin.',
          });
        throw new AppError('adoption-failed', { detail: outcome(step.name, id, undone, migrated), cause: error });
      }
    }
    const tenant = await findTenant(registry, id);
    if (!tenant) throw new Error('the row of the new tenant is gone');
    return tenant;
  }

  return {
    adopt(input, from, origin) {
      const id = newTenantId();
      // Or the reconciler would take its row for one that a crash left.
      return locks.hold(id, () => adoptAs(id, input, from, origin));
    },
  };

  /** @throws AppError `not-adoptable` */
  async function adoptable({ cluster, inDatabase }: PlacedProvisioner, database: string): Promise<FoundDatabase> {
    const found = await findDatabase(cluster, database);
    if (!found) throw unfit('there is none of this name.');
    if (SYSTEM_DATABASES.includes(database) || found.isTemplate) throw unfit('it is one of the server’s own.');
    if (!found.owned) throw unfit('it does not belong to the provisioner: ALTER DATABASE … OWNER TO hands it over.');
    if (!found.allowsConnections) throw unfit('nobody can connect to it.');
    if (found.othersHaveRights) throw unfit('other roles have rights on it: REVOKE ALL ON DATABASE … FROM them.');
    const { isRegistry, isMarked } = await inDatabase(database, inspectContent);
    if (isRegistry) throw unfit('it is a registry.');
    if (isMarked) throw unfit('it is marked as another tenant’s.');
    return found;
  }

  /** Undoes steps, the last one first, and stops at the first that fails: what is left then still has its row. */
  async function takeBack(tenantId: string, undo: readonly Step[]): Promise<boolean> {
    try {
      for (const step of undo) await step.undo?.();
      return true;
    } catch (error) {
      deps.onError(error, { tenantId, step: 'undo' });
      await updateTenant(registry, tenantId, { status: 'deleting' }, ['provisioning']).catch(() => undefined);
      return false;
    }
  }
}

/**
 * Takes a role's rights in databases that are not its own, which an adoption that was cut short has left: a role that has rights
 * anywhere cannot be dropped.
 */
export async function releaseRole(
  { cluster, inDatabase }: PlacedProvisioner,
  role: string,
  tenantId: string,
): Promise<void> {
  for (const database of await databasesWithRightsOf(cluster, role))
    await inDatabase(database, (db) => letGo(db, role, tenantId));
}

function outcome(step: string, id: string, undone: boolean, migrated: boolean): string {
  if (!undone)
    return `Adopting failed at the step "${step}", and not all of it could be taken back. POST /tenants/${id}/purge finishes that, and leaves the database.`;
  return migrated
    ? `Adopting failed at the step "${step}". It was taken back, but for the tables of this service, which stay in the database.`
    : `Adopting failed at the step "${step}". The database is as it was.`;
}

function unfit(why: string): AppError {
  return new AppError('not-adoptable', { detail: `This database cannot be adopted: ${why}` });
}
