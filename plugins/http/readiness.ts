// Whether this process takes new work. A load balancer asks /health/ready; on shutdown it must hear no before the server
// stops accepting.
import fp from 'fastify-plugin';

declare module 'fastify' {
  interface FastifyInstance {
    readonly readiness: { draining: boolean };
  }
}

export const readiness = fp(
  async (app) => {
    app.decorate('readiness', { draining: false });
  },
  { name: 'readiness', fastify: '5.x' },
);
