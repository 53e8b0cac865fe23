// What the service counts, logs and reports of the operations that its workers have worked on.
import type { Logger } from 'pino';
import type { SecurityEvents } from '../observability/security-events.js';
import type { Reports } from '../operations/reports.js';
import { logOutcome } from '../operations/runner/operation-log.js';
import type { RunnerDeps } from '../operations/runner/runner.js';
import type { creationCounts } from './metrics/creation-counts.js';
import type { operationCounts } from './metrics/operation-counts.js';

export function observedRunner({
  counts,
  creations,
  log,
  record,
  reports,
}: {
  readonly counts: Pick<ReturnType<typeof operationCounts>, 'outcome'>;
  readonly creations: ReturnType<typeof creationCounts>;
  readonly log: Logger;
  readonly record: SecurityEvents['record'];
  readonly reports: Pick<Reports, 'isReported'>;
}): Pick<RunnerDeps, 'onOutcome' | 'onLookFailed' | 'onError'> {
  return {
    onOutcome: (operation, outcome, seconds) => {
      counts.outcome(operation, outcome, seconds);
      creations(operation, outcome, seconds);
      logOutcome(log, operation, outcome);
      const { tenantId, clusterId } = operation;
      // A tenant's database that is left as it is was reported before, and one refusal is one event.
      if (outcome.state === 'needs-person' && (tenantId === null || !reports.isReported(tenantId))) {
        const about = { tenantId: tenantId ?? undefined, clusterId: clusterId ?? undefined };
        record('evidence-refused', { ...about, step: outcome.step, err: outcome.error });
      }
    },
    onLookFailed: (err) => {
      log.warn({ err }, 'could not look for operations that are due');
    },
    onError: (err, context) => {
      log.warn({ err, ...context }, 'could not take an operation that is due');
    },
  };
}
