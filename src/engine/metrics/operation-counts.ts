// Counts the operations that end on this replica.
import type { OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import type { Instruments } from '../../observability/instruments.js';
import type { Attempted } from '../../operations/runner/attempt.js';
import { operationKinds } from '../../operations/runner/operation-kinds.js';

export interface OperationCounts {
  /** When a worker stops working on an operation: counted if the operation has ended. */
  readonly outcome: (operation: OperationRecord, outcome: Attempted, seconds: number) => void;
  readonly abandoned: (operation: OperationRecord) => void;
}

export function operationCounts({
  operationsEnded,
  operationDuration,
}: Pick<Instruments, 'operationsEnded' | 'operationDuration'>): OperationCounts {
  // Otherwise Prometheus would not see the first end as a change.
  for (const kind of operationKinds)
    for (const outcome of ['done', 'undone', 'abandoned']) operationsEnded.inc({ kind, outcome }, 0);
  return {
    outcome: ({ kind }, { state }, seconds) => {
      if (state !== 'done' && state !== 'undone') return;
      operationsEnded.inc({ kind, outcome: state });
      operationDuration.observe({ kind }, seconds);
    },
    abandoned: ({ kind }) => {
      operationsEnded.inc({ kind, outcome: 'abandoned' });
    },
  };
}
