// For operators: what differs between the schema of a tenant's database and the template.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { OBJECT_KINDS } from '../../db/server/schema-objects.js';
import { MOST_NAMED } from '../../src/rollouts/schema-differences.js';
import { idParams, whole } from '../shapes/fields.js';

const DriftAnswer = z
  .object({
    version: z
      .string()
      .nullable()
      .meta({ description: 'The newest migration that the database has run; null if it has run none.' }),
    expectedVersion: z.string().meta({ description: 'The schema version of the answering replica.' }),
    behind: z
      .boolean()
      .meta({ description: 'The database has not run all migrations of the replica. It is not compared.' }),
    ahead: z.boolean().meta({ description: 'A newer build has migrated the database. It is not compared.' }),
    total: whole.meta({ description: 'How many differences there are.' }),
    differences: z
      .array(
        z.object({
          kind: z.enum(OBJECT_KINDS),
          object: z.string().meta({ description: 'What differs, for example `products.price`.' }),
          expected: z.string().meta({ description: 'What the template has, in words.' }),
          found: z.string().meta({ description: "What the tenant's database has, in words." }),
        }),
      )
      .meta({ description: `The first ${MOST_NAMED} differences, in order of kind and object.` }),
  })
  .meta({
    id: 'TenantDrift',
    examples: [
      {
        version: '0017_audit_stamp',
        expectedVersion: '0017_audit_stamp',
        behind: false,
        ahead: false,
        total: 1,
        differences: [
          {
            kind: 'column',
            object: 'products.price',
            expected: 'type numeric(12,2)',
            found: 'type numeric(14,2)',
          },
        ],
      },
    ],
  });

export async function driftRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();

  app.get(
    '/tenants/:id/drift',
    {
      config: { access: { scope: 'operator' }, errors: ['tenant-state'] },
      schema: {
        tags: ['tenants'],
        operationId: 'getTenantDrift',
        summary: "Compare the schema of a tenant's database with the template, and name what differs",
        params: idParams,
        response: { 200: DriftAnswer },
      },
    },
    async (request) => {
      const { differences, ...drift } = await app.engine.drift.compareTenant(request.params.id);
      return { ...drift, differences: [...differences] };
    },
  );
}
