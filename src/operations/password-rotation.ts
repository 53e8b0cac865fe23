// Changes the password of a tenant's role while the tenant is served. No new connection fails: the next password is stored before
// the server gets it. If the server refuses the current password, the pool finds the next one in the registry
// (src/connections/tenant-pools.ts). Open connections stay open.
//
//   current P              --store-->    current P, next N    the server has P
//   current P, next N      --alter-->    the same             the server has P or N
//   current P, next N      --promote-->  current N            the server has N
//
// The server must have the password `next`, or `current` if there is no next one. Each step compares before it writes. So a step
// can be repeated, a step whose answer is lost does no harm, and a late worker changes nothing. The job finishes a change that
// was left unfinished.
import type { Kysely } from 'kysely';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import { endWhenIdle } from '../../db/registry/job-locks.js';
import {
  listDueRotations,
  listUnfinishedRotations,
  promoteNextPassword,
  storeNextPassword,
} from '../../db/registry/sealed-password-queries.js';
import type { Registry } from '../../db/registry/registry-schema.js';
import { findTenant, type TenantRecord } from '../../db/registry/tenant-queries.js';
import { within } from '../lib/deadline.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { setRolePassword } from '../../db/server/role-password.js';
import { scramVerifier } from '../../db/server/scram.js';
import { auditAct } from '../audit/operator-act.js';
import { AppError } from '../errors.js';
import { Slots } from '../jobs/bounded-tasks.js';
import type { RecordEvent } from '../observability/security-events.js';
import type { Envelope } from '../secrets/envelope.js';
import { newDatabasePassword, TENANT_SCRAM_ITERATIONS } from '../tenants/tenant-ids.js';
import type { TenantLocks } from '../tenants/tenant-locks.js';
import type { Provisioners } from '../clusters/provisioners.js';

export interface Rotation {
  /**
   * Gives a tenant's role a new password, or finishes a change that was begun. The change is audited when it begins. From then on
   * this call or the job finishes it.
   *
   * @returns false if there is no such tenant
   * @throws AppError `tenant-state` if the tenant's state does not allow it; `unavailable` if another worker holds the tenant's
   *   lock for too long, or if the new password is stored but not in force yet
   */
  rotate(tenantId: string, origin: AuditOrigin): Promise<boolean>;
  /**
   * The housekeeping job: finishes changes that were begun, then changes passwords that are too old; a bounded number in each
   * run. A tenant that another worker has locked waits for the next run.
   */
  run(signal: AbortSignal): Promise<void>;
}

export const rotationSteps = ['store', 'tell', 'alter', 'promote'] as const;
export type RotationStep = (typeof rotationSteps)[number];

export interface RotationDeps {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  readonly provisioners: Provisioners;
  readonly envelope: Envelope;
  /** Notifies every replica that the tenant's row changed. @throws if the notification fails */
  readonly tell: (tenantId: string) => Promise<void>;
  /** Called when a new password is stored. */
  readonly record: RecordEvent;
  /** The job changes a password older than this (ms); 0 turns this off. */
  readonly rotateAfter: number;
  readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
  /** Called after each step, with its name. An error that it throws counts as an error of the step. */
  readonly afterStep?: (step: RotationStep) => void | Promise<void>;
}

/** Rotations that one process runs at once; each holds a lock. */
const AT_ONCE = 2;
const WAITING = 20;

/** Longest wait (ms) for the tenant's server. */
const ALTER_DEADLINE = 8_000;

/** Limit for each of the two kinds of work in a run: tenants that are finished, and tenants that are rotated. */
const PER_RUN = 100;

/** Work of the service itself has no actor. */
const NOBODY: AuditOrigin = { actor: { kind: 'none' } };

/**
 * Attempts, because other workers can change the row or the role between two steps: re-encryption, another rotation, the job of
 * connection limits.
 */
const ATTEMPTS = 6;

export function createRotation(deps: RotationDeps): Rotation {
  const { registry, locks, envelope } = deps;
  const slots = new Slots(AT_ONCE, WAITING);
  /** Running rotations by tenant: further requests for the same tenant share the result. */
  const rotations = new Map<string, Promise<boolean>>();

  /** Runs within the tenant's lock. The lock only saves work; a worker whose lock is lost does no harm. */
  async function change(tenantId: string, origin: AuditOrigin): Promise<boolean> {
    const tenant = await findTenant(registry, tenantId);
    if (!tenant) return false;
    if (tenant.nextDbPassword === null) await begin(tenant, origin);
    await finish(tenantId);
    return true;
  }

  async function begin(tenant: TenantRecord, origin: AuditOrigin): Promise<void> {
    const { id } = tenant;
    const stored = await registry.transaction().execute(async (trx) => {
      await endWhenIdle(trx);
      if (!(await storeNextPassword(trx, id, sealNew(tenant), null))) return false;
      await auditAct(trx, {
        ...origin,
        action: 'tenant.password-rotated',
        target: { kind: 'tenant', id },
        tenantId: id,
      });
      return true;
    });
    if (stored) {
      deps.record('database-password-changed', { tenantId: id }, origin);
      return;
    }
    const now = await findTenant(registry, id);
    // Another worker began a change; that change is finished now.
    if (typeof now?.nextDbPassword === 'string') return;
    throw new AppError('tenant-state', {
      detail: `The tenant is ${now?.status ?? tenant.status}: its password cannot be changed.`,
    });
  }

  /** Runs within the tenant's lock. Returns only if server and registry agree. @throws AppError `unavailable` */
  async function finish(tenantId: string): Promise<void> {
    let step: RotationStep = 'store';
    const done = async (name: RotationStep): Promise<void> => {
      step = name;
      await deps.afterStep?.(name);
    };
    try {
      await done('store');
      /** The last password that this worker sent to the server, in force or not. */
      let sent: string | undefined;
      /** The password that the server confirmed. */
      let inForce: string | undefined;
      for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
        const tenant = await findTenant(registry, tenantId);
        // The removal of the tenant drops the role.
        if (!tenant) return;
        const { nextDbPassword: next } = tenant;
        // Another worker finished the change, and this worker sent no password that could be in force instead.
        if (next === null && sent === undefined) return;
        const wanted = openWanted(tenant);
        if (wanted === undefined) {
          // This process cannot decrypt the next password, so another password replaces it.
          await storeNextPassword(registry, tenantId, sealNew(tenant), next);
          continue;
        }
        if (wanted !== inForce) {
          // Notified first: a replica that later cannot query the registry then knows both passwords.
          await deps.tell(tenantId);
          await done('tell');
          sent = wanted;
          if (!(await within(alter(tenant, wanted), ALTER_DEADLINE, () => new DatabaseFault('timeout', 'no answer'))))
            continue;
          inForce = wanted;
          await done('alter');
        }
        if (next === null) return;
        if (!(await promoteNextPassword(registry, tenantId, next))) continue;
        await done('promote');
        await deps.tell(tenantId);
        return;
      }
      throw new Error('other workers kept changing the password');
    } catch (error) {
      deps.onError(error, { tenantId, step });
      throw new AppError('unavailable', {
        detail: 'The new password is stored. The service applies it by itself as soon as the server allows.',
        retryAfter: 5,
        cause: error,
      });
    }
  }

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

  async function rotate(tenantId: string, origin: AuditOrigin): Promise<boolean> {
    for (let other; (other = rotations.get(tenantId));) {
      try {
        return await other;
      } catch (error) {
        // The caller that began the rotation may not act any more. This caller still may.
        if (!(error instanceof AppError && error.code === 'unauthenticated')) throw error;
      }
    }
    const rotation = slots
      .run(() => locks.hold(tenantId, () => change(tenantId, origin)))
      .finally(() => rotations.delete(tenantId));
    rotations.set(tenantId, rotation);
    return rotation;
  }

  return {
    rotate,

    async run(signal) {
      const due = deps.rotateAfter > 0 ? await listDueRotations(registry, deps.rotateAfter, PER_RUN) : [];
      const begun = await listUnfinishedRotations(registry, PER_RUN);
      const work = [
        ...begun.map((tenant) => ({ ...tenant, rest: () => finish(tenant.id) })),
        ...due.map((tenant) => ({ ...tenant, rest: () => change(tenant.id, NOBODY) })),
      ];
      const unreachable = new Set<string>();
      for (const { id, host, port, rest } of work) {
        if (signal.aborted) return;
        // The job waits only once for a server that does not answer.
        if (unreachable.has(`${host}:${port}`)) continue;
        try {
          await slots.run(() => locks.attempt(id, rest));
        } catch (error) {
          // `finish` has logged the failure; a state that changed meanwhile is no failure.
          if (!(error instanceof AppError)) throw error;
          if (error.cause instanceof DatabaseFault) unreachable.add(`${host}:${port}`);
        }
      }
    },
  };
}
