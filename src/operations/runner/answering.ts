// How a request waits for an operation.
import { within } from '../../lib/deadline.js';
import { AppError } from '../../errors.js';
import type { OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import type { Outcome } from './runner.js';

/**
 * Waits for the end of an operation that a request began.
 *
 * @param deadline longest wait (ms); the operation goes on after it
 * @param failure the error to answer with if the operation waits, instead of `operation-unfinished`
 * @returns `done` or `undone`
 * @throws AppError `operation-unfinished`, with the operation's id, if the operation needs more time or a person
 */
export async function answered(
  operation: Pick<OperationRecord, 'id'>,
  work: Promise<Outcome>,
  deadline: number,
  failure: (waiting: Waiting) => Error | undefined = () => undefined,
): Promise<Extract<Outcome, { state: 'done' | 'undone' }>> {
  const outcome = await within(work, deadline, () => unfinished(operation.id));
  if (outcome.state === 'done' || outcome.state === 'undone') return outcome;
  if (outcome.state === 'lost') throw unfinished(operation.id);
  throw failure(outcome) ?? unfinished(operation.id, outcome.error);
}

/** An operation that waits for its next attempt, or for a person. */
export type Waiting = Extract<Outcome, { state: 'waiting' | 'needs-person' }>;

/**
 * @param operationId undefined if it is not known yet
 * @param detail what is in force already
 * @returns AppError `operation-unfinished`
 */
export function unfinished(
  operationId: string | undefined,
  cause?: unknown,
  detail = `The service continues by itself. GET /operations/${operationId ?? ''} shows how far it is.`,
): AppError {
  return new AppError('operation-unfinished', {
    detail,
    ...(operationId !== undefined && { operationId }),
    retryAfter: 5,
    cause,
  });
}
