// How a command shows one operation.
import type { OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import { showOperation } from '../../operations/runner/operation-shown.js';
import type { Output } from '../terminal/output.js';
import { fieldsOf, shortTime } from '../terminal/table.js';

export function outputOperation(out: Output, operation: OperationRecord): void {
  const shown = showOperation(operation);
  const { progress } = shown;
  out.show(shown, () =>
    fieldsOf([
      ['id', shown.id],
      ['kind', shown.kind],
      ['state', shown.state],
      ['step', shown.step],
      ['done', progress && `${progress.done} of ${progress.total}`],
      ['attempts', shown.attempts],
      ['error', shown.error],
      ['tenant', shown.tenantId],
      ['cluster', shown.clusterId],
      ['started by', shown.startedBy],
      ['next attempt', shortTime(shown.notBefore)],
      ['created', shortTime(shown.createdAt)],
      ['changed', shortTime(shown.updatedAt)],
      ['ended', shortTime(shown.endedAt)],
      ['meaning', shown.message],
    ]),
  );
}
