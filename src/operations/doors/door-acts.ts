// How requests wait for a tenant's database to open or close, and what they answer if that takes longer.
import type { Kysely } from 'kysely';
import { findUnfinishedOperation, type OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { findTenant, type TenantRecord } from '../../../db/registry/tenant-queries.js';
import { DatabaseFault } from '../../../db/driver/database-fault.js';
import { AppError } from '../../errors.js';
import { within } from '../../lib/deadline.js';
import type { TenantLocks } from '../../tenants/tenant-locks.js';
import { isLeftAsItIs } from '../reports.js';
import { unfinished } from '../runner/answering.js';
import type { Joined } from '../runner/joining.js';
import type { OperationTimes } from '../runner/operation-times.js';
import type { Outcome } from '../runner/runner.js';
import type { DoorOperations, Resumption } from './door-operations.js';

export interface DoorActs {
  /**
   * Waits until the database of a tenant that is no longer served is closed.
   *
   * @param begun the operation that the act recorded; undefined if an unfinished one does it
   * @throws AppError `tenant-state` if the database is not this tenant's; `operation-unfinished` at the deadline
   */
  close(tenant: TenantRecord, begun: OperationRecord | undefined): Promise<void>;
  /**
   * Opens a tenant's database under the tenant's lock, after what an earlier request left unfinished.
   *
   * @param begin records the operation; undefined if nothing is left to do
   * @param resumption for an operation that changes the row after the database is open
   * @returns the row as it is then
   * @throws AppError `operation-unfinished` at the deadline; `unavailable` if the lock is not free; errors of the operation
   */
  open(
    id: string,
    begin: (earlier: Joined | undefined) => Promise<OperationRecord | undefined>,
    resumption?: Resumption,
  ): Promise<TenantRecord>;
  /** Waits for work that continues after its answer. */
  finished(): Promise<void>;
}

export function createDoorActs(deps: {
  readonly registry: Kysely<Registry>;
  readonly locks: TenantLocks;
  readonly operations: DoorOperations;
  readonly times: Pick<OperationTimes, 'closeDeadline' | 'openDeadline'>;
  readonly onError: (error: unknown, context: { tenantId: string; step: string }) => void;
}): DoorActs {
  const { registry, locks, operations, times } = deps;
  const running = new Set<Promise<unknown>>();

  /** Limits the time of the answer. The work continues, and `finished` waits for it when the process stops. */
  function bounded<T>(work: Promise<T>, ms: number, late: () => Error): Promise<T> {
    const tracked: Promise<unknown> = work.then(undefined, () => undefined).finally(() => running.delete(tracked));
    running.add(tracked);
    return within(work, ms, late);
  }

  const noAnswer = (): Error => new DatabaseFault('unavailable', 'no answer in time');

  return {
    async close({ id, status }, begun) {
      let operationId = begun?.id;
      const work = operations.close(id, begun, (found) => (operationId = found.id));
      let failure: unknown;
      try {
        const outcome = await bounded(work, times.closeDeadline, noAnswer);
        if (outcome === undefined || outcome.state === 'done') return;
        failure = errorOf(outcome);
      } catch (error) {
        failure = error;
        deps.onError(error, { tenantId: id, step: 'close' });
      }
      const noLongerServed = `The tenant is ${status} and no longer served.`;
      const refused = refusalOf(failure);
      if (refused) throw new AppError('tenant-state', { detail: `${noLongerServed} ${refused.message}` });
      const where = operationId === undefined ? '' : `: GET /operations/${operationId} shows how far it is`;
      const notYet = `Its database is not closed yet: its PostgreSQL server does not answer, or another operation works on it. The service closes it by itself${where}.`;
      throw unfinished(operationId, failure, `${noLongerServed} ${notYet}`);
    },

    async open(id, begin, resumption) {
      let current: OperationRecord | undefined;
      const locked = locks.hold(id, async (held) => {
        const earlier = await operations.settleOpening(id, held);
        if (earlier && earlier.outcome.state !== 'undone') conclude(earlier);
        const operation = await begin(earlier);
        if (!operation) return;
        current = operation;
        const outcome = await operations.open(operation, held, resumption);
        // Another act took it, or another worker, because the connection of the lock was lost.
        const lost = outcome.state === 'lost' ? await operations.settleOpening(id, held) : undefined;
        conclude(lost ?? { operation, outcome });
      });
      try {
        await bounded(locked, times.openDeadline, () => (current ? unfinished(current.id) : noAnswer()));
      } catch (error) {
        const isBusy = error instanceof AppError && error.code === 'unavailable';
        // The lock is not free: perhaps because an earlier request still opens the database.
        const earlier = isBusy ? await findUnfinishedOperation(registry, id, 'open') : undefined;
        throw earlier ? unfinished(earlier.id, error) : error;
      }
      const tenant = await findTenant(registry, id);
      if (!tenant) throw new AppError('not-found');
      return tenant;
    },

    async finished() {
      await Promise.all(running);
    },
  };
}

/** The error of an act that another act overtook. */
export function changedMeanwhile(): AppError {
  return new AppError('tenant-state', {
    detail: 'The tenant was changed by another request. Read it, then try again.',
  });
}

/** @throws unless the operation is done */
function conclude({ operation, outcome }: Joined): void {
  if (outcome.state === 'done') return;
  const error = errorOf(outcome);
  if (outcome.state === 'undone') throw error instanceof Error ? error : changedMeanwhile();
  throw refusalOf(error) ?? unfinished(operation.id, error);
}

function errorOf(outcome: Outcome): unknown {
  return 'error' in outcome ? outcome.error : undefined;
}

/** The error for a person, if a database was left as it is for want of evidence. */
function refusalOf(error: unknown): AppError | undefined {
  return isLeftAsItIs(error) && error.cause instanceof AppError ? error.cause : undefined;
}
