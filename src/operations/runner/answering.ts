// How a request waits for an operation.
import { within } from '../../lib/deadline.js';
import { AppError } from '../../errors.js';
import type { OperationRecord } from '../../../db/registry/operation-rows.js';
import type { Outcome } from './runner.js';

/**
 * Waits for the end of an operation that a request began.
 *
 * @param deadline longest wait (ms); the operation goes on after it
 * @returns `done` or `undone`
 * @throws AppError `operation-unfinished`, with the operation's id, if the operation needs more time or a person
 */
export async function answered(
  operation: Pick<OperationRecord, 'id'>,
  work: Promise<Outcome>,
  deadline: number,
): Promise<Extract<Outcome, { state: 'done' | 'undone' }>> {
  const outcome = await within(work, deadline, () => unfinished(operation.id));
  if (outcome.state === 'done' || outcome.state === 'undone') return outcome;
  throw unfinished(operation.id, outcome.state === 'lost' ? undefined : outcome.error);
}

/** @returns AppError `operation-unfinished` */
export function unfinished(operationId: string, cause?: unknown): AppError {
  return new AppError('operation-unfinished', {
    detail: `The service continues by itself. GET /operations/${operationId} shows how far it is.`,
    operationId,
    retryAfter: 5,
    cause,
  });
}
