// What making a tenant needs.
import type { Kysely } from 'kysely';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import type { TenantRecord } from '../../../db/registry/tenant-queries.js';
import type { Provisioners } from '../../clusters/provisioners.js';
import type { RecordEvent } from '../../observability/security-events.js';
import type { Envelope } from '../../secrets/envelope.js';
import type { ReportLeft } from '../reports.js';
import type { NewTenant } from './new-tenant.js';

export interface CreationDeps {
  readonly registry: Kysely<Registry>;
  readonly provisioners: Provisioners;
  readonly envelope: Envelope;
  readonly installation: () => Promise<string>;
  /** The most connections that the pools of one tenant may hold: the role's CONNECTION LIMIT. */
  readonly connectionLimit: number;
  /** Called before a database is dropped: closes the pools of this process. */
  readonly beforeDrop: (tenantId: string) => Promise<void>;
  readonly report: ReportLeft;
  /** Called when the tenant is active. */
  readonly record: RecordEvent;
}

/** What only the process of the request knows. */
export interface CreationInput {
  readonly admin: NewTenant['admin'];
  readonly origin: AuditOrigin;
  /** Receives the tenant when it is active. */
  readonly made: (tenant: TenantRecord) => void;
}
