// Removes tenants: the sessions in the tenant's database, the database, the role, and finally the registry's row, so that nothing
// remains without a row. The database is dropped only if its own mark allows it (src/operations/demolish.ts).
//
//     begin (deleted → deleting) → pools → database → row
//
// A person's act begins with its first step, in the transaction that audits it. A purge after the grace time begins with a row
// that is still `deleted`: an operation of `details.grace` looks at the evidence first, and a worker of any replica takes it.
import type { Transaction } from 'kysely';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import {
  findUnfinishedOperation,
  insertOperation,
  takeOperation,
  type OperationRecord,
} from '../../../db/registry/operations/operation-rows.js';
import { retryOperation } from '../../../db/registry/operations/operation-steering.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import {
  deleteTenantRow,
  findSettledTenant,
  giveUpDeleting,
  markTenantDeleting,
} from '../../../db/registry/tenant-status-queries.js';
import { findTenant, type TenantRecord } from '../../../db/registry/tenant-queries.js';
import { DatabaseFault } from '../../../db/driver/database-fault.js';
import { auditAct, confirmOperator, operatorIdOf, recordRequest } from '../../audit/operator-act.js';
import { AppError } from '../../errors.js';
import { within } from '../../lib/deadline.js';

import { complete, look, whyLeft } from '../evidence.js';
import { removalSteps, type RemovalDeps } from './removal-steps.js';
import { isCondemned, keepsDatabase, placeOf, type Seen } from './take-down.js';
import { answered, unfinished } from '../runner/answering.js';
import type { OperationKind } from '../runner/operation-kinds.js';
import type { OperationTimes } from '../runner/operation-times.js';
import type { Outcome, Runner } from '../runner/runner.js';
import { statusesFor } from '../../tenants/tenant-states.js';
import type { TenantLocks } from '../../tenants/tenant-locks.js';
import { isLeftAsItIs, leftAsItIs } from '../reports.js';

/** Why a person removes a tenant: a deleted tenant is purged, or a removal that is unfinished is continued. */
export type RemovalAct = 'abandon' | 'purge';

export interface RemovalWish {
  /** What happens to the database. Default: a database that the service made is dropped, and an adopted database stays. */
  readonly database?: 'drop' | 'keep' | undefined;
}

export interface Removal {
  /**
   * Removes a tenant for a person: its sessions, database, role and row. The removal is audited when it begins. From then on a
   * worker finishes it; a call for a removal that is unfinished tries again at once.
   *
   * @returns false if there is no such tenant in a state that allows removal (src/tenants/tenant-states.ts)
   * @throws AppError `tenant-state` if the database does not carry the evidence that allows its drop; `operation-unfinished` if
   *   not everything could be removed yet
   */
  remove(tenantId: string, origin: AuditOrigin, act?: RemovalAct, wish?: RemovalWish): Promise<boolean>;
  /**
   * Records the purge of a deleted tenant, for the worker that takes it.
   *
   * @param grace time (ms) since the deletion that the purge requires; compared again when the purge begins
   */
  recordPurge(tenant: Pick<TenantRecord, 'id' | 'clusterId'>, grace: number): Promise<void>;
}

/** Rights of the worker that a person waits for. They are not recorded: another worker does not have them. */
interface Asked {
  readonly asked: true;
}

/** Longest time (ms) that an answer waits for a look at the evidence before the removal. */
const LOOK_DEADLINE = 3_000;

export function createRemoval(
  deps: RemovalDeps & {
    readonly locks: TenantLocks;
    readonly runner: Runner;
    /** The replica's id. */
    readonly worker: string;
    readonly times: Pick<OperationTimes, 'removeDeadline'>;
  },
): Removal {
  const { registry, locks, runner, worker } = deps;

  const kind: OperationKind<Asked> = {
    name: 'remove',
    async plan(operation, input) {
      const { subject: id, details } = operation;
      const tenant = await findSettledTenant(registry, id);
      // Also if a former build removed it, which knows no operations.
      if (!tenant) return 'done';
      const isDue = tenant.status === 'deleted' && !tenant.restoring && typeof details['grace'] === 'number';
      if (tenant.status !== 'deleting' && !isDue) return 'undone';
      return { steps: removalSteps(deps, operation, input?.asked ?? false) };
    },
    async abandon(trx, { subject: id }) {
      // An adoption that was undone was never a tenant: what is on the server stays, and is reported.
      if ((await findSettledTenant(trx, id))?.adopts) await deleteTenantRow(trx, id);
      else await giveUpDeleting(trx, id);
    },
  };
  runner.add(kind);

  /** Begins or continues a removal for a person, under the tenant's lock. Undefined if the tenant is in another status. */
  async function begin(
    id: string,
    origin: AuditOrigin,
    act: RemovalAct,
    wish: RemovalWish,
  ): Promise<OperationRecord | undefined> {
    const tenant = await findSettledTenant(registry, id);
    if (!tenant || tenant.status === 'provisioning' || !statusesFor(act).includes(tenant.status)) return undefined;
    if (tenant.status === 'deleted') return beginPurge(tenant, origin, wish);
    await confirmOperator(registry, origin);
    return registry.transaction().execute(async (trx) => {
      if (wish.database !== undefined) await markTenantDeleting(trx, id, ['deleting'], { onPurge: wish.database });
      const operation = await ours(trx, tenant, origin);
      // It ended a moment ago. Without it, a repeated request could not wait for its end.
      if (!operation && origin.claim) throw new AppError('unavailable', { retryAfter: 1 });
      await recordRequest(trx, { ...origin, target: { kind: 'tenant', id }, tenantId: id }, operation);
      return operation;
    });
  }

  /**
   * Checks the evidence first, so that a removal that could not be finished does not begin. If the server does not answer, the
   * evidence decides later, before the drop.
   */
  async function beginPurge(
    tenant: TenantRecord,
    origin: AuditOrigin,
    wish: RemovalWish,
  ): Promise<OperationRecord | undefined> {
    const { id, generation } = tenant;
    if (tenant.restoring)
      throw new AppError('tenant-state', {
        detail: 'The tenant is being restored. Wait until it is active or suspended.',
      });
    const installation = await deps.installation();
    const provisioner = await placeOf(deps, tenant);
    const seen = await within(
      look(provisioner, tenant, installation),
      LOOK_DEADLINE,
      () => new DatabaseFault('timeout', 'no answer in time'),
    ).catch((error: unknown) => {
      if (error instanceof DatabaseFault) return undefined;
      throw error;
    });
    if (
      seen &&
      !keepsDatabase(tenant, wish.database ?? tenant.onPurge) &&
      !['agrees', 'older'].includes(seen.verdict)
    ) {
      // Without a mark of this build only a person decides. No mark shows whether the tenant was restored since the row was
      // written.
      const completed =
        ['former', 'unmarked'].includes(seen.verdict) &&
        (await complete(registry, provisioner, tenant, seen, installation)) !== undefined;
      if (!completed && !isCondemned(tenant, seen.found.text, installation)) {
        deps.report(tenant, whyLeft(seen.verdict, seen.found));
        throw refused(id, seen);
      }
    }
    const begun = await registry.transaction().execute(async (trx) => {
      const deleting = await markTenantDeleting(trx, id, ['deleted'], { generation, onPurge: wish.database });
      if (!deleting) return undefined;
      const operation = await ours(trx, deleting, origin);
      // Rolls back: another worker has just ended an operation on this tenant.
      if (!operation) throw new AppError('unavailable', { retryAfter: 1 });
      const target = { kind: 'tenant', id } as const;
      await auditAct(trx, { ...origin, action: 'tenant.purged', target, tenantId: id }, operation);
      return operation;
    });
    if (begun) deps.record('tenant-purged', { tenantId: id }, origin);
    return begun;
  }

  /** The removal's operation, taken by this worker: a new one, or the unfinished one, whatever it waits for. */
  async function ours(
    trx: Transaction<Registry>,
    { id, clusterId }: TenantRecord,
    origin: AuditOrigin,
  ): Promise<OperationRecord | undefined> {
    const operatorId = operatorIdOf(origin);
    const fresh = await insertOperation(trx, {
      kind: kind.name,
      subject: id,
      tenantId: id,
      clusterId,
      operatorId,
      worker,
    });
    if (fresh) return fresh;
    const known = await findUnfinishedOperation(trx, id, kind.name);
    return known && (await retryOperation(trx, known.id)) && takeOperation(trx, known.id, worker);
  }

  /** An unfinished creation or adoption whose row is `deleting` is undone by its own operation. */
  async function isUndone(id: string): Promise<boolean> {
    if ((await findTenant(registry, id))?.status !== 'deleting') return false;
    for (const making of ['create', 'adopt'] as const) await runner.settle(id, making);
    return (await findTenant(registry, id)) === undefined;
  }

  return {
    async remove(id, origin, act = 'abandon', wish = {}) {
      if (await isUndone(id)) return true;
      let tell: (operation: OperationRecord | undefined) => void = () => undefined;
      const begun = new Promise<OperationRecord | undefined>((resolve) => (tell = resolve));
      const work = locks.hold(id, async (held): Promise<Outcome | undefined> => {
        const operation = await begin(id, origin, act, wish);
        tell(operation);
        return operation && runner.work(kind, operation, { input: { asked: true }, held });
      });
      const operation = await Promise.race([begun, work.then(() => undefined)]).catch(async (error: unknown) => {
        // The lock was not free: perhaps another worker removes the tenant.
        const other = error instanceof AppError && (await findUnfinishedOperation(registry, id, kind.name));
        throw other && error.code === 'unavailable' ? unfinished(other.id, error) : error;
      });
      if (!operation) return false;
      const ended = work.then((outcome): Outcome => {
        if (outcome?.state === 'needs-person' && isLeftAsItIs(outcome.error)) throw left(id, outcome.error);
        return outcome ?? { state: 'lost' };
      });
      return (await answered(operation, ended, deps.times.removeDeadline)).state === 'done';
    },

    async recordPurge({ id, clusterId }, grace) {
      await insertOperation(registry, { kind: kind.name, subject: id, tenantId: id, clusterId, details: { grace } });
    },
  };
}

function refused(id: string, seen: Seen): AppError {
  return seen.verdict === 'newer'
    ? asItIs(
        whyLeft(seen.verdict, seen.found),
        `To remove the tenant, send DELETE /tenants/${id} again, and then purge it.`,
      )
    : left(id, leftAsItIs(whyLeft(seen.verdict, seen.found)));
}

/** @param error its message is a part of a sentence */
function left(id: string, error: unknown): AppError {
  const why = error instanceof Error ? error.message : '';
  return asItIs(why, `POST /tenants/${id}/purge?database=keep removes the tenant and keeps the database.`);
}

function asItIs(why: string, advice: string): AppError {
  return new AppError('tenant-state', { detail: `The database of the tenant is left as it is: ${why}. ${advice}` });
}
