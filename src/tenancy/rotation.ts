// Changing the password of a tenant's role while it is used. At no moment does a new connection fail: the next password is
// stored before the server knows of it, so that whoever is refused with the current one finds it there (src/tenancy/pools.ts).
// Open connections live on. Each step can be repeated, and whatever is left half done is finished by the job.
import type { Kysely } from 'kysely';
import type { AuditOrigin } from '../../db/audit.js';
import { insertAudit } from '../../db/central/audit.js';
import {
  listDueRotations,
  listUnfinishedRotations,
  promoteNextPassword,
  storeNextPassword,
} from '../../db/central/passwords.js';
import type { Registry } from '../../db/central/schema.js';
import { findTenant, type TenantRecord } from '../../db/central/tenants.js';
import { setRolePassword } from '../../db/cluster.js';
import { within } from '../../db/deadline.js';
import { DatabaseFault } from '../../db/errors.js';
import { scramVerifier } from '../../db/scram.js';
import { AppError } from '../errors.js';
import { Slots } from '../slots.js';
import type { Envelope } from './envelope.js';
import { newDatabasePassword, TENANT_SCRAM_ITERATIONS } from './ids.js';
import type { TenantLocks } from './locks.js';
import type { Provisioners } from './provisioners.js';

export interface Rotation {
  /**
   * Gives a tenant's role a new password, or finishes a change that was begun. Audited when it begins: from then on it is
   * finished, by this call or by the job.
   *
   * @returns false where there is no such tenant
   * @throws AppError `tenant-state` where its state does not allow it; `unavailable` where somebody is at work on the tenant
   *   for too long, or the new password is stored and not in force yet
   */
  rotate(tenantId: string, origin: AuditOrigin): Promise<boolean>;
  /**
   * The housekeeping job: finishes what was begun, then changes what is older than it may be; a bounded number each time. A
   * tenant that somebody is at work on is left for the next run.
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
  /** Tells every replica that the tenant's row changed. @throws where it could not be told */
  readonly tell: (tenantId: string) => Promise<void>;
  /** A password older than this (ms) is changed by the job; 0 never. */
  readonly rotateAfter: number;
  readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
  /** Called when a step is done, with its name. An error it throws counts as the step's. */
  readonly afterStep?: (step: RotationStep) => void | Promise<void>;
}

/** Rotations of one process at once; each holds a lock. */
const AT_ONCE = 2;
const WAITING = 20;

/** Longest wait (ms) for the tenant's server. */
const ALTER_DEADLINE = 8_000;

/** Tenants that one run of the job finishes, and that it rotates. */
const PER_RUN = 100;

/** The service itself. */
const NOBODY: AuditOrigin = { actor: { kind: 'none' } };

/** A next password can be replaced meanwhile, by one that was sealed with another key or because it could not be read. */
const ATTEMPTS = 3;

export function createRotation(deps: RotationDeps): Rotation {
  const { registry, locks, envelope } = deps;
  const slots = new Slots(AT_ONCE, WAITING);
  /** Those who ask for the same tenant meanwhile share the work. */
  const rotations = new Map<string, Promise<boolean>>();

  /** Within the tenant's lock: two at once could leave the server with the password of one and the registry with another's. */
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
      if (!(await storeNextPassword(trx, id, sealNew(tenant), null))) return false;
      await insertAudit(trx, {
        ...origin,
        action: 'tenant.password-rotated',
        target: { kind: 'tenant', id },
        tenantId: id,
      });
      return true;
    });
    if (!stored) throw new AppError('tenant-state', { detail: `The tenant is ${tenant.status}.` });
  }

  /** Within the tenant's lock. @throws AppError `unavailable` */
  async function finish(tenantId: string): Promise<void> {
    let step: RotationStep = 'store';
    const done = async (name: RotationStep): Promise<void> => {
      step = name;
      await deps.afterStep?.(name);
    };
    try {
      await done('store');
      for (let attempt = 1; attempt <= ATTEMPTS; attempt += 1) {
        const tenant = await findTenant(registry, tenantId);
        if (typeof tenant?.nextDbPassword !== 'string') return;
        const next = openNext(tenant, tenant.nextDbPassword);
        if (next === undefined) {
          // Nobody can ever enter with it: another one takes its place.
          await storeNextPassword(registry, tenantId, sealNew(tenant), tenant.nextDbPassword);
          continue;
        }
        // So that a replica which cannot ask the registry later knows both.
        await deps.tell(tenantId);
        await done('tell');
        await within(alter(tenant, next), ALTER_DEADLINE, () => new DatabaseFault('timeout', 'no answer'));
        await done('alter');
        if (!(await promoteNextPassword(registry, tenantId, tenant.nextDbPassword))) continue;
        await done('promote');
        await deps.tell(tenantId);
        return;
      }
      throw new Error('the next password was replaced again and again');
    } catch (error) {
      deps.onError(error, { tenantId, step });
      throw new AppError('unavailable', {
        detail: 'The new password is stored. It is put in force as soon as that is possible, by itself.',
        retryAfter: 5,
        cause: error,
      });
    }
  }

  async function alter({ dbHost: host, dbPort: port, dbUser }: TenantRecord, password: string): Promise<void> {
    const { cluster } = await deps.provisioners.at({ host, port });
    await setRolePassword(cluster, dbUser, await scramVerifier(password, TENANT_SCRAM_ITERATIONS), ALTER_DEADLINE);
  }

  function sealNew({ id, dbHost: host, dbPort: port, dbUser: user }: TenantRecord): string {
    return envelope.seal(newDatabasePassword(), { id, host, port, user });
  }

  function openNext(
    { id, dbHost: host, dbPort: port, dbUser: user }: TenantRecord,
    sealed: string,
  ): string | undefined {
    try {
      return envelope.open(sealed, { id, host, port, user });
    } catch (error) {
      deps.onError(error, { tenantId: id, step: 'open' });
      return undefined;
    }
  }

  function rotate(tenantId: string, origin: AuditOrigin): Promise<boolean> {
    let rotation = rotations.get(tenantId);
    if (!rotation) {
      rotation = slots
        .run(() => locks.hold(tenantId, () => change(tenantId, origin)))
        .finally(() => rotations.delete(tenantId));
      rotations.set(tenantId, rotation);
    }
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
        // One server that is gone is waited for once.
        if (unreachable.has(`${host}:${port}`)) continue;
        try {
          await slots.run(() => locks.attempt(id, rest));
        } catch (error) {
          // What it was is told by `finish`; a state that changed meanwhile is no failure.
          if (!(error instanceof AppError)) throw error;
          if (error.cause instanceof DatabaseFault) unreachable.add(`${host}:${port}`);
        }
      }
    },
  };
}
