// Changes the password of a tenant's role while the tenant is served. No new connection fails: the next password is stored before
// the server gets it. If the server refuses the current password, the pool finds the next one in the registry
// (src/connections/tenant-pools.ts). Open connections stay open.
//
//   current P              --store-->    current P, next N    the server has P
//   current P, next N      --alter-->    the same             the server has P or N
//   current P, next N      --promote-->  current N            the server has N
//
// The server must have the password `next`, or `current` if there is no next one. Each step compares before it writes. So a step
// can be repeated, a step whose answer is lost does no harm, and a late worker changes nothing. Once the next password is stored, the
// operation only goes forward: the server may have that password already.
import type { Kysely } from 'kysely';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { endWhenIdle } from '../../db/registry/job-locks.js';
import { endOperation, insertOperation, type OperationRecord } from '../../db/registry/operations/operation-rows.js';
import { listDueRotations, promoteNextPassword, storeNextPassword } from '../../db/registry/sealed-password-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { within } from '../lib/deadline.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { setRolePassword } from '../../db/server/role-password.js';
import { scramVerifier } from '../../db/server/scram.js';
import { auditAct, operatorIdOf, SERVICE, recordRequest } from '../audit/operator-act.js';
import { AppError } from '../errors.js';
import type { RecordEvent } from '../observability/security-events.js';
import type { Envelope } from '../secrets/envelope.js';
import { newDatabasePassword, TENANT_SCRAM_ITERATIONS } from '../tenants/tenant-ids.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import type { Provisioners } from '../clusters/provisioners.js';
import { unfinished } from './runner/answering.js';
import { createJoining } from './runner/joining.js';
import { LostOperation, PastReturn, type OperationKind, type Step } from './runner/operation-kinds.js';
import type { Runner } from './runner/runner.js';

export interface Rotation {
  /**
   * Gives a tenant's role a new password, or finishes a change that was begun. The change is audited when it begins. From then on
   * this call or another worker finishes it.
   *
   * @returns false if there is no such tenant
   * @throws AppError `tenant-state` if the tenant's state does not allow it; `operation-unfinished` if the new password is stored but
   *   not in force yet
   */
  rotate(tenantId: string, origin: AuditOrigin): Promise<boolean>;
  /**
   * The housekeeping job: records operations for passwords that are too old, a bounded number in each run. It asks no server, so a
   * server that does not answer delays no other rotation.
   */
  run(signal: AbortSignal): Promise<void>;
}

export interface RotationDeps {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  readonly runner: Runner;
  /** The replica's id. */
  readonly worker: string;
  readonly provisioners: Provisioners;
  readonly envelope: Envelope;
  /** Notifies every replica that the tenant's row changed. @throws if the notification fails */
  readonly tell: (tenantId: string) => Promise<void>;
  /** Called when a new password is stored. */
  readonly record: RecordEvent;
  /** The job changes a password older than this (ms); 0 turns this off. */
  readonly rotateAfter: number;
  readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
}

/** Longest wait (ms) for the tenant's server. */
const ALTER_DEADLINE = 8_000;

/** Longest time (ms) that an answer waits for the rotation. */
const DEADLINE = 8_000;

/** Operations that the job records in a run. */
const PER_RUN = 100;

/**
 * Attempts, because other workers can change the row or the role between two steps: re-encryption, another rotation, the job of
 * connection limits.
 */
const ATTEMPTS = 6;

/** What one attempt at an operation knows of the server. */
interface Server {
  /** The password that the server confirmed. */
  inForce?: string;
}

export function createRotation(deps: RotationDeps): Rotation {
  const { registry, envelope, runner, worker } = deps;
  const joining = createJoining(deps);

  /**
   * Stores the next password and records the operation.
   *
   * @param by the replica that begins at once
   * @returns undefined if there is an unfinished rotation
   * @throws AppError `tenant-state`
   */
  async function begin(tenant: TenantRecord, origin: AuditOrigin, by?: string): Promise<OperationRecord | undefined> {
    const { id, clusterId } = tenant;
    const operatorId = operatorIdOf(origin);
    const values = { kind: 'rotate', subject: id, tenantId: id, clusterId, operatorId, worker: by };
    // A former build began it, or a person abandoned its operation.
    const target = { kind: 'tenant', id } as const;
    if (tenant.nextDbPassword !== null)
      return registry.transaction().execute(async (trx) => {
        const operation = await insertOperation(trx, values);
        if (operation) await recordRequest(trx, { ...origin, target, tenantId: id }, operation);
        return operation;
      });
    const begun = await registry.transaction().execute(async (trx) => {
      await endWhenIdle(trx);
      if (!(await storeNextPassword(trx, id, sealNew(tenant), null))) return undefined;
      const operation = await insertOperation(trx, values);
      await auditAct(trx, { ...origin, action: 'tenant.password-rotated', target, tenantId: id }, operation);
      return { operation };
    });
    if (begun) {
      deps.record('database-password-changed', { tenantId: id }, origin);
      return begun.operation;
    }
    const now = await findTenant(registry, id);
    // Another worker began a change, and has perhaps finished it since.
    if (now?.status === 'active' || now?.status === 'suspended') return begin(now, origin, by);
    throw new AppError('tenant-state', {
      detail: `The tenant is ${now?.status ?? tenant.status}: its password cannot be changed.`,
    });
  }

  /**
   * Gives the server the password that the row has.
   *
   * @returns the row; undefined if it is gone: the removal of the tenant drops the role
   */
  async function apply(tenantId: string, server: Server): Promise<TenantRecord | undefined> {
    for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
      const tenant = await findTenant(registry, tenantId);
      if (!tenant) return undefined;
      const wanted = openWanted(tenant);
      if (wanted === undefined) {
        // This process cannot decrypt the next password, so another password replaces it.
        await storeNextPassword(registry, tenantId, sealNew(tenant), tenant.nextDbPassword);
        continue;
      }
      if (wanted === server.inForce) return tenant;
      // Notified first: a replica that later cannot query the registry then knows both passwords.
      await deps.tell(tenantId);
      if (!(await within(alter(tenant, wanted), ALTER_DEADLINE, () => new DatabaseFault('timeout', 'no answer'))))
        continue;
      server.inForce = wanted;
      return tenant;
    }
    throw new DatabaseFault('busy', 'other workers kept changing the password');
  }

  /** Makes the password current that the server has, and ends the operation in the same transaction. */
  async function promote(operation: OperationRecord, server: Server): Promise<void> {
    const id = operation.subject;
    for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
      const tenant = await apply(id, server);
      const next = tenant?.nextDbPassword ?? null;
      const isPromoted = await registry.transaction().execute(async (trx) => {
        await endWhenIdle(trx);
        if (next !== null && !(await promoteNextPassword(trx, id, next))) return false;
        if (!(await endOperation(trx, operation, 'done'))) throw new LostOperation();
        return true;
      });
      if (!isPromoted) continue;
      await deps.tell(id);
      return;
    }
    throw new DatabaseFault('busy', 'other workers kept changing the password');
  }

  const kind: OperationKind = {
    name: 'rotate',
    async plan(operation) {
      const tenant = await findTenant(registry, operation.subject);
      if (!tenant || tenant.status === 'deleting') return 'done';
      // Another worker finished the change, and no worker of this operation sent a password that could be in force instead.
      if (tenant.nextDbPassword === null && operation.step === null) return 'done';
      const server: Server = {};
      const step = (name: string, work: () => Promise<unknown>): Step => ({
        name,
        // Compares before it writes, so it is simply done again.
        settled: async () => 'not-done',
        async do() {
          await work();
        },
        undo: () => Promise.reject(new PastReturn()),
      });
      return {
        steps: [
          step('alter', () => apply(operation.subject, server)),
          step('promote', () => promote(operation, server)),
        ],
      };
    },
  };
  runner.add(kind);

  /**
   * @returns false if the server was not changed: the registry now wants another password, or another worker was changing the
   *   role
   */
  async function alter(tenant: TenantRecord, password: string): Promise<boolean> {
    const { id, dbHost: host, dbPort: port, dbUser: name } = tenant;
    const { cluster } = await deps.provisioners.at({ host, port });
    const verifier = await scramVerifier(password, TENANT_SCRAM_ITERATIONS);
    return setRolePassword(cluster, { name, verifier }, ALTER_DEADLINE, async () => {
      const now = await findTenant(registry, id);
      // Passwords are compared, not ciphertexts: re-encryption stores the same password as another ciphertext.
      return now !== undefined && openWanted(now) === password;
    });
  }

  function sealNew({ id, dbHost: host, dbPort: port, dbUser: user }: TenantRecord): string {
    return envelope.seal(newDatabasePassword(), { id, host, port, user });
  }

  /** The password that the server must have. Undefined if this process cannot decrypt it. */
  function openWanted(tenant: TenantRecord): string | undefined {
    const { id, dbHost: host, dbPort: port, dbUser: user } = tenant;
    try {
      return envelope.open(tenant.nextDbPassword ?? tenant.dbPassword, { id, host, port, user });
    } catch (error) {
      deps.onError(error, { tenantId: id, step: 'open' });
      return undefined;
    }
  }

  return {
    async rotate(tenantId, origin) {
      const tenant = await findTenant(registry, tenantId);
      if (!tenant) return false;
      const begun = await begin(tenant, origin, worker);
      let operationId = begun?.id;
      try {
        const work = joining.join(kind, tenantId, begun, (found) => (operationId = found.id));
        const joined = await within(work, DEADLINE, () => new DatabaseFault('timeout', 'no answer'));
        if (!joined || joined.outcome.state === 'done') return true;
        throw 'error' in joined.outcome ? joined.outcome.error : new LostOperation();
      } catch (error) {
        deps.onError(error, { tenantId, step: 'rotate' });
        const where = operationId === undefined ? '' : ` GET /operations/${operationId} shows how far it is.`;
        const stored = `The new password is stored. The service applies it by itself as soon as the server allows.${where}`;
        throw unfinished(operationId, error, stored);
      }
    },

    async run(signal) {
      if (deps.rotateAfter === 0) return;
      for (const id of await listDueRotations(registry, deps.rotateAfter, PER_RUN)) {
        if (signal.aborted) break;
        const tenant = await findTenant(registry, id);
        try {
          if (tenant) await begin(tenant, SERVICE);
        } catch (error) {
          // Its status changed meanwhile.
          if (!(error instanceof AppError)) throw error;
        }
      }
      runner.takeUp.wake();
    },
  };
}
