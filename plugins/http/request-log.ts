// One log line a request: who, what, how it ended, how long it took.
import type { FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { AppError } from '../../src/errors.js';

declare module 'fastify' {
  interface FastifyInstance {
    /** Writes the line of a request that is answered; to be called only where no hook runs. */
    readonly logRequest: (request: FastifyRequest, reply: FastifyReply) => void;
  }
  interface FastifyRequest {
    /** What made the request fail with a 5xx. */
    failure: unknown;
    /** Whether the request has its line. */
    logged: boolean;
  }
}

export const requestLog = fp(
  async (app) => {
    app.decorateRequest('failure', undefined);
    app.decorateRequest('logged', false);
    // Every key of the line is written here and none holds a secret (an error leaves all but its class behind): looking for
    // some costs as much as the line itself.
    const lines = app.log.child({}, { redact: [] });
    const logRequest = (request: FastifyRequest, reply: FastifyReply): void => {
      request.logged = true;
      const line = lineOf(request, reply);
      line['status'] = reply.statusCode;
      line['reqId'] = request.id;
      const { failure } = request;
      if (reply.statusCode >= 500) line['err'] = failure;
      if (reply.statusCode < 500) lines.info(line, 'request');
      // A 503 that we meant (draining, full, a database that is down) is no defect of this program.
      else if (failure instanceof AppError || failure instanceof DatabaseFault) lines.warn(line, 'request');
      else lines.error(line, 'request');
    };
    app.decorate('logRequest', logRequest);
    app.addHook('onResponse', (request, reply, done) => {
      logRequest(request, reply);
      done();
    });
    // After the rate limit. Not Fastify's onRequestAbort: it misses a client that leaves after its body, while it waits for the
    // answer.
    app.addHook('preParsing', (request, reply, _payload, done) => {
      const left = (): void => {
        if (!request.logged)
          lines.info({ reqId: request.id, ...lineOf(request, reply) }, 'request aborted by the client');
      };
      // The rate limit may have waited for Redis meanwhile.
      if (reply.raw.destroyed) left();
      else reply.raw.once('close', left);
      done();
    });
  },
  { name: 'request-log', fastify: '5.x' },
);

/** The route's pattern and not the path: a path can carry what somebody typed. */
function lineOf(request: FastifyRequest, reply: FastifyReply): Record<string, unknown> {
  const { principal } = request;
  return {
    method: request.method,
    route: request.routeOptions.url ?? 'none',
    address: request.ip,
    duration: Math.round(reply.elapsedTime * 1_000) / 1_000,
    ...(principal?.kind === 'user' && { tenantId: principal.tenantId, userId: principal.userId }),
    ...(principal?.kind === 'operator' && { operatorId: principal.operatorId }),
  };
}
