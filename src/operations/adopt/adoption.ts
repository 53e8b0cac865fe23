// Adopts an existing database as a tenant, step by step. A failed step undoes the steps; the database itself is never dropped.
import { randomUUID } from 'node:crypto';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import { newId } from '../../../db/shared/ids.js';
import { findCluster } from '../../../db/registry/cluster-queries.js';
import { REQUEST_KEY_CONSTRAINT } from '../../../db/registry/operations/operation-keys.js';
import { ADOPTS_CONSTRAINT, isNamed } from '../../../db/registry/named.js';
import { registerTenant, type RegisteredTenant } from '../../../db/registry/standby-rows.js';
import { deleteTenantRow } from '../../../db/registry/tenant-status-queries.js';
import { findTenant, TENANT_SLUG_CONSTRAINT, type TenantRecord } from '../../../db/registry/tenant-queries.js';
import { DatabaseFault, violatedUniqueConstraint } from '../../../db/driver/database-fault.js';
import { latestVersion } from '../../../db/shared/migrator.js';
import { tenantMigrations } from '../../../db/tenant/migrations/index.js';
import { EMAIL_CONSTRAINT } from '../../../db/tenant/user-queries.js';
import { confirmOperator, operatorIdOf } from '../../audit/operator-act.js';
import { AppError } from '../../errors.js';
import { newDatabaseName, newDatabasePassword, newTenantId } from '../../tenants/tenant-ids.js';
import { createEarlierRequests } from '../create/earlier-requests.js';
import { adoptionFailure } from '../create/making-outcome.js';
import type { NewTenant } from '../create/new-tenant.js';
import { answered } from '../runner/answering.js';
import type { OperationKind } from '../runner/operation-kinds.js';
import type { Runner } from '../runner/runner.js';
import { adoptable, unfit } from './adoptable.js';
import { rightsAsDetails, type AdoptionDeps, type AdoptionInput } from './adoption-input.js';
import { planAdoption } from './adoption-plan.js';

export interface Adoption {
  /**
   * Makes a database a tenant, with a role and a first admin. The cluster's provisioner must own the database. Only the owner and
   * PUBLIC may have rights on it. The adoption is audited in the step that makes the tenant active. If the request's key is known,
   * nothing is adopted, and the tenant of the earlier request is returned.
   *
   * @throws AppError `no-cluster`, `not-adoptable`, `slug-taken`, `email-taken`; `idempotency-key-reused` and
   *   `idempotency-key-in-use`; `adoption-failed` if a step failed: the steps are undone, and the log names the step;
   *   `operation-unfinished` if it takes longer
   */
  adopt(tenant: Omit<NewTenant, 'wish'>, from: AdoptedFrom, origin: AuditOrigin): Promise<TenantRecord>;
}

export interface AdoptedFrom {
  readonly clusterId: string;
  readonly database: string;
}

/** Longest time (ms) that a request waits for its tenant: the migrations of a large database take long. */
const DEADLINE = 30_000;

/** src/operations/adopt/adoption-steps.ts has the steps, and how each is undone. */
export function createAdoption(
  deps: AdoptionDeps & {
    readonly runner: Runner;
    readonly replicaId: string;
    readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
  },
): Adoption {
  const { registry, provisioners, runner, replicaId } = deps;

  const kind: OperationKind<AdoptionInput> = {
    name: 'adopt',
    plan: (operation, input) => planAdoption(deps, operation, input),
    // What is on the server stays, and is reported.
    abandon: (trx, { subject }) => deleteTenantRow(trx, subject),
  };
  runner.add(kind);
  const earlier = createEarlierRequests(deps);

  /**
   * Writes the row and the operation. The row names a database that does not exist: a former build that removes a half-made
   * tenant finds nothing to drop.
   */
  async function register(
    id: string,
    { name, slug, poolOptions, limits, requestKey }: Omit<NewTenant, 'wish'>,
    { clusterId, database }: AdoptedFrom,
    origin: AuditOrigin,
  ): Promise<RegisteredTenant> {
    const placed = await findCluster(registry, clusterId);
    if (!placed) throw new AppError('no-cluster', { detail: 'There is no cluster with this id.' });
    const { host, port } = placed;
    const { publicRights } = await adoptable(deps, await provisioners.at(placed), database);
    if (await isNamed(registry, { name: database, place: { host, port } }))
      throw unfit('it already belongs to a tenant.');
    await confirmOperator(registry, origin);
    const role = newDatabaseName();
    const operatorId = operatorIdOf(origin);
    const details = { database, adminId: newId(), ...rightsAsDetails(publicRights) };
    const tenant = {
      ...{ name, slug, poolOptions, limits, requestKey, clusterId, dbHost: host, dbPort: port },
      schemaVersion: latestVersion(tenantMigrations),
      claim: randomUUID(),
      operation: { kind: kind.name, details, operatorId, worker: replicaId },
    };
    const dbPassword = deps.envelope.seal(newDatabasePassword(), { id, host, port, user: role });
    const own = { id, dbName: role, dbUser: role, dbPassword, adopts: database };
    const registered = await registerTenant(registry, tenant, own).catch((error: unknown) => {
      const constraint = violatedUniqueConstraint(error);
      if (constraint === TENANT_SLUG_CONSTRAINT) throw new AppError('slug-taken');
      if (constraint === REQUEST_KEY_CONSTRAINT) throw new AppError('idempotency-key-in-use', { retryAfter: 1 });
      if (constraint === ADOPTS_CONSTRAINT) throw unfit('another request is adopting it.');
      deps.onError(error, { tenantId: id, step: 'adopt: register' });
      // If the statement got no answer, a row may exist, or may appear in a moment. Another worker undoes it.
      const settled = error instanceof DatabaseFault && !error.answered ? 'unknown' : 'undone';
      throw adoptionFailure('register', id, settled, false, error);
    });
    if (registered) return registered;
    throw new AppError('unavailable', {
      detail: 'The cluster has just moved to another address. Try again.',
      retryAfter: 1,
    });
  }

  return {
    async adopt(wanted, from, origin) {
      const known = wanted.requestKey && (await earlier.madeBy(wanted.requestKey));
      if (known) return known;
      const id = newTenantId();
      // Known before the row is written: the process may end while it computes the hash.
      const admin = { ...wanted.admin, passwordHash: await wanted.admin.passwordHash };
      const { operation } = await register(id, wanted, from, origin);
      let tenant: TenantRecord | undefined;
      const input: AdoptionInput = { admin, origin, migrated: false, made: (active) => (tenant = active) };
      const outcome = await answered(operation, runner.work(kind, operation, { input }), DEADLINE, (waiting) =>
        waiting.undoes && waiting.because
          ? adoptionFailure(waiting.because.step, id, 'half', input.migrated, waiting.because.error)
          : undefined,
      );
      if (outcome.state === 'done') {
        tenant ??= await findTenant(registry, id);
        // It was deleted and purged meanwhile.
        if (!tenant) throw new AppError('not-found');
        return tenant;
      }
      const { step, error } = outcome;
      if (error instanceof AppError) throw error;
      if (violatedUniqueConstraint(error) === EMAIL_CONSTRAINT)
        throw new AppError('email-taken', {
          detail: "The database already has a user with the first admin's e-mail address. Choose another address.",
        });
      throw adoptionFailure(step, id, 'undone', input.migrated, error);
    },
  };
}
