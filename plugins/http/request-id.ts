// The request id: the client's own id if it is well formed, otherwise a new one. It is sent in X-Request-Id.
import { randomUUID } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
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

/** For Fastify's `genReqId` option. An id of any form or length would let a client write into the log. */
export function generateRequestId(request: Pick<IncomingMessage, 'headers'>): string {
  const given = request.headers['x-request-id'];
  return typeof given === 'string' && /^[\w-]{1,64}$/.test(given) ? given : randomUUID();
}
