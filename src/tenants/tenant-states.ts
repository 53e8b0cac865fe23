// The states of a tenant and the acts that lead from one to another, as one table. docs/guide/lifecycle.md shows the diagram.
import type { TenantStatus } from '../../db/registry/registry-schema.js';
import { AppError } from '../errors.js';

export const tenantStatuses = [
  'provisioning',
  'active',
  'suspended',
  'deleted',
  'deleting',
] as const satisfies readonly TenantStatus[];

/** The service itself does `activate` and `abandon`, at the end of making a tenant. Operators do the others. */
export const tenantActs = ['activate', 'abandon', 'suspend', 'resume', 'delete', 'restore', 'purge'] as const;
export type TenantAct = (typeof tenantActs)[number];

type Targets = Readonly<Partial<Record<TenantAct, readonly TenantStatus[]>>>;

/**
 * From × act → to. An act that is not in the table is impossible (409 `tenant-state`). An act that leads to the current status
 * can be repeated, so that a request whose answer was lost can be sent again. `restore` leads to the status from before the
 * deletion.
 */
export const transitions: Readonly<Record<TenantStatus, Targets>> = {
  provisioning: { activate: ['active'], abandon: ['deleting'] },
  active: { suspend: ['suspended'], resume: ['active'], delete: ['deleted'] },
  suspended: { suspend: ['suspended'], resume: ['active'], delete: ['deleted'] },
  deleted: { delete: ['deleted'], restore: ['active', 'suspended'], purge: ['deleting'] },
  // Only the end of the row leads out of this status. These acts continue a removal that stopped.
  deleting: { abandon: ['deleting'], delete: ['deleting'], purge: ['deleting'] },
};

/** What PostgreSQL must do with connections to a tenant's database. Without an entry, making or dropping the database decides. */
export const databaseIs: Readonly<Partial<Record<TenantStatus, 'open' | 'closed'>>> = {
  active: 'open',
  suspended: 'closed',
  deleted: 'closed',
};

/** The statuses in which an act is possible. */
export function statusesFor(act: TenantAct): TenantStatus[] {
  return tenantStatuses.filter((status) => transitions[status][act]);
}

/** @throws AppError `tenant-state` if the act is not possible */
export function ensurePossible(act: TenantAct, status: TenantStatus): void {
  if (!transitions[status][act])
    throw new AppError('tenant-state', { detail: `The tenant is ${status}: ${act} is not possible.` });
}
