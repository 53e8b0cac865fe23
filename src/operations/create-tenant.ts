// Makes tenants, in a list of steps that are undone if one fails before the database is marked as complete.
import type { Kysely } from 'kysely';
import { randomUUID } from 'node:crypto';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { deleteRequestKeysOf, IDEMPOTENCY_CONSTRAINT } from '../../db/registry/idempotency-keys.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { claimStandby, registerTenant, type TenantToBe } from '../../db/registry/standby-rows.js';
import { deleteTenantRow } from '../../db/registry/tenant-status-queries.js';
import { findTenant, TENANT_SLUG_CONSTRAINT, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { createRuntimeRole, createTenantDatabase } from '../../db/server/server-admin.js';
import { openStandby } from '../../db/server/access.js';
import { DatabaseFault, violatedUniqueConstraint, wasAnswered } from '../../db/driver/database-fault.js';
import { changeMark, markText } from '../../db/server/marks.js';
import { latestVersion } from '../../db/shared/migrator.js';
import { scramVerifier } from '../../db/server/scram.js';
import { grantRuntimeRights } from '../../db/tenant/tenant-grants.js';
import { claimMarker, writeMarker } from '../../db/tenant/marker.js';
import { tenantMigrations } from '../../db/tenant/migrations/index.js';
import { insertFirstAdmin } from '../../db/tenant/user-queries.js';
import { confirmOperator } from '../audit/operator-act.js';
import { AppError } from '../errors.js';
import { createEarlierRequests } from './earlier-requests.js';
import type { RecordEvent } from '../observability/security-events.js';
import type { Envelope } from '../secrets/envelope.js';
import { newDatabaseName, newDatabasePassword, newTenantId, TENANT_SCRAM_ITERATIONS } from '../tenants/tenant-ids.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import { makingFailure, type Settled } from './making-outcome.js';
import { activate, type Making } from './making.js';
import type { NewTenant } from './new-tenant.js';
import type { Precedence } from './precedence.js';
import type { ChosenPlace, PlaceWish } from '../clusters/placement.js';
import type { Provisioners } from '../clusters/provisioners.js';
import type { Reconciler } from './reconciler.js';
import { leftAsItIs } from './reports.js';
import { standbyMark } from './standby-databases.js';
import { templateName } from './templates.js';

export interface Provisioning {
  /**
   * Makes a tenant and its first admin, from a standby database if one is ready. The creation is audited in the step that makes
   * the tenant active. If the request's key is known, nothing is made, and the tenant of the earlier request is returned.
   *
   * @throws AppError `slug-taken`; `idempotency-key-reused` and `idempotency-key-in-use`; `provisioning-failed` if a step failed:
   *   the steps are undone, and the log names the step
   */
  create(tenant: NewTenant, origin: AuditOrigin): Promise<TenantRecord>;
}

export interface ProvisioningDeps {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly locks: TenantLocks;
  /** Chooses the cluster for the database of a new tenant. */
  readonly choosePlace: (wish: PlaceWish) => Promise<ChosenPlace>;
  readonly envelope: Envelope;
  readonly installation: () => Promise<string>;
  /** The most connections that the pools of one tenant may hold: the role's CONNECTION LIMIT. */
  readonly connectionLimit: number;
  /** Standby databases are made only while no tenant is being made. */
  readonly precedence: Pick<Precedence, 'run'>;
  readonly making: Making;
  readonly reconciler: Pick<Reconciler, 'settle'>;
  /** Called after a standby database was claimed. */
  readonly onClaim: () => void;
  /** Called when a tenant was made, or could not be made. @param seconds how long it took */
  readonly onOutcome: (source: 'standby' | 'template', outcome: 'success' | 'failed', seconds: number) => void;
  /** Called when the tenant is active. */
  readonly record: RecordEvent;
  readonly onError: (error: unknown, context: { tenantId?: string; step: string }) => void;
  /** Called after each step, with its name. An error that it throws counts as an error of the step. */
  readonly afterStep?: (step: ProvisioningStep) => void | Promise<void>;
}

/** The steps of making a tenant from the template. */
export const provisioningSteps = ['register', 'role', 'database', 'fill', 'mark', 'activate'] as const;
/** The steps of making a tenant from a standby database. */
export const claimSteps = ['register', 'open', 'fill', 'mark', 'activate'] as const;
export type ProvisioningStep = (typeof provisioningSteps)[number] | (typeof claimSteps)[number];

/**
 * Attempts for each request. A request is tried again after an obstacle was removed, or if a standby database could not be used.
 */
const ATTEMPTS = 4;

/** The generation of a tenant that is being made. */
const FIRST = 1;

/** The database of the tenant that is being made. */
interface Own {
  readonly id: string;
  readonly name: string;
  readonly claim: string;
  /** Undefined for a standby database, which has a password already. */
  readonly password?: string;
}

/**
 * The registry's row comes first, so that nothing exists without a row. Then the mark says that the database is complete. The
 * last step makes the row active. A failure before the mark is undone. After the mark the tenant goes forward, whatever is known
 * of the last step (src/operations/making.ts).
 */
export function createProvisioning(deps: ProvisioningDeps): Provisioning {
  const { registry, provisioners, locks, making } = deps;
  const earlier = createEarlierRequests(deps);
  const version = latestVersion(tenantMigrations);

  async function createNow(input: NewTenant, origin: AuditOrigin): Promise<TenantRecord> {
    for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
      const known = input.requestKey && (await earlier.madeBy(input.requestKey));
      if (known) return known;
      const place = await deps.choosePlace(input.wish ?? {});
      const made = await locks.session((session) => make(session, input, place, origin));
      if (typeof made === 'object') return made;
      if (made !== 'slug-taken') continue;
      // Perhaps the same request was sent twice, and the other one took the slug.
      const meanwhile = input.requestKey && (await earlier.madeBy(input.requestKey));
      if (meanwhile) return meanwhile;
      // The session was given back before this call, because removing the abandoned tenant needs a session itself.
      await earlier.clearAbandoned(input.slug);
    }
    throw new AppError('unavailable', { retryAfter: 5 });
  }

  /** @returns the obstacle if the tenant was not made; `again` if the next attempt must find the obstacle */
  async function make(
    session: Kysely<Registry>,
    input: NewTenant,
    place: ChosenPlace,
    origin: AuditOrigin,
  ): Promise<TenantRecord | 'slug-taken' | 'again'> {
    let own: Own | undefined;
    const begunAt = performance.now();
    const ended = (outcome: 'success' | 'failed'): void => {
      // Without a database it failed at the claim of a standby database, which is tried first.
      const source = own?.password === undefined ? 'standby' : 'template';
      deps.onOutcome(source, outcome, (performance.now() - begunAt) / 1_000);
    };
    const at: { step: ProvisioningStep } = { step: 'register' };
    const run = async <T>(next: ProvisioningStep, work: () => Promise<T>): Promise<T> => {
      at.step = next;
      const done = await work();
      await deps.afterStep?.(next);
      return done;
    };
    await confirmOperator(session, origin);
    try {
      const begun = await run('register', () => register(session, input, place, (registering) => (own = registering)));
      if (!begun) return 'again';
      own = begun;
      const { id, name, claim } = begun;
      const { cluster, inDatabase, role: owner } = await provisioners.at(place);
      const installation = await deps.installation();
      const markAs = (state: 'making' | 'tenant'): string =>
        markText({ installation, id, state, claim, generation: FIRST });
      const making = markAs('making');
      if (begun.password === undefined) {
        deps.onClaim();
        const mark = { from: [standbyMark(installation, id)], to: making };
        if (!(await run('open', () => openStandby(cluster, name, mark)))) {
          // This happens when the registry was restored from a backup taken before the claim. The database stays as it is,
          // without a row.
          await registry.transaction().execute(async (trx) => {
            await deleteTenantRow(trx, id);
            await deleteRequestKeysOf(trx, id);
          });
          deps.onError(leftAsItIs("a standby database may hold a tenant's data: it is left as it is"), {
            tenantId: id,
            step: at.step,
          });
          return 'again';
        }
      } else {
        const verifier = await scramVerifier(begun.password, TENANT_SCRAM_ITERATIONS);
        const { connectionLimit } = deps;
        await run('role', () => createRuntimeRole(cluster, { name, verifier, connectionLimit, mark: making }));
        const template = templateName(tenantMigrations, owner);
        await run('database', () => createTenantDatabase(cluster, { name, template, runtimeRole: name, mark: making }));
      }
      const fresh = begun.password !== undefined;
      await run('fill', () =>
        inDatabase(name, async (db) => {
          if (fresh) {
            await grantRuntimeRights(db, name);
            await writeMarker(db, id, claim);
          } else if (!(await claimMarker(db, id, claim))) {
            throw new Error('the standby database carries the marker of another tenant');
          }
          // Awaited last: the hash is computed while the database is being entered.
          const admin = { ...input.admin, passwordHash: await input.admin.passwordHash };
          // The last step that can be undone.
          await confirmOperator(session, origin);
          if (!(await insertFirstAdmin(db, admin))) throw new Error('the template has no role "admin"');
        }),
      );
      await run('mark', async () => {
        const change = { database: name, role: name, from: [making], to: markAs('tenant') };
        if (!(await changeMark(cluster, change))) throw new Error('another worker undoes the new tenant');
      });
      const made = await run('activate', async () => {
        const active = await activate(session, { id, claim, adopts: null }, origin, deps.record);
        if (!active) throw new Error('the row of the new tenant is gone');
        return active;
      });
      ended('success');
      return made;
    } catch (error) {
      const constraint = violatedUniqueConstraint(error);
      if (at.step === 'register' && constraint === TENANT_SLUG_CONSTRAINT) return 'slug-taken';
      if (at.step === 'register' && constraint === IDEMPOTENCY_CONSTRAINT) return 'again';
      deps.onError(error, { ...(own && { tenantId: own.id }), step: at.step });
      const settled = own ? await settle(own.id, origin, at.step === 'activate' && wasAnswered(error)) : 'undone';
      if (typeof settled === 'object') {
        ended('success');
        return settled;
      }
      if (error instanceof AppError) throw error;
      ended('failed');
      // If the first step got no answer, a row may exist, or may appear in a moment.
      const unknown = at.step === 'register' && error instanceof DatabaseFault;
      throw makingFailure(at.step, own?.id, unknown ? 'unknown' : settled, error);
    }
  }

  /** Runs under the tenant's lock. If it fails, the row stays, and the reconciler continues. */
  async function settle(id: string, origin: AuditOrigin, refused: boolean): Promise<TenantRecord | Settled> {
    try {
      const active = await making.settle(id, { origin, refused });
      if (active) return active;
    } catch (error) {
      deps.onError(error, { tenantId: id, step: 'undo' });
    }
    try {
      const row = await findTenant(registry, id);
      return row ? (row.status === 'deleting' ? 'half' : 'unknown') : 'undone';
    } catch {
      return 'unknown';
    }
  }

  /** @param begun receives the database before its row is written, because the answer to the write may be lost */
  async function register(
    session: Kysely<Registry>,
    { name, slug, poolOptions, limits, requestKey }: NewTenant,
    { clusterId, host, port }: ChosenPlace,
    begun: (own: Own) => void,
  ): Promise<Own | undefined> {
    const claim = randomUUID();
    const tenant: TenantToBe = {
      name,
      slug,
      poolOptions,
      limits,
      requestKey,
      clusterId,
      dbHost: host,
      dbPort: port,
      schemaVersion: version,
      claim,
    };
    const claimed = await claimStandby(session, tenant);
    if (claimed) {
      const standby = { id: claimed.id, name: claimed.dbName, claim };
      begun(standby);
      return standby;
    }
    const own = { id: newTenantId(), name: newDatabaseName(), password: newDatabasePassword(), claim };
    begun(own);
    const registered = await registerTenant(session, tenant, {
      id: own.id,
      dbName: own.name,
      dbUser: own.name,
      dbPassword: deps.envelope.seal(own.password, { id: own.id, host, port, user: own.name }),
    });
    // Undefined if the cluster has moved since it was chosen.
    return registered && own;
  }

  return { create: (input, origin) => deps.precedence.run(() => createNow(input, origin)) };
}
