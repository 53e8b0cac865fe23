// What the engine's rooms report as security events (src/observability/security-events.ts).
import type { AuditEntry } from '../../db/shared/audit-rows.js';
import type { CentralAuditEntry } from '../../db/registry/registry-audit.js';
import type { AuditTrail } from '../audit/trail.js';
import type { RecordEvent } from '../observability/security-events.js';

/** A trail whose entries, refused attempts, are security events too. They are recorded with the entry: after the answer's time. */
export function recordingTrail(trail: AuditTrail, record: RecordEvent): AuditTrail {
  return {
    laterInTenant(tenantId, entry) {
      recordAttempt(record, entry, 'tenant', tenantId);
      trail.laterInTenant(tenantId, entry);
    },
    laterAtTenant(tenant, entry) {
      // Without the tenant: the text that the client sent for it may be anything.
      recordAttempt(record, entry, 'tenant');
      trail.laterAtTenant(tenant, entry);
    },
    laterInRegistry(entry) {
      recordAttempt(record, entry, isOperators(entry) ? 'operator' : 'tenant', entry.tenantId);
      trail.laterInRegistry(entry);
    },
    close: () => trail.close(),
  };
}

function recordAttempt(
  record: RecordEvent,
  { details = {}, target, ...entry }: AuditEntry,
  realm: 'tenant' | 'operator',
  tenantId?: string,
): void {
  const { reason, on, attempt } = details as Readonly<Record<string, string | undefined>>;
  if (entry.action === 'auth.login-failed')
    record('sign-in-failed', { realm, reason, tenantId, targetId: target?.id }, entry);
  else if (entry.action === 'auth.confirmation-failed') record('confirmation-failed', { realm, tenantId }, entry);
  else if (entry.action === 'auth.throttled' && attempt === 'login') record('sign-in-throttled', { realm, on }, entry);
  else if (entry.action === 'auth.throttled') record('confirmation-throttled', { realm, on, tenantId }, entry);
}

/** The registry also has the failed sign-ins to a tenant that is unknown or not active: their reason says so. */
function isOperators({ details = {} }: CentralAuditEntry): boolean {
  return typeof details['reason'] !== 'string' || !details['reason'].endsWith('-tenant');
}
