// What operators do with an operation: try it again at once, or end it without its remaining steps.
import type { Kysely, Transaction } from 'kysely';
import { abandonOperation, retryOperation } from '../../../db/registry/operations/operation-steering.js';
import { findOperation, type OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import type { AuditAction, AuditOrigin } from '../../../db/shared/audit-rows.js';
import { auditAct } from '../../audit/operator-act.js';
import { AppError } from '../../errors.js';
import type { Runner } from './runner.js';

export interface Steering {
  /**
   * Lets any worker take the operation at once, also one that waits for a person.
   *
   * @throws AppError `not-found`; `operation-state` if it has ended
   */
  retry(id: string, origin: AuditOrigin): Promise<OperationRecord>;
  /**
   * Ends the operation. A worker that still runs loses it. What the kind changes in the registry is in the same transaction, and
   * deletes nothing that may hold data.
   *
   * @throws AppError `not-found`; `operation-state` if it has ended, or this build does not know its kind
   */
  abandon(id: string, origin: AuditOrigin): Promise<OperationRecord>;
}

export interface SteeringDeps {
  readonly registry: Kysely<Registry>;
  readonly runner: Pick<Runner, 'takeUp' | 'kindOf'>;
  /** Makes a change of a tenant's row effective on every replica. */
  readonly publish: (tenantId: string) => Promise<void>;
  readonly onAbandoned: (operation: OperationRecord) => void;
}

export function createSteering({ registry, runner, publish, onAbandoned }: SteeringDeps): Steering {
  return {
    async retry(id, origin) {
      const operation = await registry.transaction().execute(async (trx) => {
        const before = await unfinishedOf(trx, id);
        const retried = await retryOperation(trx, id);
        if (!retried) throw await ended(trx, id);
        await auditAct(trx, entryOf('operation.retried', before, origin));
        return retried;
      });
      runner.takeUp.wake();
      return operation;
    },

    async abandon(id, origin) {
      const operation = await registry.transaction().execute(async (trx) => {
        const before = await unfinishedOf(trx, id);
        const kind = runner.kindOf(before.kind);
        if (!kind)
          throw new AppError('operation-state', {
            detail: 'The answering replica does not know operations of this kind. Ask a replica of a newer build.',
          });
        // The row of the tenant first, then the operation's, as the last step of a worker does. Otherwise the two could wait for
        // each other.
        await kind.abandon?.(trx, before);
        const abandoned = await abandonOperation(trx, id);
        if (!abandoned) throw await ended(trx, id);
        await auditAct(trx, entryOf('operation.abandoned', before, origin));
        return abandoned;
      });
      onAbandoned(operation);
      if (operation.tenantId !== null) await publish(operation.tenantId);
      return operation;
    },
  };
}

/** @throws AppError `not-found`; `operation-state` if it has ended */
async function unfinishedOf(trx: Transaction<Registry>, id: string): Promise<OperationRecord> {
  const operation = await findOperation(trx, id);
  if (!operation) throw new AppError('not-found');
  if (operation.endedAt !== null) throw hasEnded(operation);
  return operation;
}

/** The error of an operation that has ended since it was read. */
async function ended(trx: Transaction<Registry>, id: string): Promise<AppError> {
  const operation = await findOperation(trx, id);
  return operation ? hasEnded(operation) : new AppError('not-found');
}

function hasEnded({ state }: OperationRecord): AppError {
  return new AppError('operation-state', { detail: `The operation has ended as "${state}".` });
}

function entryOf(
  action: AuditAction,
  { id, kind, state, step, tenantId }: OperationRecord,
  origin: AuditOrigin,
): Parameters<typeof auditAct>[1] {
  const details = { kind, state, ...(step !== null && { step }) };
  return { ...origin, action, target: { kind: 'operation', id }, tenantId: tenantId ?? undefined, details };
}
