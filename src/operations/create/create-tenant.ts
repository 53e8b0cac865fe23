// Makes tenants: records the tenant and the operation that makes it, and answers the request.
import type { Kysely } from 'kysely';
import { randomUUID } from 'node:crypto';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import { REQUEST_KEY_CONSTRAINT } from '../../../db/registry/operations/operation-keys.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import {
  claimStandby,
  registerTenant,
  type RegisteredTenant,
  type TenantToBe,
} from '../../../db/registry/standby-rows.js';
import { deleteTenantRow } from '../../../db/registry/tenant-status-queries.js';
import { TENANT_SLUG_CONSTRAINT, type TenantRecord } from '../../../db/registry/tenant-queries.js';
import { DatabaseFault, violatedUniqueConstraint } from '../../../db/driver/database-fault.js';
import { latestVersion } from '../../../db/shared/migrator.js';
import { tenantMigrations } from '../../../db/tenant/migrations/index.js';
import { confirmOperator, operatorIdOf } from '../../audit/operator-act.js';
import type { ChosenPlace, PlaceWish } from '../../clusters/placement.js';
import { AppError } from '../../errors.js';
import { newDatabaseName, newDatabasePassword, newTenantId } from '../../tenants/tenant-ids.js';
import { planCreation, StandbyTaken } from './create-steps.js';
import type { CreationDeps, CreationInput } from './creation.js';
import { createEarlierRequests } from './earlier-requests.js';
import { makingFailure } from './making-outcome.js';
import type { NewTenant } from './new-tenant.js';
import type { Precedence } from './precedence.js';
import { leftAsItIs } from '../reports.js';
import { answered } from '../runner/answering.js';
import type { OperationKind } from '../runner/operation-kinds.js';
import type { OperationTimes } from '../runner/operation-times.js';
import type { Runner } from '../runner/runner.js';

export interface Provisioning {
  /**
   * Makes a tenant and its first admin, from a standby database if one is ready. The creation is audited in the step that makes
   * the tenant active. If the request's key is known, nothing is made, and the tenant of the earlier request is returned.
   *
   * @throws AppError `slug-taken`; `idempotency-key-reused` and `idempotency-key-in-use`; `provisioning-failed` if a step failed:
   *   the steps are undone, and the log names the step; `operation-unfinished` if making it takes longer: the service continues
   */
  create(tenant: NewTenant, origin: AuditOrigin): Promise<TenantRecord>;
}

export interface ProvisioningDeps extends CreationDeps {
  readonly registry: Kysely<Registry>;
  readonly runner: Runner;
  /** The replica's id. */
  readonly replicaId: string;
  /** Chooses the cluster for the database of a new tenant. */
  readonly choosePlace: (wish: PlaceWish) => Promise<ChosenPlace>;
  /** Standby databases are made only while no tenant is being made. */
  readonly precedence: Pick<Precedence, 'run'>;
  readonly times: Pick<OperationTimes, 'createDeadline'>;
  /** Called after a standby database was claimed. */
  readonly onClaim: () => void;
  readonly onError: (error: unknown, context: { tenantId?: string; step: string }) => void;
}

type Source = 'standby' | 'template';

/**
 * Attempts for each request. A request is tried again after an obstacle was removed, or if a standby database could not be used.
 */
const ATTEMPTS = 4;

/**
 * The tenant's row and the operation come first, in one statement, so that nothing exists without a row. Then the mark says that
 * the database is complete. The last step makes the row active (src/operations/create/create-steps.ts).
 */
export function createProvisioning(deps: ProvisioningDeps): Provisioning {
  const { registry, runner, replicaId } = deps;
  const earlier = createEarlierRequests(deps);
  const version = latestVersion(tenantMigrations);

  const kind: OperationKind<CreationInput> = {
    name: 'create',
    plan: (operation, input) => planCreation(deps, operation, input),
    abandon: (trx, { subject }) => deleteTenantRow(trx, subject),
  };
  runner.add(kind);

  async function createNow(input: NewTenant, origin: AuditOrigin): Promise<TenantRecord> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
      const known = input.requestKey && (await earlier.madeBy(input.requestKey));
      if (known) return known;
      const place = await deps.choosePlace(input.wish ?? {});
      await confirmOperator(registry, origin);
      const registered = await register(input, place, origin);
      if (typeof registered === 'object') {
        const made = await make(registered, input, origin);
        if (made) return made;
        continue;
      }
      if (registered !== 'slug-taken') continue;
      // Perhaps the same request was sent twice, and the other one took the slug.
      const meanwhile = input.requestKey && (await earlier.madeBy(input.requestKey));
      if (meanwhile) return meanwhile;
      await earlier.clearAbandoned(input.slug);
    }
    throw new AppError('unavailable', { retryAfter: 5 });
  }

  /** @returns the obstacle if nothing was recorded; `again` if the next attempt must find the obstacle */
  async function register(
    input: NewTenant,
    { clusterId, host, port }: ChosenPlace,
    origin: AuditOrigin,
  ): Promise<RegisteredTenant | 'slug-taken' | 'again'> {
    const { name, slug, poolOptions, limits, requestKey } = input;
    const operatorId = operatorIdOf(origin);
    const tenantWith = (source: Source): TenantToBe => ({
      ...{ name, slug, poolOptions, limits, requestKey, clusterId },
      dbHost: host,
      dbPort: port,
      schemaVersion: version,
      claim: randomUUID(),
      operation: { kind: kind.name, details: { source }, operatorId, worker: replicaId },
    });
    try {
      const claimed = await claimStandby(registry, tenantWith('standby'));
      if (claimed) {
        deps.onClaim();
        return claimed;
      }
      const id = newTenantId();
      const user = newDatabaseName();
      const dbPassword = deps.envelope.seal(newDatabasePassword(), { id, host, port, user });
      const own = { id, dbName: user, dbUser: user, dbPassword };
      // Undefined if the cluster has moved since it was chosen.
      return (await registerTenant(registry, tenantWith('template'), own)) ?? 'again';
    } catch (error) {
      const constraint = violatedUniqueConstraint(error);
      if (constraint === TENANT_SLUG_CONSTRAINT) return 'slug-taken';
      if (constraint === REQUEST_KEY_CONSTRAINT) return 'again';
      deps.onError(error, { step: 'register' });
      // If the statement got no answer, a row may exist, or may appear in a moment.
      const settled = error instanceof DatabaseFault && !error.answered ? 'unknown' : 'undone';
      throw makingFailure('register', undefined, settled, error);
    }
  }

  /** @returns undefined if the standby database could not be used */
  async function make(
    { id, operation }: RegisteredTenant,
    { admin }: NewTenant,
    origin: AuditOrigin,
  ): Promise<TenantRecord | undefined> {
    let tenant: TenantRecord | undefined;
    const input = { admin, origin, made: (active: TenantRecord) => (tenant = active) };
    const outcome = await answered(
      operation,
      runner.work(kind, operation, { input }),
      deps.times.createDeadline,
      ({ undoes, because }) => (undoes && because ? makingFailure(because.step, id, 'half', because.error) : undefined),
    );
    if (outcome.state === 'done') return tenant ?? (await earlier.existing(id));
    const { step, error } = outcome;
    if (error instanceof StandbyTaken) {
      const context = { tenantId: id, step };
      deps.onError(leftAsItIs("a standby database may hold a tenant's data: it is left as it is"), context);
      return undefined;
    }
    if (error instanceof AppError) throw error;
    throw makingFailure(step, id, 'undone', error);
  }

  return { create: (input, origin) => deps.precedence.run(() => createNow(input, origin)) };
}
