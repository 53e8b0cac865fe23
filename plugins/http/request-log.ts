// One log line for each request: the caller, the route, the status and the duration.
import type { FastifyReply, FastifyRequest } from 'fastify';
import fp from 'fastify-plugin';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { AppError, type ErrorCode } from '../../src/errors.js';
import { traceIdOf } from '../../src/http/trace-context.js';

declare module 'fastify' {
  interface FastifyInstance {
    /** Writes the line of an answered request. Call it only if no hook runs for the request. */
    readonly logRequest: (request: FastifyRequest, reply: FastifyReply) => void;
  }
  interface FastifyRequest {
    /** The error that made the request fail with a 5xx. */
    failure: unknown;
    /** The code of the problem document that answered the request. */
    problemCode: ErrorCode | undefined;
    /** Whether the line of the request is written. */
    logged: boolean;
  }
}

export const requestLog = fp(
  async (app) => {
    app.decorateRequest('failure', undefined);
    app.decorateRequest('problemCode', undefined);
    app.decorateRequest('logged', false);
    // All keys of the line are set here, and none holds a secret: of an error only safe parts are written. Searching for secrets
    // would cost as much as the line itself.
    const lines = app.log.child({}, { redact: [] });
    const logRequest = (request: FastifyRequest, reply: FastifyReply): void => {
      request.logged = true;
      const line = lineOf(request, reply);
      line['status'] = reply.statusCode;
      line['reqId'] = request.id;
      const { failure, problemCode } = request;
      if (problemCode !== undefined) line['code'] = problemCode;
      if (reply.statusCode >= 500) line['err'] = failure;
      if (reply.statusCode < 500) lines.info(line, 'request');
      // An intended 503 (draining, full, a database that is down) is no defect of this program.
      else if (failure instanceof AppError || failure instanceof DatabaseFault) lines.warn(line, 'request');
      else lines.error(line, 'request');
    };
    app.decorate('logRequest', logRequest);
    app.addHook('onResponse', (request, reply, done) => {
      logRequest(request, reply);
      done();
    });
    // After the rate limit. Fastify's onRequestAbort is not used: it misses a client that leaves after its body, while it waits
    // for the answer.
    app.addHook('preParsing', (request, reply, _payload, done) => {
      const left = (): void => {
        if (!request.logged)
          lines.info({ reqId: request.id, ...lineOf(request, reply) }, 'request aborted by the client');
      };
      const traceId = traceIdOf(request.raw);
      if (traceId !== undefined) request.log = reply.log = request.log.child({ traceId });
      // The rate limit may have waited for Redis meanwhile.
      if (reply.raw.destroyed) left();
      else reply.raw.once('close', left);
      done();
    });
  },
  { name: 'request-log', fastify: '5.x' },
);

/** The route's pattern and not the path: a path can contain text that a person typed. */
function lineOf(request: FastifyRequest, reply: FastifyReply): Record<string, unknown> {
  const { principal } = request;
  const traceId = traceIdOf(request.raw);
  return {
    method: request.method,
    route: request.routeOptions.url ?? 'none',
    address: request.ip,
    duration: Math.round(reply.elapsedTime * 1_000) / 1_000,
    ...(traceId !== undefined && { traceId }),
    ...(principal?.kind === 'user' && { tenantId: principal.tenantId, userId: principal.userId }),
    ...(principal?.kind === 'operator' && { operatorId: principal.operatorId }),
  };
}
