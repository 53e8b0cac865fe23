// Health: whether the process is alive, and whether a load balancer should send it work.
import type { FastifyInstance } from 'fastify';
import type { ZodTypeProvider } from 'fastify-type-provider-zod';
import { z } from 'zod';
import { within } from '../../src/lib/deadline.js';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { IN_RECOVERY, READ_ONLY } from '../../db/driver/proof.js';
import { AppError } from '../../src/errors.js';

const Health = z.object({ status: z.literal('ok') }).meta({ id: 'Health' });

/** Longest wait (ms) for the registry: a probe that hangs gives no information. */
const READY_DEADLINE = 1_000;

export async function healthRoutes(fastify: FastifyInstance): Promise<void> {
  const app = fastify.withTypeProvider<ZodTypeProvider>();
  app.describeTag('health', 'Probes for load balancers and supervisors.');
  // Probes are frequent, and all come from one address, so they are not counted.
  const config = { access: { scope: 'public' }, rateLimit: false } as const;

  app.get(
    '/health/live',
    {
      config,
      schema: {
        tags: ['health'],
        operationId: 'checkLiveness',
        summary: 'Check that the process answers. Nothing else is checked',
        response: { 200: Health },
      },
    },
    async () => ({ status: 'ok' as const }),
  );

  app.get(
    '/health/ready',
    {
      config,
      schema: {
        tags: ['health'],
        operationId: 'checkReadiness',
        summary:
          'Check whether to send requests here: the replica is not shutting down, can reach tenants and has the right time, and the registry accepts writes',
        response: { 200: Health },
      },
    },
    async () => {
      if (app.readiness.draining)
        throw new AppError('unavailable', {
          detail: 'This replica is shutting down. Send the request to another one.',
          retryAfter: 5,
        });
      if (app.engine.governors.starved() !== undefined)
        throw new AppError('unavailable', {
          detail: 'This replica has no connection to the tenants left. Send the request to another one.',
          retryAfter: 1,
        });
      if (app.engine.mustNotWrite() !== undefined)
        throw new AppError('unavailable', {
          detail: 'Other replicas may still cache what this replica changes. Send the request to another one.',
          retryAfter: 1,
        });
      app.engine.replicaClock.compare();
      if (app.engine.replicaClock.problem !== undefined)
        throw new AppError('unavailable', {
          detail: "The clock of this replica differs from the registry's. Send the request to another one.",
          retryAfter: 1,
        });
      const late = (): AppError =>
        new AppError('unavailable', { detail: 'The registry does not answer. Try again in a moment.', retryAfter: 1 });
      const answer = app.engine.checkRegistry().catch((error: unknown) => {
        if (!(error instanceof DatabaseFault) || ![IN_RECOVERY, READ_ONLY].includes(error.reason)) throw error;
        throw new AppError('unavailable', {
          detail: 'The registry does not accept writes. Try again in a moment.',
          retryAfter: 1,
          cause: error,
        });
      });
      await within(answer, READY_DEADLINE, late);
      return { status: 'ok' as const };
    },
  );
}
