// The last step of making or adopting a tenant.
import type { Kysely } from 'kysely';
import type { AuditOrigin } from '../../../db/shared/audit-rows.js';
import { insertAudit } from '../../../db/registry/registry-audit.js';
import { endOperation, type Taken } from '../../../db/registry/operations/operation-rows.js';
import type { Registry } from '../../../db/registry/registry-schema.js';
import { activateTenant } from '../../../db/registry/tenant-status-queries.js';
import type { TenantRecord } from '../../../db/registry/tenant-queries.js';
import type { RecordEvent } from '../../observability/security-events.js';
import { LostOperation } from '../runner/operation-kinds.js';

/**
 * Makes a tenant with a complete database active, audits it, and ends its operation, in one transaction. Undefined if the tenant
 * is no longer being made.
 *
 * @param status `suspended` if the database was found closed, which happens after the registry was restored to an earlier moment
 * @throws LostOperation if another worker has taken the operation: then nothing changed
 */
export async function activate(
  registry: Kysely<Registry>,
  tenant: Pick<TenantRecord, 'id' | 'claim' | 'adopts'>,
  operation: Taken,
  origin: AuditOrigin,
  record: RecordEvent,
  status: 'active' | 'suspended' = 'active',
): Promise<TenantRecord | undefined> {
  const { id } = tenant;
  const made = await registry.transaction().execute(async (trx) => {
    const active = await activateTenant(trx, tenant, status);
    if (!active) return undefined;
    const target = { kind: 'tenant', id } as const;
    const details = { ...(tenant.adopts !== null && { adopted: true }), ...(status === 'suspended' && { status }) };
    await insertAudit(trx, { ...origin, action: 'tenant.created', target, tenantId: id, details });
    if (!(await endOperation(trx, operation, 'done'))) throw new LostOperation();
    return active;
  });
  if (made) record('tenant-created', { tenantId: id }, origin);
  return made;
}
