// What an adoption needs: the rooms that it works with, what only its request knows, and what another worker needs to undo it.
import type { Kysely } from 'kysely';
import { PUBLIC_RIGHTS } from '../../../db/server/adoption-checks.js';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import type { OperationDetails } from '../../../db/registry/operations/operations-table.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import type { TenantRecord } from '../../../db/registry/tenant-queries.js';
import type { Provisioners } from '../../clusters/provisioners.js';
import type { RecordEvent } from '../../observability/security-events.js';
import type { Envelope } from '../../secrets/envelope.js';
import type { ReportLeft } from '../reports.js';

export interface AdoptionDeps {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly installation: () => Promise<string>;
  readonly envelope: Envelope;
  /** The role's CONNECTION LIMIT. */
  readonly connectionLimit: number;
  readonly report: ReportLeft;
  /** Called when the tenant is active. */
  readonly record: RecordEvent;
}

/** What only the process of the request knows. */
export interface AdoptionInput {
  readonly admin: {
    readonly email: string;
    readonly passwordHash: string;
    readonly firstName: string;
    readonly lastName: string;
  };
  readonly origin: AuditOrigin;
  /** Whether the database has got tables of this service. */
  migrated: boolean;
  /** Receives the tenant when it is active. */
  readonly made: (tenant: TenantRecord) => void;
}

/** The rights of PUBLIC before the adoption, as details of the operation. The undoing grants them again. */
export function rightsAsDetails(rights: readonly string[]): OperationDetails {
  return Object.fromEntries(PUBLIC_RIGHTS.map((right) => [`public${right}`, rights.includes(right)]));
}

/** The rights that `rightsAsDetails` recorded. */
export function rightsInDetails(details: OperationDetails): string[] {
  return PUBLIC_RIGHTS.filter((right) => details[`public${right}`] === true);
}
