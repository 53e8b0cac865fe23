// The shapes of a tenant in requests and answers.
import { z } from 'zod';
import type { Versioned } from '../../db/shared/row-version.js';
import { tenantSorts, type TenantRecord } from '../../db/registry/tenant-queries.js';
import type { Config } from '../../src/config/index.js';
import { versioned } from '../../src/http/row-versions.js';
import { tenantFields } from '../../src/operations/create/tenant-request.js';
import { tenantStatuses } from '../../src/tenants/tenant-states.js';
import { forEachLimit } from '../../src/tenants/tenant-limits.js';
import { showTenant } from '../../src/tenants/tenant-shown.js';
import { listQuery } from './lists.js';
import { answerId, patchOf, slug, text, timestamp, whole } from './fields.js';

const PoolOptions = z.object({
  max: whole,
  acquireTimeout: whole,
  timeout: whole,
  idleTimeoutMillis: whole,
});

const LimitsAnswer = z.object(forEachLimit(() => whole.nullable()));

export const TenantAnswer = z
  .object({
    id: answerId,
    name: z.string(),
    slug: z.string(),
    clusterId: answerId.nullable().meta({ description: "The cluster that holds the tenant's database." }),
    status: z.enum(tenantStatuses),
    active: z.boolean(),
    poolOptions: PoolOptions.meta({
      description: 'The options in force: `max` in connections, the others in milliseconds.',
    }),
    limits: LimitsAnswer.meta({
      description:
        'The limits in force: requests per second, connections, milliseconds, users, products and bytes. null means no limit.',
    }),
    readCache: z.boolean().meta({
      description: 'Whether its answers may be cached, if the service caches answers. Only an operator can change it.',
    }),
    schemaVersion: z.string(),
    deletedAt: timestamp.nullable(),
    purgeAfter: timestamp.nullable().meta({ description: 'A deleted tenant can be restored until this time.' }),
    createdAt: timestamp,
    updatedAt: timestamp,
  })
  .meta({ id: 'Tenant' });

export const PatchTenantBody = patchOf(
  {
    name: tenantFields.name,
    slug,
    poolOptions: tenantFields.poolOptions,
    limits: tenantFields.limits,
    active: z.boolean(),
    readCache: z.boolean(),
  },
  {},
).meta({
  id: 'UpdateTenant',
  examples: [{ name: 'Wayne Industries' }],
});

export const TenantsQuery = listQuery(tenantSorts, {
  search: text(200).optional().meta({ description: 'Text to find in the name or slug.' }),
  status: z.enum(tenantStatuses).optional(),
});

/** A tenant with the settings that are in force for it, and its version: the settings also depend on the configuration. */
export function tenantAnswer(
  tenant: TenantRecord,
  { tenants }: Pick<Config, 'tenants'>,
): z.output<typeof TenantAnswer> & Versioned {
  return versioned(showTenant(tenant, tenants), tenant);
}
