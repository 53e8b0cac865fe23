// Adopting: a database that is there already becomes a tenant. What makes a tenant is done to it step by step, and undone when
// a step fails; the database itself is never dropped. Its mark is the point of no return: after it the tenant goes forward
// (src/tenancy/making.ts). Until the last step the registry's row names a database that does not exist, so that a former build
// which removes a half-made tenant finds nothing to drop.
import type { Kysely } from 'kysely';
import { randomUUID } from 'node:crypto';
import {
  closeToOthers,
  findDatabase,
  inspectContent,
  letGo,
  reopenToOthers,
  type FoundDatabase,
} from '../../db/adoption.js';
import type { AuditOrigin } from '../../db/audit.js';
import { findCluster } from '../../db/central/clusters.js';
import type { Registry } from '../../db/central/schema.js';
import { ADOPTS_CONSTRAINT, isNamed } from '../../db/central/named.js';
import { registerTenant } from '../../db/central/standby.js';
import { deleteTenantRow, markTenantDeleting } from '../../db/central/tenant-states.js';
import { findTenant, TENANT_SLUG_CONSTRAINT, type TenantRecord } from '../../db/central/tenants.js';
import { createRuntimeRole, MAINTENANCE_DATABASE, type ClusterDb } from '../../db/cluster.js';
import { DatabaseFault, violatedUniqueConstraint } from '../../db/errors.js';
import { changeMark, findMarks, markText, parseMark } from '../../db/marks.js';
import { latestVersion, migrateToLatest, pendingMigrations } from '../../db/migrator.js';
import { scramVerifier } from '../../db/scram.js';
import { grantRuntimeRights } from '../../db/tenant/grants.js';
import { writeMarker } from '../../db/tenant/marker.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { deleteUser, insertUser, setRoles, EMAIL_CONSTRAINT } from '../../db/tenant/users.js';
import { confirmOperator } from '../auth/operator.js';
import { AppError } from '../errors.js';
import { dismiss } from './demolish.js';
import type { Envelope } from './envelope.js';
import { isOwnName, newDatabaseName, newDatabasePassword, newTenantId, TENANT_SCRAM_ITERATIONS } from './ids.js';
import type { TenantLocks } from './locks.js';
import { activate, type Making } from './making.js';
import type { NewTenant } from './provisioning.js';
import type { PlacedProvisioner, Provisioners } from './provisioners.js';
import { isTemplateName } from './template.js';

export interface Adoption {
  /**
   * Makes a database a tenant, with a role and a first admin. It must belong to the cluster's provisioner, and nobody but its
   * owner and PUBLIC may have rights on it. Audited with the step that makes it active.
   *
   * @throws AppError `no-cluster`, `not-adoptable`, `slug-taken`; `adoption-failed` when a step failed, undone as far as it can
   *   be and named in the log
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
  readonly making: Making;
  readonly installation: () => Promise<string>;
  readonly envelope: Envelope;
  /** The role's CONNECTION LIMIT. */
  readonly connectionLimit: number;
  readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
}): Adoption {
  const { registry, provisioners, locks } = deps;

  /** @param session one connection, which the tenant's lock belongs to */
  async function adoptNow(
    session: Kysely<Registry>,
    input: Omit<NewTenant, 'wish'>,
    { clusterId, database }: { readonly clusterId: string; readonly database: string },
    origin: AuditOrigin,
  ): Promise<TenantRecord> {
    const placed = await findCluster(registry, clusterId);
    if (!placed) throw new AppError('no-cluster', { detail: 'There is no cluster with this id.' });
    const { host, port } = placed;
    const provisioner = await provisioners.at(placed);
    const { cluster, inDatabase } = provisioner;
    const found = await adoptable(provisioner, database);
    if (await isNamed(registry, { name: database, place: { host, port } }))
      throw unfit('it already belongs to a tenant.');

    const id = newTenantId();
    const claim = randomUUID();
    const admin = { ...input.admin, passwordHash: await input.admin.passwordHash };
    await confirmOperator(session, origin);
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
            session,
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
          // Together with a look at the mark: another adoption may have the database by now.
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
            // The last step that can be undone, after one that can take long.
            await confirmOperator(session, origin);
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
          active = await activate(session, { id, claim, adopts: database }, origin);
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
        const detail = outcome(step.name, id, settled, migrated);
        throw new AppError('adoption-failed', { detail, retryAfter: 5, cause: error });
      }
    }
    if (!active) throw new Error('the row of the new tenant is gone');
    return active;
  }

  return {
    adopt: (input, from, origin) => locks.session((session) => adoptNow(session, input, from, origin)),
  };

  /** @throws AppError `not-adoptable` */
  async function adoptable({ cluster, inDatabase }: PlacedProvisioner, database: string): Promise<FoundDatabase> {
    const found = await findDatabase(cluster, database);
    if (!found) throw unfit('the cluster has no database of this name.');
    if (SYSTEM_DATABASES.includes(database) || found.isTemplate) throw unfit('it is a system database of the server.');
    if (isTemplateName(database) || isOwnName(database))
      throw unfit('its name is reserved for databases that this service creates. Rename it first.');
    if (!found.owned) throw unfit('the provisioner does not own it. Run ALTER DATABASE … OWNER TO first.');
    if (!found.allowsConnections) throw unfit('it does not allow connections.');
    if (found.othersHaveRights)
      throw unfit('other roles have rights on it. Run REVOKE ALL ON DATABASE … FROM these roles first.');
    const { isRegistry, isMarked } = await inDatabase(database, inspectContent);
    if (isRegistry) throw unfit('it is a registry.');
    if (isMarked || !(await isFree(cluster, database))) throw unfit("it is marked as another tenant's database.");
    return found;
  }

  /**
   * Whether a database without a marker inside carries no mark either. That of an adoption which was undone before its mark
   * arrived is taken away: its tenant has neither row nor marker.
   */
  async function isFree(cluster: ClusterDb, database: string): Promise<boolean> {
    const [found] = await findMarks(cluster, [database]);
    const text = found?.text ?? null;
    if (text === null) return true;
    const mark = parseMark(text);
    if (mark?.installation !== (await deps.installation()) || mark.state !== 'adopted') return false;
    if (await findTenant(registry, mark.id)) return false;
    return changeMark(cluster, { database, from: [text], to: null });
  }

  /**
   * Goes forward when the database carries the mark of this adoption; otherwise undoes the steps, the last one first. A failure
   * leaves the row, and the reconciler goes on.
   */
  async function settle(
    { cluster }: PlacedProvisioner,
    { id, database, adopted }: { id: string; database: string; adopted: string },
    undo: readonly Step[],
    origin: AuditOrigin,
  ): Promise<TenantRecord | Settled> {
    try {
      // Under the lock of the mark: a change of it that is under way comes before, and is seen.
      if (!(await changeMark(cluster, { database, from: [null], to: null }))) {
        const active = await deps.making.settle(id, { origin });
        if (active) return active;
        // Another worker undid it while this one stood still: its row is gone.
        await changeMark(cluster, { database, from: [adopted], to: null });
        return 'undone';
      }
      // The row first: from now on no other worker can make the tenant active.
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

/** What became of an adoption that failed; `half` when a part of it could not be undone. */
type Settled = 'undone' | 'half' | 'unknown';

function outcome(step: string, id: string, settled: Settled, migrated: boolean): string {
  const failed = `The adoption failed at the step "${step}"`;
  if (settled === 'unknown')
    return `${failed}, and its outcome is not known yet. The service finishes or undoes it by itself: GET /tenants/${id} shows the tenant, or answers 404 when it was undone. The database is kept.`;
  if (settled === 'half')
    return `${failed}, and not all of it could be undone yet. The service does that by itself. The database is kept.`;
  return migrated
    ? `${failed}. It was undone, except for the tables of this service, which stay in the database.`
    : `${failed}. The database is unchanged.`;
}

function unfit(why: string): AppError {
  return new AppError('not-adoptable', { detail: `This database cannot be adopted: ${why}` });
}
