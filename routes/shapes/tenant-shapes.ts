// The shapes of a tenant in requests and answers.
import { z } from 'zod';
import type { Versioned } from '../../db/shared/row-version.js';
import { tenantSorts, type TenantRecord } from '../../db/registry/tenant-queries.js';
import type { Config } from '../../src/config/index.js';
import { versioned } from '../../src/http/row-versions.js';
import { tenantStatuses } from '../../src/tenants/tenant-states.js';
import { forEachLimit, limitsInForce, limitsShown } from '../../src/tenants/tenant-limits.js';
import { poolLimits } from '../../src/tenants/pool-options.js';
import { listQuery } from './lists.js';
import { answerId, email, exactText, id, newPassword, patchOf, slug, text, timestamp, whole } from './fields.js';

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

const name = text(200);

/** Checked by its own rules (422), not by the request's schema (400): the setting is wrong, not the request. */
const poolOptions = z.record(z.string(), z.unknown()).meta({
  description:
    'Whole numbers: max (1–100 connections), acquireTimeout (100–60,000 ms), timeout (100–600,000 ms), idleTimeoutMillis (100–3,600,000 ms). An option that is left out keeps its value; in a new tenant it gets the default. null restores the default.',
});

/** Checked like `poolOptions`. */
const limits = z.record(z.string(), z.unknown()).meta({
  description:
    'Whole numbers: requestsPerSecond (1–100,000), connections (1–400), statementTimeout (100–600,000 ms), users (1–1,000,000), products (1–100,000,000), storageBytes (1,048,576–2^50). A limit that is left out keeps its value; in a new tenant it gets the default. null restores the default.',
});

/** As it is spelt in PostgreSQL, which also counts bytes. */
const databaseName = exactText(63).refine((name) => Buffer.byteLength(name) <= 63, 'must be at most 63 bytes long');

const adopt = z.strictObject({ clusterId: id, database: databaseName }).meta({
  description: "An existing database that becomes the tenant's database. The cluster's provisioner must own it.",
});

export const CreateTenantBody = z
  .strictObject({
    name,
    slug: slug.optional().meta({ description: 'Derived from the name when it is left out.' }),
    admin: z.strictObject({ email, password: newPassword, firstName: text(100), lastName: text(100) }),
    poolOptions: poolOptions.optional(),
    limits: limits.optional(),
    region: text(100).optional().meta({ description: 'The region of the cluster to create the database on.' }),
    clusterId: id
      .optional()
      .meta({ description: 'The cluster to create the database on; when left out, the least loaded one.' }),
    adopt: adopt.optional(),
  })
  .meta({
    id: 'CreateTenant',
    examples: [
      {
        name: 'Wayne Enterprises',
        slug: 'wayne',
        admin: {
          email: 'bruce@wayne.example',
          password: 'under the mansion',
          firstName: 'Bruce',
          lastName: 'Wayne',
        },
      },
    ],
  });

export const PatchTenantBody = patchOf(
  { name, slug, poolOptions, limits, active: z.boolean(), readCache: z.boolean() },
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
  const { id, name, slug, clusterId, status, active, readCache, schemaVersion, deletedAt, createdAt, updatedAt } =
    tenant;
  const purgeAfter = deletedAt && laterBy(deletedAt, tenants.deletionGrace);
  const limits = limitsInForce(tenant.limits, tenants.limits);
  const shown = {
    id,
    name,
    slug,
    clusterId,
    status,
    active,
    poolOptions: poolLimits(tenant.poolOptions, tenants.pool, limits),
    limits: limitsShown(limits),
    readCache,
    schemaVersion,
    deletedAt,
    purgeAfter,
    createdAt,
    updatedAt,
  };
  return versioned(shown, tenant);
}

/** A time plus milliseconds. A time that no Date can hold, such as `infinity`, stays as it is. */
function laterBy(time: string, ms: number): string {
  const later = new Date(Date.parse(time) + ms);
  return Number.isNaN(later.getTime()) ? time : later.toISOString();
}
