// Which sessions count: those that began after the tenant was last signed out.
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import type { SessionBeginning } from '../../db/shared/session-queries.js';

/** Whether the tenant is active, and was not signed out since the session began. */
export function admits(tenant: TenantRecord | undefined, { generation, createdAt }: SessionBeginning): boolean {
  if (!tenant?.active) return false;
  const { sessionsGeneration, sessionsValidFrom } = tenant;
  // The session's generation is greater if the registry was restored to a moment before the sign-in.
  if (generation !== null) return generation >= sessionsGeneration;
  // A former build began this session. The clock of the tenant's server is compared with the clock of the registry, with their
  // difference as the error. Both times are ISO 8601 of the same length, which sort correctly as text.
  return sessionsValidFrom === null || createdAt >= sessionsValidFrom;
}
