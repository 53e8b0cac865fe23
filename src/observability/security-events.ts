// Security events: each is counted, and has a line in the log that is marked with `security: true`. The lines are bounded, so that
// an attack does not fill the disk or hide another event:
//
// - Of each event a replica writes at most BURST lines at once, and LINES_PER_SECOND after that.
// - Of an event that a client can cause at will, only the first of an address in ONE_WINDOW has a line (`onlyFirst`).
// - What is left out is counted: in the metric at once, and after ONE_WINDOW in one line with `leftOut`.
import type { Logger } from 'pino';
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import type { AppError, ErrorCode } from '../errors.js';
import { recentMap } from '../lib/recent-map.js';
import type { MetricDefinition, Metrics } from './metrics.js';
import {
  securityEvents,
  type SecurityEventDefinition,
  type SecurityEventName,
  type SecurityFields,
} from './security-catalogue.js';

export const SECURITY_EVENTS_TOTAL = {
  name: 'tenantry_security_events_total',
  kind: 'counter',
  labels: ['event'],
  values: { event: Object.keys(securityEvents) },
  help: 'Security events, by the name that the log has in the field event.',
  reason: 'An attack or a mistake shows as a rate, also while the log leaves out lines.',
} as const satisfies MetricDefinition;

export interface SecurityEvents {
  /**
   * Counts an event, and writes its line.
   *
   * @param origin the request that caused it: its ids, its address and its caller are fields of the line
   * @param message a sentence that is more exact than the event's description
   * @example
   *     security.record('role-removed', { tenantId, targetId: id }, request.auditOrigin);
   */
  readonly record: (event: SecurityEventName, fields?: SecurityFields, origin?: AuditOrigin, message?: string) => void;
  /** Writes how many lines were left out, and stops the timer. */
  close(): void;
}

/** How an act is reported by a room that gets its origin. */
export type RecordEvent = SecurityEvents['record'];

export const BURST = 50;
export const LINES_PER_SECOND = 10;

/** Time (ms) in which an address has one line of an `onlyFirst` event, and after which the left-out lines are reported. */
export const ONE_WINDOW = 60_000;

/** Addresses that are remembered, for all events together. A forgotten address has a line again, within the rate of the event. */
const MAX_ADDRESSES = 10_000;

/** The lines of one event. */
interface Lines {
  /** How many may be written at once. */
  allowed: number;
  /** Time (ms) of `allowed`. */
  at: number;
  leftOut: number;
}

/**
 * @param deps.metrics undefined where no metrics are served: in a command, and before the engine is built
 * @param deps.now time (ms) of a clock that is never set
 */
export function createSecurityEvents(deps: {
  readonly log: Logger;
  readonly metrics?: Metrics;
  readonly now?: () => number;
}): SecurityEvents {
  const { log, now = () => performance.now() } = deps;
  const counter = deps.metrics?.instrument(SECURITY_EVENTS_TOTAL);
  const names = Object.keys(securityEvents) as SecurityEventName[];
  const counts = new Map(names.map((event) => [event, counter?.labels(event)]));
  const lines = new Map<SecurityEventName, Lines>();
  const writtenAt = recentMap<string, number>(MAX_ADDRESSES);
  let timer: NodeJS.Timeout | undefined;

  function linesOf(event: SecurityEventName): Lines {
    let known = lines.get(event);
    if (!known) lines.set(event, (known = { allowed: BURST, at: now(), leftOut: 0 }));
    return known;
  }

  function mayWrite(event: SecurityEventName, { onlyFirst }: SecurityEventDefinition, address = ''): boolean {
    const time = now();
    const key = `${event} ${address}`;
    if (onlyFirst && time - (writtenAt.get(key) ?? -Infinity) < ONE_WINDOW) return false;
    const budget = linesOf(event);
    budget.allowed = Math.min(BURST, budget.allowed + ((time - budget.at) * LINES_PER_SECOND) / 1_000);
    budget.at = time;
    if (budget.allowed < 1) return false;
    budget.allowed -= 1;
    if (onlyFirst) writtenAt.set(key, time);
    return true;
  }

  function reportLeftOut(): void {
    clearTimeout(timer);
    timer = undefined;
    for (const [event, budget] of lines) {
      if (budget.leftOut === 0) continue;
      const { level } = securityEvents[event];
      log[level]({ security: true, event, leftOut: budget.leftOut }, 'left out lines of a security event');
      budget.leftOut = 0;
    }
  }

  return {
    record(event, fields, origin, message) {
      counts.get(event)?.inc();
      const definition: SecurityEventDefinition = securityEvents[event];
      if (mayWrite(event, definition, origin?.address)) {
        const line = { security: true, event, ...(origin && fieldsOf(origin)), ...fields };
        log[definition.level](line, message ?? definition.description);
        return;
      }
      linesOf(event).leftOut += 1;
      timer ??= setTimeout(reportLeftOut, ONE_WINDOW).unref();
    },

    close: reportLeftOut,
  };
}

/** The request of an event, with the names that the line of the request has. */
function fieldsOf({ actor, address, requestId, traceId }: AuditOrigin): Readonly<Record<string, unknown>> {
  return {
    reqId: requestId,
    traceId,
    address,
    ...(actor.kind === 'user' && { userId: actor.id }),
    ...(actor.kind === 'operator' && { operatorId: actor.id }),
  };
}

/** Refusals that are security events by their code alone. */
const byCode: Readonly<Partial<Record<ErrorCode, SecurityEventName>>> = {
  forbidden: 'forbidden',
  'tenant-suspended': 'suspended-tenant-used',
  'invalid-refresh-token': 'refresh-token-refused',
  'cluster-host-not-allowed': 'cluster-host-refused',
  'confirmation-needed': 'old-sign-in-used',
};

const TOO_MANY_REQUESTS = 429;

/** The security event of a refused request, if it is one. An expired token, or a request without a token, is none. */
export function refusalEvent({ event, code, status }: AppError): SecurityEventName | undefined {
  if (event === null) return undefined;
  return event?.name ?? byCode[code] ?? (status === TOO_MANY_REQUESTS ? 'rate-limited' : undefined);
}
