// A finding of the doctor, and its repair. Checks make findings; nothing is changed before a repair runs.
import type { AuditOrigin } from '../../db/shared/audit-rows.js';
import type { TenantRecord } from '../../db/registry/tenant-queries.js';
import type { Place } from '../clusters/provisioners.js';
import type { CodeEntry } from './code-entry.js';
import { doctorCodes, type DoctorCode } from './doctor-codes.js';

export interface Repair {
  /** What it does, as a sentence without its full stop. */
  readonly does: string;
  /** Can be repeated, also after it was interrupted. @throws PlainError if the evidence does not allow it */
  readonly run: (origin: AuditOrigin) => Promise<void>;
}

export interface Finding {
  readonly code: DoctorCode;
  readonly severity: CodeEntry['severity'];
  /** `host:port`. */
  readonly cluster?: string;
  readonly tenant?: { readonly id: string; readonly slug: string };
  readonly database?: string;
  /** What was found, as sentences. */
  readonly found: string;
  /** What to do, as sentences. */
  readonly todo: string;
  readonly repair?: Repair;
}

/** What a finding is about. */
export interface About {
  readonly place?: Place;
  readonly tenant?: Pick<TenantRecord, 'id' | 'slug' | 'dbHost' | 'dbPort' | 'dbName'>;
  readonly database?: string;
}

/** @param more.todo instead of the code's own */
export function finding(
  code: DoctorCode,
  { place, tenant, database = tenant?.dbName }: About,
  found: string,
  more: { readonly todo?: string; readonly repair?: Repair | undefined } = {},
): Finding {
  const { severity, todo } = doctorCodes[code];
  const at = tenant ? { host: tenant.dbHost, port: tenant.dbPort } : place;
  return {
    code,
    severity,
    ...(at && { cluster: addressOf(at) }),
    ...(tenant && { tenant: { id: tenant.id, slug: tenant.slug } }),
    ...(database !== undefined && { database }),
    found,
    todo: more.todo ?? todo,
    ...(more.repair && { repair: more.repair }),
  };
}

/** What tells a finding from others. */
export function keyOf({ code, cluster, tenant, database, found }: Finding): string {
  return JSON.stringify([code, cluster, tenant?.id, database, found]);
}

export function addressOf({ host, port }: Place): string {
  return `${host}:${port}`;
}

/** The first names of a list, and how many more there are: `a, b, c and 4 more`. */
export function someOf(names: readonly string[], most = 3): string {
  const more = names.length - most;
  return more > 0 ? `${names.slice(0, most).join(', ')} and ${more} more` : names.join(', ');
}
