// For operators: the fleet in one answer.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { Status } from '../shapes/status-shapes.js';

export async function statusRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  app.describeTag('status', 'The whole fleet in one answer.');

  app.get(
    '/status',
    {
      config: { access: { scope: 'operator' } },
      schema: {
        tags: ['status'],
        operationId: 'getStatus',
        summary: 'Read the state of the fleet: tenants, clusters, replicas, unfinished work and jobs',
        response: { 200: Status },
      },
    },
    async () => app.engine.fleetStatus.read(),
  );
}
