// Counts the tenants that are made, from a standby database, from the template or by adoption: when the operation ends, whichever
// worker ends it, and whether the request still waits or not.
import { violatedUniqueConstraint } from '../../../db/driver/database-fault.js';
import type { OperationRecord } from '../../../db/registry/operations/operation-rows.js';
import { EMAIL_CONSTRAINT } from '../../../db/tenant/user-queries.js';
import { AppError } from '../../errors.js';
import type { Instruments } from '../../observability/instruments.js';
import type { Attempted } from '../../operations/runner/attempt.js';

/** For each attempt of the runner. @returns a function like `OperationCounts.outcome` */
export function creationCounts({
  tenantCreations,
  tenantCreationDuration,
}: Pick<Instruments, 'tenantCreations' | 'tenantCreationDuration'>): (
  operation: OperationRecord,
  outcome: Attempted,
  seconds: number,
) => void {
  return (operation, outcome, seconds) => {
    const source = sourceOf(operation);
    if (source === undefined) return;
    if (outcome.state === 'done') {
      tenantCreations.inc({ source, outcome: 'success' });
      tenantCreationDuration.observe({ source }, seconds);
    } else if (outcome.state === 'undone' && !isRefusal(outcome.error)) {
      tenantCreations.inc({ source, outcome: 'failed' });
    }
  };
}

function sourceOf({ kind, details }: OperationRecord): 'standby' | 'template' | 'adoption' | undefined {
  if (kind === 'adopt') return 'adoption';
  if (kind !== 'create') return undefined;
  return details['source'] === 'standby' ? 'standby' : 'template';
}

/** A request that could never succeed, such as one with an e-mail address that the database has already, is no failure. */
function isRefusal(error: unknown): boolean {
  if (error instanceof AppError) return error.status < 500;
  return violatedUniqueConstraint(error) === EMAIL_CONSTRAINT;
}
