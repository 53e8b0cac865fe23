// One log line a request: who, what, how it ended, how long it took.
import type { FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { DatabaseFault } from '../db/errors.js';
import { AppError } from '../src/errors.js';

declare module 'fastify' {
  interface FastifyRequest {
    /** What made the request fail with a 5xx. */
    failure: unknown;
  }
}

export const requestLog = fp(
  async (app) => {
    app.decorateRequest('failure', undefined);
    app.addHook('onResponse', (request, reply, done) => {
      const line = {
        ...lineOf(request),
        status: reply.statusCode,
        duration: Math.round(reply.elapsedTime * 1_000) / 1_000,
      };
      const { failure } = request;
      // A 503 that we meant (draining, full, a database that is down) is no defect of this program.
      if (reply.statusCode < 500) request.log.info(line, 'request');
      else if (failure instanceof AppError || failure instanceof DatabaseFault)
        request.log.warn({ ...line, err: failure }, 'request');
      else request.log.error({ ...line, err: failure }, 'request');
      done();
    });
    app.addHook('onRequestAbort', (request, done) => {
      request.log.info(lineOf(request), 'request aborted by the client');
      done();
    });
  },
  { name: 'request-log', fastify: '5.x' },
);

/** The route's pattern and not the path: a path can carry what somebody typed. */
function lineOf(request: FastifyRequest): Record<string, unknown> {
  const { principal } = request;
  return {
    method: request.method,
    route: request.routeOptions.url ?? 'none',
    address: request.ip,
    ...(principal?.kind === 'user' && { tenantId: principal.tenantId, userId: principal.userId }),
    ...(principal?.kind === 'operator' && { operatorId: principal.operatorId }),
  };
}
