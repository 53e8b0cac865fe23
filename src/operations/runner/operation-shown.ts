// An operation as people see it: in the answers of the API and at the command line.
import type { OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import type { OperationState } from '../../../db/registry/operations/operations-table.js';
import { operationMessage } from './operation-words.js';

export interface ShownOperation {
  id: string;
  kind: string;
  state: OperationState;
  /** The step that runs, or at which it waits. */
  step: string | null;
  /** null for steps that are not counted. */
  progress: { done: number; total: number } | null;
  /** How often a replica has taken it. */
  attempts: number;
  /** The last error, in plain words. */
  error: string | null;
  tenantId: string | null;
  clusterId: string | null;
  /** The id of the operator who asked for it; null if the service began it. */
  startedBy: string | null;
  /** When it is tried again. */
  notBefore: string | null;
  createdAt: string;
  updatedAt: string;
  endedAt: string | null;
  /** What is going on, and what an operator can do. */
  message: string;
}

export function showOperation(operation: OperationRecord): ShownOperation {
  const { progressDone: done, progressTotal: total, operatorId, state, notBefore } = operation;
  return {
    id: operation.id,
    kind: operation.kind,
    state,
    step: operation.step,
    progress: done === null || total === null ? null : { done, total },
    // Abandoning counts as one, so that a worker that still runs loses the operation.
    attempts: state === 'abandoned' ? operation.attempts - 1 : operation.attempts,
    error: operation.error,
    tenantId: operation.tenantId,
    clusterId: operation.clusterId,
    startedBy: operatorId,
    notBefore: state === 'waiting' ? notBefore : null,
    createdAt: operation.createdAt,
    updatedAt: operation.updatedAt,
    endedAt: operation.endedAt,
    message: operationMessage(operation),
  };
}
