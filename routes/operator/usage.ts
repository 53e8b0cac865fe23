// A tenant's usage of its limits, for operators and for the tenant's own admins.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { findTenant } from '../../db/registry/tenant-queries.js';
import { measureUsage } from '../../db/tenant/usage-queries.js';
import type { Config } from '../../src/config/index.js';
import { AppError } from '../../src/errors.js';
import { limitsInForce, limitsShown } from '../../src/tenants/tenant-limits.js';
import { hideOthers } from '../shapes/own-tenant.js';
import { idParams, timestamp, whole } from '../shapes/fields.js';

const limit = whole.nullable().meta({ description: 'The limit in force; null means no limit.' });
const used = whole.nullable().meta({ description: 'The present use; null when the tenant is not active.' });

const UsageAnswer = z
  .object({
    requestsPerSecond: z.object({
      limit,
      used: whole.nullable().meta({
        description:
          'Requests to the answering replica in this second or the previous one, whichever had more; null when they are not limited.',
      }),
    }),
    connections: z.object({
      limit,
      used,
      here: whole.meta({ description: 'Connections of the answering replica.' }),
    }),
    statementTimeout: z.object({ limit }),
    users: z.object({ limit, used }),
    products: z.object({ limit, used }),
    storageBytes: z.object({ limit, used }),
    measuredAt: timestamp,
  })
  .meta({ id: 'TenantUsage' });

export async function usageRoutes(fastify: FastifyInstance, { config }: { config: Config }): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();

  app.get(
    '/tenants/:id/usage',
    {
      config: { access: { scope: 'platform', permission: 'tenant:read' } },
      schema: {
        tags: ['tenants'],
        operationId: 'getTenantUsage',
        summary: 'Read the limits of a tenant, and how much of each it uses now',
        params: idParams,
        response: { 200: UsageAnswer },
      },
    },
    async (request) => {
      const { id } = request.params;
      hideOthers(request, id);
      const tenant = await findTenant(app.engine.registry, id);
      if (!tenant) throw new AppError('not-found');
      const limits = limitsShown(limitsInForce(tenant.limits, config.tenants.limits));
      const rate = limits.requestsPerSecond;
      // The service does not connect to the database of a tenant that is not active.
      const usage = tenant.active ? await measureUsage(app.engine.tenantPools.database(id)) : undefined;
      if (usage) app.engine.storageGauge.measured(id, usage.storageBytes);
      return {
        requestsPerSecond: { limit: rate, used: rate === null ? null : app.engine.requestRates.recent(id) },
        connections: {
          limit: limits.connections,
          used: usage?.connections ?? null,
          here: app.engine.tenantPools.inspect(id)?.total ?? 0,
        },
        statementTimeout: { limit: limits.statementTimeout },
        users: { limit: limits.users, used: usage?.users ?? null },
        products: { limit: limits.products, used: usage?.products ?? null },
        storageBytes: { limit: limits.storageBytes, used: usage?.storageBytes ?? null },
        measuredAt: new Date().toISOString(),
      };
    },
  );
}
