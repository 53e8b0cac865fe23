// Answers every error with an RFC 9457 problem: errors of handlers, of Fastify, of unknown routes and of Node's parser.
import type { FastifyError, FastifyInstance, FastifyReply, FastifyRequest } from 'fastify';
import type { Socket } from 'node:net';
import fp from 'fastify-plugin';
import { v4 } from 'uuid';
import { DatabaseFault } from '../../db/driver/database-fault.js';
import { AppError, catalogue } from '../../src/errors.js';
import { closeLingering, isDiscarding } from '../../src/http/lingering-close.js';
import { parserErrorCode, rawProblem, toProblem } from '../../src/http/problem.js';
import { traceIdOf } from '../../src/http/trace-context.js';

declare module 'fastify' {
  interface FastifyInstance {
    /** Called for each database fault: a reader returns a more exact error than "unavailable", if it knows one. */
    readonly faultReaders: ((fault: DatabaseFault, request: FastifyRequest) => AppError | undefined)[];
    /** Called for each error of the catalogue that is answered. */
    readonly refusalListeners: ((refusal: AppError, request: FastifyRequest) => void)[];
  }
}

export const errors = fp(
  async (app) => {
    app.decorate('faultReaders', []);
    app.decorate('refusalListeners', []);
    app.setErrorHandler((error, request, reply) => sendProblem(error, request, reply));
  },
  { name: 'errors', fastify: '5.x', dependencies: ['request-metrics'] },
);

/**
 * For Fastify's `frameworkErrors` option: errors before a route is known, such as a path that is not valid UTF-8. No hook runs
 * for these errors, so this function does the work of the hooks.
 */
export function answerFrameworkError(error: FastifyError, request: FastifyRequest, reply: FastifyReply): void {
  const { server } = request;
  void sendProblem(error, request, reply.headers(server.securityHeaders).headers(server.corsHeaders(request)));
  server.countRequest(request, reply);
  server.logRequest(request, reply);
}

/** For Fastify's `clientErrorHandler` option: bytes that are not HTTP. Fastify passes the instance as `this`. */
export function answerClientError(this: FastifyInstance, error: Error & { code?: string }, socket: Socket): void {
  // A peer that hung up cannot receive an answer, and a request gets only one.
  if (error.code === 'ECONNRESET' || !socket.writable || isDiscarding(socket)) {
    socket.destroy();
    return;
  }
  const code = parserErrorCode(error);
  this.countError(error, code, catalogue[code].status);
  socket.write(rawProblem(error, v4(), { ...this.securityHeaders, ...this.corsHeadersWithoutOrigin }));
  closeLingering(socket);
}

function sendProblem(thrown: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
  const error = (thrown instanceof DatabaseFault ? readFault(thrown, request) : undefined) ?? thrown;
  const { status, headers, body } = toProblem(error, request.id, traceIdOf(request.raw));
  if (error instanceof AppError) for (const tell of request.server.refusalListeners) tell(error, request);
  // A client that leaves while it sends its body gets no answer, and its request fails with an error of the connection.
  if (!reply.raw.destroyed) request.server.countError(error, body.code, status);
  // plugins/http/request-log.ts reads both for the line of the request.
  request.problemCode = body.code;
  if (status >= 500) request.failure = error;
  else request.log.debug({ err: error }, 'refused a request');
  return reply
    .code(status)
    .headers({ ...headers, 'x-request-id': request.id })
    .serializer((payload: unknown) => JSON.stringify(payload))
    .send(body);
}

function readFault(fault: DatabaseFault, request: FastifyRequest): AppError | undefined {
  for (const read of request.server.faultReaders) {
    const known = read(fault, request);
    if (known) return known;
  }
  return undefined;
}
