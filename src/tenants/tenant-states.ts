// The states of a tenant and what leads from one to another, as one table. docs/guide/lifecycle.md has the picture of it.
import type { TenantStatus } from '../../db/registry/registry-schema.js';
import { AppError } from '../errors.js';

export const tenantStatuses = [
  'provisioning',
  'active',
  'suspended',
  'deleted',
  'deleting',
] as const satisfies readonly TenantStatus[];

/** `activate` and `abandon` are the service's own, at the end of making a tenant; the others are operators'. */
export const tenantActs = ['activate', 'abandon', 'suspend', 'resume', 'delete', 'restore', 'purge'] as const;
export type TenantAct = (typeof tenantActs)[number];

type Targets = Readonly<Partial<Record<TenantAct, readonly TenantStatus[]>>>;

/**
 * From × act → to. What is not in it is impossible (409 `tenant-state`). An act that leads to where a tenant is already can
 * be repeated: so a request whose answer was lost can be sent again. `restore` leads to what the tenant was before.
 */
export const transitions: Readonly<Record<TenantStatus, Targets>> = {
  provisioning: { activate: ['active'], abandon: ['deleting'] },
  active: { suspend: ['suspended'], resume: ['active'], delete: ['deleted'] },
  suspended: { suspend: ['suspended'], resume: ['active'], delete: ['deleted'] },
  deleted: { delete: ['deleted'], restore: ['active', 'suspended'], purge: ['deleting'] },
  // Out of it leads only the end of the row: both take a removal up again that came to a halt.
  deleting: { abandon: ['deleting'], delete: ['deleting'], purge: ['deleting'] },
};

/** What PostgreSQL is to do with connections to a tenant's database; where nothing stands, making or dropping it decides. */
export const databaseIs: Readonly<Partial<Record<TenantStatus, 'open' | 'closed'>>> = {
  active: 'open',
  suspended: 'closed',
  deleted: 'closed',
};

/** The statuses in which an act is possible. */
export function statusesFor(act: TenantAct): TenantStatus[] {
  return tenantStatuses.filter((status) => transitions[status][act]);
}

/** The statuses whose database is to be open, or closed. */
export function statusesWhere(database: 'open' | 'closed'): TenantStatus[] {
  return tenantStatuses.filter((status) => databaseIs[status] === database);
}

/** @throws AppError `tenant-state` where the act is not possible */
export function ensurePossible(act: TenantAct, status: TenantStatus): void {
  if (!transitions[status][act])
    throw new AppError('tenant-state', { detail: `The tenant is ${status}: ${act} is not possible.` });
}
