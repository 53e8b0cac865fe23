// The lines of the log about operations: one when an operation begins to wait, and not one for each attempt; one when it needs a
// person; one when it has ended after it waited; and one when it failed.
import type { Logger } from 'pino';
import type { OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import { AppError } from '../../errors.js';
import { textOf, type Attempted } from './attempt.js';

/** @param operation as the worker took it: its `error` is that of the attempt before */
export function logOutcome(log: Logger, operation: OperationRecord, outcome: Attempted): void {
  const { id: operationId, kind, tenantId, clusterId } = operation;
  const about = {
    operationId,
    kind,
    ...(tenantId !== null && { tenantId }),
    ...(clusterId !== null && { clusterId }),
  };
  const waited = operation.error !== null;
  if (outcome.state === 'done') {
    if (waited) log.info(about, 'an operation is done, after it had to wait');
    return;
  }
  const { step, error: err } = outcome;
  const failure = { ...about, step, ...(err !== undefined && { err }) };
  switch (outcome.state) {
    case 'waiting':
      if (textOf(outcome) !== operation.error) log.warn(failure, 'an operation waits, and will be tried again');
      break;
    case 'needs-person':
      log.error(failure, 'an operation needs a person');
      break;
    case 'undone':
      // What the client can mend is in the line of its request.
      if (err instanceof AppError && err.status < 500) break;
      if (err === undefined) log.info(failure, 'an operation is undone');
      else log.error(failure, 'an operation failed, and is undone');
  }
}
