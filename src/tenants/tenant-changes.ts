// Changes to a tenant's row, by the rules for its status.
import type { Kysely, Transaction } from 'kysely';
import type { AuditEntry, AuditOrigin } from '../../db/shared/audit-rows.js';
import type { ExpectedVersions } from '../../db/shared/row-version.js';
import type { OperationRecord } from '../../db/registry/operations/operation-rows.js';
import type { Registry, TenantStatus } from '../../db/registry/registry-schema.js';
import {
  endTenantSessions,
  findTenant,
  lockTenant,
  TENANT_SLUG_CONSTRAINT,
  updateTenant,
  type TenantRecord,
} from '../../db/registry/tenant-queries.js';
import { violatedUniqueConstraint } from '../../db/driver/database-fault.js';
import { changesBetween } from '../audit/changes.js';
import { auditAct } from '../audit/operator-act.js';
import { AppError } from '../errors.js';
import { demandVersion } from '../http/row-versions.js';

/** The fields of a tenant's row that an operator can change, apart from its status. */
export type TenantChanges = Omit<Parameters<typeof updateTenant>[2], 'status'>;

const CHANGEABLE: readonly TenantStatus[] = ['active', 'suspended'];

/**
 * Changes the given fields, and audits the change. A tenant that is being made, deleted or removed cannot be changed.
 *
 * @param options.expected versions that the row may have
 * @param options.also more writes of the same transaction, after the change of the row; returns the operation that it began
 * @param options.onAudited called with the audit's entry, before the transaction is committed
 * @throws AppError `not-found`, `slug-taken`, `tenant-state`, `precondition-failed`
 */
export async function changeTenant(
  registry: Kysely<Registry>,
  id: string,
  changes: Parameters<typeof updateTenant>[2],
  origin: AuditOrigin,
  {
    expected,
    also,
    onAudited,
  }: {
    readonly expected?: ExpectedVersions;
    readonly onAudited?: (entry: TenantChangeEntry) => void;
    readonly also?: (trx: Transaction<Registry>, changed: TenantRecord) => Promise<OperationRecord | undefined>;
  } = {},
): Promise<TenantRecord> {
  try {
    const tenant = await registry.transaction().execute(async (trx) => {
      const before = await lockTenant(trx, id);
      const changed = before && (await updateTenant(trx, id, changes, CHANGEABLE, expected));
      if (!changed) return undefined;
      const operation = await also?.(trx, changed);
      const entry = tenantChange(changes, before, changed);
      onAudited?.(entry);
      await auditAct(trx, { ...origin, ...entry, tenantId: id }, operation);
      return changed;
    });
    if (tenant) return tenant;
  } catch (error) {
    if (violatedUniqueConstraint(error) === TENANT_SLUG_CONSTRAINT) throw new AppError('slug-taken');
    throw error;
  }
  const existing = await findTenant(registry, id);
  if (!existing) throw new AppError('not-found');
  if (CHANGEABLE.includes(existing.status)) demandVersion(existing, expected);
  throw new AppError('tenant-state', { detail: `The tenant is ${existing.status}: it cannot be changed.` });
}

/** Ends all sessions of a tenant, and audits it. Returns whether the tenant exists. */
export async function signOutTenant(registry: Kysely<Registry>, id: string, origin: AuditOrigin): Promise<boolean> {
  return registry.transaction().execute(async (trx) => {
    if (!(await endTenantSessions(trx, id))) return false;
    const target = { kind: 'tenant', id } as const;
    await auditAct(trx, { ...origin, action: 'tenant.signed-out', target, tenantId: id });
    return true;
  });
}

type TenantChangeEntry = Pick<AuditEntry, 'action' | 'target' | 'details'>;

/** The audit entry of a change: the names of the given fields, and the values of those that changed. */
function tenantChange(
  { status, ...changes }: Parameters<typeof updateTenant>[2],
  before: TenantRecord,
  after: TenantRecord,
): TenantChangeEntry {
  const fields = Object.entries({ ...changes, active: status }).flatMap(([name, value]) =>
    value === undefined ? [] : [name],
  );
  const shown = ({ name, slug, poolOptions, limits, active, readCache }: TenantRecord): Record<string, unknown> => ({
    name,
    slug,
    poolOptions,
    limits,
    active,
    readCache,
  });
  const action = status === undefined ? 'updated' : status === 'active' ? 'resumed' : 'suspended';
  return {
    action: `tenant.${action}`,
    target: { kind: 'tenant', id: after.id },
    details: { fields, changes: changesBetween(shown(before), shown(after)) },
  };
}
