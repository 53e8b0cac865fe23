// Counts requests: those under way, each answer with its duration, and requests whose client left. What a request costs here is in
// docs/inside/performance.md: every label set is resolved once, not for each request.
import type { FastifyReply, FastifyRequest } from 'fastify';
import type { ServerResponse } from 'node:http';
import fp from 'fastify-plugin';
import { createErrorCounts, type CountError } from '../../src/http/error-counts.js';
import { closeWithConnection } from '../../src/http/queued-responses.js';

declare module 'fastify' {
  interface FastifyInstance {
    /** Counts an answered request. Call it only if no hook runs for the request. */
    readonly countRequest: (request: FastifyRequest, reply: FastifyReply) => void;
    /** Counts a request that was answered before it had a route. */
    readonly countRefused: (method: string | undefined, status: number) => void;
    /** Counts an error answer. */
    readonly countError: CountError;
  }
}

/** The durations of one label set. */
interface Duration {
  observe(seconds: number): void;
}

/** A request is counted once: as answered, or as aborted. Fastify calls no onResponse for a client that has left. */
interface Response extends ServerResponse {
  counted?: true;
}

/** The label of an address that no route has. */
const NO_ROUTE = 'none';

/** Methods that are named for unknown addresses. A client can send any method that Node's parser knows. */
const METHODS = ['GET', 'HEAD', 'POST', 'PUT', 'PATCH', 'DELETE', 'OPTIONS'];

/** Register it first among the plugins that answer, so that it counts the requests that they answer. */
export const requestMetrics = fp(
  async (app) => {
    const { instruments, traffic, busyTenants } = app.engine;
    const durations = instruments.httpRequestDuration;

    /**
     * By the configuration of the route, which each pair of method and pattern has for itself; by the method if no route has the
     * address. The index is the status.
     */
    const known = new Map<unknown, Duration[]>();
    const statusesOf = (key: unknown): Duration[] => {
      let byStatus = known.get(key);
      if (!byStatus) known.set(key, (byStatus = []));
      return byStatus;
    };
    const withoutRoute = (method: string, status: number): Duration => {
      const name = namedMethod(method);
      return (statusesOf(name)[status] ??= durations.labels(name, NO_ROUTE, String(status)));
    };
    const durationOf = (request: FastifyRequest, status: number): Duration => {
      const { is404, method } = request;
      if (is404) return withoutRoute(method, status);
      const route = request.routeOptions;
      return (statusesOf(route.config)[status] ??= durations.labels(method, route.url ?? NO_ROUTE, String(status)));
    };
    const countRequest = (request: FastifyRequest, reply: FastifyReply): void => {
      const seconds = reply.elapsedTime / 1_000;
      const status = reply.statusCode;
      durationOf(request, status).observe(seconds);
      if (request.principal?.kind === 'user') busyTenants.count(request.principal.tenantId, seconds, status >= 500);
    };
    app.decorate('countRequest', countRequest);
    app.decorate('countRefused', (method, status) => {
      withoutRoute(method ?? '', status).observe(0);
    });
    app.decorate('countError', createErrorCounts(instruments));

    /** One function for all requests: a closure for each would cost more than counting. */
    function closed(this: Response): void {
      traffic.inFlight -= 1;
      if (!this.counted) traffic.aborted += 1;
    }
    app.addHook('onRequest', (request, reply, done) => {
      traffic.inFlight += 1;
      reply.raw.on('close', closed);
      closeWithConnection(request.raw.socket, reply.raw);
      done();
    });
    app.addHook('onResponse', (request, reply, done) => {
      const response: Response = reply.raw;
      response.counted = true;
      countRequest(request, reply);
      done();
    });
  },
  { name: 'request-metrics', fastify: '5.x', dependencies: ['engine'] },
);

function namedMethod(method: string): string {
  return METHODS.includes(method) ? method : 'other';
}
