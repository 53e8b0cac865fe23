// Which tenants a statement runs for, and why others that were named are left out.
import type { Kysely } from 'kysely';
import type { Registry, TenantStatus } from '../../db/registry/registry-schema.js';
import { findTenant, listProvisionedTenants, type TenantRecord } from '../../db/registry/tenant-queries.js';
import type { Place } from '../clusters/provisioners.js';
import { databaseIs } from '../tenants/tenant-states.js';

export interface Selection {
  /** Only these tenants, by id; undefined means all. */
  readonly tenants?: readonly string[] | undefined;
  /** Statuses of tenants with a database. */
  readonly statuses: readonly TenantStatus[];
  /** Only tenants of this server. */
  readonly cluster?: (Place & { readonly name: string }) | undefined;
}

export interface Selected {
  readonly tenants: readonly TenantRecord[];
  /** Tenants that were named. The reason completes "It is skipped: …". */
  readonly skipped: readonly { readonly tenant: TenantRecord; readonly reason: string }[];
}

export async function selectTenants(registry: Kysely<Registry>, selection: Selection): Promise<Selected> {
  const { tenants: ids } = selection;
  if (!ids) {
    const all = await listProvisionedTenants(registry);
    return { tenants: all.filter((tenant) => reasonAgainst(tenant, selection) === undefined), skipped: [] };
  }
  const tenants: TenantRecord[] = [];
  const skipped: { tenant: TenantRecord; reason: string }[] = [];
  for (const id of new Set(ids)) {
    const tenant = await findTenant(registry, id);
    if (!tenant) continue;
    const reason = reasonAgainst(tenant, selection);
    if (reason === undefined) tenants.push(tenant);
    else skipped.push({ tenant, reason });
  }
  return { tenants, skipped };
}

function reasonAgainst({ status, dbHost, dbPort }: TenantRecord, { statuses, cluster }: Selection): string | undefined {
  if (databaseIs[status] === undefined) return `it is being made or removed (${status})`;
  if (!statuses.includes(status)) return `it is ${status}: name that status to include it`;
  if (cluster && (cluster.host !== dbHost || cluster.port !== dbPort))
    return `it is not on the cluster ${cluster.name}`;
  return undefined;
}
