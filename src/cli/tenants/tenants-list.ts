// `tenantry tenants list`.
import { Option } from 'commander';
import { tenantStatuses } from '../../tenants/tenant-states.js';
import type { TenantStatus } from '../../../db/registry/registry-schema.js';
import type { EngineCommand } from '../terminal/cli-command.js';
import { limitOption, type Listing } from '../terminal/common-options.js';
import { showList } from '../terminal/shown-list.js';
import { shortTime } from '../terminal/table.js';

export const tenantsList: EngineCommand<Listing & { readonly status?: TenantStatus; readonly search?: string }> = {
  name: 'list',
  about: 'Lists tenants, the newest first.',
  options: [
    new Option('--status <status>', 'only tenants in this status').choices(tenantStatuses),
    new Option('--search <text>', 'only tenants whose name or slug contains this text'),
    limitOption(),
  ],
  example: '--status suspended',
  kind: 'reads',
  async run({ engine, settings, options: { status, search, limit }, out }) {
    const { listTenants } = await import('../../../db/registry/tenant-queries.js');
    const { showTenant } = await import('../../tenants/tenant-shown.js');
    const { clusterNames } = await import('../terminal/named-rows.js');
    const rows = await listTenants(engine.registry, {
      sort: 'createdAt',
      direction: 'desc',
      limit: limit + 1,
      ...(status && { status }),
      ...(search !== undefined && { search }),
    });
    const data = rows.slice(0, limit).map((tenant) => showTenant(tenant, settings.tenants));
    const clusters = await clusterNames(engine.registry);
    showList(
      out,
      [
        { head: 'SLUG', of: ({ slug }) => slug },
        { head: 'NAME', of: ({ name }) => name },
        { head: 'STATUS', of: (tenant) => tenant.status },
        { head: 'CLUSTER', of: ({ clusterId }) => clusters.get(clusterId) },
        { head: 'SCHEMA', of: ({ schemaVersion }) => schemaVersion.slice(0, 4) },
        { head: 'CREATED', of: ({ createdAt }) => shortTime(createdAt) },
        { head: 'ID', of: ({ id }) => id },
      ],
      { data, more: rows.length > limit, limit },
    );
    return undefined;
  },
};
