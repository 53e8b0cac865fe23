// Sends the request's id in X-Request-Id. src/http/request-ids.ts makes it.
import fp from 'fastify-plugin';

export const requestId = fp(
  async (app) => {
    // In onSend, so that the answers of earlier plugins, such as a preflight, get the header too.
    app.addHook('onSend', (request, reply, _payload, done) => {
      reply.header('x-request-id', request.id);
      done();
    });
  },
  { name: 'request-id', fastify: '5.x' },
);
