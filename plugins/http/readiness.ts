// Whether this process accepts new work. A load balancer asks /health/ready. On shutdown this must answer "no" before the server
// stops accepting connections. Meanwhile each answer closes its connection: a balancer that checks nothing, or a client that is
// connected to this replica, then goes to another one without an error.
import type { IncomingMessage, ServerResponse } from 'node:http';
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyInstance {
    readonly readiness: { draining: boolean };
  }
}

export const readiness = fp(
  async (app) => {
    const { presence } = app.engine;
    const endConnection = (_request: IncomingMessage, response: ServerResponse): void => {
      response.shouldKeepAlive = false;
    };
    // The other replicas hear of it too.
    app.decorate('readiness', {
      get draining() {
        return presence.draining;
      },
      set draining(value) {
        // Not a hook: before it begins, it costs a request nothing.
        app.server.off('request', endConnection);
        if (value) app.server.prependListener('request', endConnection);
        presence.draining = value;
      },
    });
  },
  { name: 'readiness', fastify: '5.x', dependencies: ['engine'] },
);
