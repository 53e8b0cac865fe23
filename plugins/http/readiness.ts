// Whether this process accepts new work. A load balancer asks /health/ready. On shutdown this must answer "no" before the server
// stops accepting connections.
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyInstance {
    readonly readiness: { draining: boolean };
  }
}

export const readiness = fp(
  async (app) => {
    const { presence } = app.engine;
    // The other replicas hear of it too.
    app.decorate('readiness', {
      get draining() {
        return presence.draining;
      },
      set draining(value) {
        presence.draining = value;
      },
    });
  },
  { name: 'readiness', fastify: '5.x', dependencies: ['engine'] },
);
