// The lifecycle of a tenant, for operators: ending its sessions, suspending, deleting, restoring and purging it, and changing the
// password of its database role.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { findTenant } from '../../db/registry/tenant-queries.js';
import type { Config } from '../../src/config/index.js';
import { AppError } from '../../src/errors.js';
import { signOutTenant } from '../../src/tenants/tenant-changes.js';
import { idParams } from '../shapes/fields.js';
import { TenantAnswer, tenantAnswer } from '../shapes/tenant-shapes.js';

const PurgeQuery = z.strictObject({
  database: z.enum(['drop', 'keep']).optional().meta({
    description:
      'What to do with the database. When left out, a database that the service created is dropped, and an adopted one is kept.',
  }),
});

/** Registered with the same prefix as the routes of tenants. */
export async function tenantLifecycleRoutes(fastify: FastifyInstance, { config }: { config: Config }): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  const operator = { access: { scope: 'operator' } } as const;
  const removing = { access: { scope: 'operator', recent: true } } as const;
  const schema = { tags: ['tenants'] };

  app.post(
    '/:id/sign-out',
    {
      config: operator,
      schema: {
        ...schema,
        operationId: 'signOutTenant',
        summary: 'End all sessions of a tenant, including those in a restored backup of its database',
        params: idParams,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      const { id } = request.params;
      if (!(await signOutTenant(app.engine.registry, id, request.auditOrigin))) throw new AppError('not-found');
      app.engine.security.record('tenant-signed-out', { tenantId: id }, request.auditOrigin);
      await app.engine.events.publish({ kind: 'tenant', tenantId: id });
      return reply.code(204).send(null);
    },
  );

  const turns = {
    suspend: 'Suspend a tenant. Its users get 403, and PostgreSQL ends their connections',
    resume: 'Resume a suspended tenant',
    restore: 'Restore a deleted tenant to the status that it had before',
  } as const;
  const answerAgain = async (_request: unknown, _reply: unknown, id: string): Promise<unknown> => {
    const tenant = await findTenant(app.engine.registry, id);
    if (!tenant) throw new AppError('not-found');
    return tenantAnswer(tenant, config);
  };
  for (const act of ['suspend', 'resume', 'restore'] as const)
    app.post(
      `/:id/${act}`,
      {
        config: { ...operator, errors: ['tenant-state', 'operation-unfinished'], answerAgain },
        schema: {
          ...schema,
          operationId: `${act}Tenant`,
          summary: turns[act],
          params: idParams,
          response: { 200: TenantAnswer },
        },
      },
      async (request) => tenantAnswer(await app.engine.lifecycle[act](request.params.id, request.auditOrigin), config),
    );

  app.post(
    '/:id/rotate-password',
    {
      config: { ...operator, errors: ['tenant-state', 'operation-unfinished'] },
      schema: {
        ...schema,
        operationId: 'rotateTenantPassword',
        summary: "Change the password of a tenant's database role. No request fails because of the change",
        params: idParams,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      if (!(await app.engine.rotation.rotate(request.params.id, request.auditOrigin))) throw new AppError('not-found');
      return reply.code(204).send(null);
    },
  );

  app.delete(
    '/:id',
    {
      config: { ...removing, errors: ['tenant-state', 'operation-unfinished', 'precondition-failed'] },
      schema: {
        ...schema,
        operationId: 'deleteTenant',
        summary: 'Delete a tenant. It can be restored until it is purged',
        params: idParams,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      await app.engine.lifecycle.delete(request.params.id, request.auditOrigin, request.ifMatch);
      return reply.code(204).send(null);
    },
  );

  app.post(
    '/:id/purge',
    {
      config: { ...removing, errors: ['tenant-state', 'operation-unfinished'] },
      schema: {
        ...schema,
        operationId: 'purgeTenant',
        summary: 'Remove a deleted tenant and its database at once. This cannot be undone',
        params: idParams,
        querystring: PurgeQuery,
        response: { 204: z.null() },
      },
    },
    async (request, reply) => {
      await app.engine.lifecycle.purge(request.params.id, request.auditOrigin, request.query.database);
      return reply.code(204).send(null);
    },
  );
}
